"""The choices of a search."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from .architecture import Value


@dataclass(frozen=True)
class Choice:
    """One decision of the search.

    Args:
        label: its name in an architecture.
        options: the values that it can have, in order.
        default: the one that stock YOLOv5 has, or where that is no option, the first.
        is_stock: whether the default is what stock YOLOv5 has.
    """

    label: str
    options: tuple[Value, ...]
    default: Value
    is_stock: bool = True

    def __post_init__(self) -> None:
        if not self.options or len(set(self.options)) != len(self.options):
            raise UserError(f"the options of {self.label} must be at least one and all different", got=self.options)
        if self.default not in self.options:
            raise UserError(f"the default of {self.label} must be one of its options", got=self.default)

    def extreme(self, pick: Any) -> Value:
        """The option with the fewest weights (`pick` is min) or the most (max); of those without, the default."""
        return pick(self.options, key=size_of) if self.is_sized else self.default  # type: ignore[no-any-return]

    @property
    def is_sized(self) -> bool:
        """Whether its options are larger and smaller ones."""
        return all(size_of(option) is not None for option in self.options)


def size_of(option: Value) -> float | None:
    """A number, or the kernel of `k6p2`, of which more has more weights; None for what has no size, as activations."""
    if isinstance(option, str):
        kernel = re.fullmatch(r"k(\d+)p\d+", option)
        return float(kernel[1]) if kernel else None
    return None if isinstance(option, bool) else float(option)
