"""The choices of a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..errors import UserError
from .architecture import Value
from .arithmetic import parse_kernel

Kind = Literal["kernel", "width", "depth", "act", "imgsz", "scale"]


@dataclass(frozen=True)
class Choice:
    """One decision of the search.

    Args:
        label: its name in an architecture.
        options: the values that it can have, in order.
        default: the one that stock YOLOv5 has, or where that is no option, the first.
        kind: what it decides.
        is_stock: whether the default is what stock YOLOv5 has.
    """

    label: str
    options: tuple[Value, ...]
    default: Value
    kind: Kind
    is_stock: bool = True

    def __post_init__(self) -> None:
        if not self.options or len(set(self.options)) != len(self.options):
            raise UserError(f"the options of {self.label} must be at least one and all different", got=self.options)
        if self.default not in self.options:
            raise UserError(f"the default of {self.label} must be one of its options", got=self.default)

    def extreme(self, pick: Any) -> Value:
        """The option with the fewest weights (`pick` is min) or the most (max); of those without, the default."""
        sizes: dict[Kind, Any] = {
            "kernel": lambda o: parse_kernel(o)[0],
            "width": float,
            "depth": float,
            "imgsz": float,
            "scale": float,
        }
        return self.default if self.kind == "act" else pick(self.options, key=sizes[self.kind])  # type: ignore[no-any-return]
