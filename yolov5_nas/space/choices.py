"""The choices of a search, and the searchable layers that they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..errors import UserError
from .architecture import Value
from .arithmetic import hidden_width, parse_kernel

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


@dataclass(frozen=True)
class ConvLayer:
    """A NASConv line with everything scaled: `c2` channels out, stride `s`, groups `g`, dilation `d`."""

    index: int
    repeats: int
    c2: int
    s: int
    g: int
    d: int
    kernel: Choice
    act: Choice

    @property
    def choices(self) -> tuple[Choice, ...]:
        return self.kernel, self.act


@dataclass(frozen=True)
class C3Layer:
    """A NASC3 line with everything scaled: `c2` channels out, `repeats` bottlenecks in the stock layer."""

    index: int
    repeats: int
    c2: int
    shortcut: bool
    g: int
    e: float
    width: Choice
    depth: Choice | None
    kernels: tuple[Choice, Choice]  # of cv1, cv2
    acts: tuple[Choice, Choice]

    @property
    def choices(self) -> tuple[Choice, ...]:
        depth = (self.depth,) if self.depth else ()
        return (self.width, *depth, self.kernels[0], self.acts[0], self.kernels[1], self.acts[1])

    def hidden(self, scale: float) -> int:
        """Hidden channels at a width scale: stock at 1.0, else rounded up to a multiple of 8."""
        return hidden_width(self.c2, self.e, scale)

    def bottlenecks(self, architecture: Mapping[str, Value]) -> int:
        """The number of bottlenecks that an architecture gives this layer."""
        return int(architecture[self.depth.label]) if self.depth else self.repeats


Layer = ConvLayer | C3Layer


def with_default(layer: Layer, values: Mapping[str, Value]) -> Layer:
    """A layer whose choices default to the values of their labels; one that is no option becomes the last.

    A C3 whose depth is no choice gets one where another depth is named.
    """

    def one(choice: Choice) -> Choice:
        value = values.get(choice.label, choice.default)
        if value == choice.default:
            return choice
        options = choice.options if value in choice.options else (*choice.options, value)
        return replace(choice, options=options, default=value, is_stock=False)

    if isinstance(layer, ConvLayer):
        return replace(layer, kernel=one(layer.kernel), act=one(layer.act))
    depth, label = layer.depth, f"c3_{layer.index}_depth"
    if depth is None and values.get(label, layer.repeats) != layer.repeats:
        depth = Choice(label, (layer.repeats,), layer.repeats, "depth")
    (k1, k2), (a1, a2) = layer.kernels, layer.acts
    return replace(
        layer,
        width=one(layer.width),
        depth=one(depth) if depth else None,
        kernels=(one(k1), one(k2)),
        acts=(one(a1), one(a2)),
    )
