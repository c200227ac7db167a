"""What an architecture costs on paper: parameters and multiply-adds, in less than a millisecond and without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from .architecture import Value
from .arithmetic import autopad
from .compile import stock_lines
from .space import Space


class Map(NamedTuple):
    """What a layer gives: channels, and the side of a square in pixels."""

    channels: int
    side: int


class Count:
    """Parameters and multiply-adds of a network that is put together layer by layer."""

    def __init__(self) -> None:
        self.params = self.multiply_adds = 0

    @property
    def costs(self) -> dict[str, float]:
        """As metrics: `params`, and `gflops` (2 x multiply-adds / 1e9) for one image."""
        return {"params": self.params, "gflops": 2 * self.multiply_adds / 1e9}

    def conv(self, x: Map, c2: int, k: int = 1, s: int = 1, p: int | None = None, g: int = 1, d: int = 1) -> Map:
        """YOLOv5's `Conv`, with its batch norm."""
        side = (x.side + 2 * autopad(k, p, d) - d * (k - 1) - 1) // s + 1
        weights = x.channels * c2 * k * k // g
        self.params += weights + 2 * c2
        self.multiply_adds += weights * side**2
        return Map(c2, side)

    def bottleneck(self, x: Map, c2: int, shortcut: bool = True, g: int = 1, e: float = 0.5) -> Map:
        """YOLOv5's `Bottleneck`."""
        return self.conv(self.conv(x, int(c2 * e)), c2, 3, g=g)

    def c3(self, x: Map, n: int, c2: int, shortcut: bool = True, g: int = 1, e: float = 0.5) -> Map:
        """YOLOv5's `C3` with n bottlenecks."""
        hidden = int(c2 * e)
        inner = self.conv(x, hidden)
        for _ in range(n):
            inner = self.bottleneck(inner, hidden, shortcut, g, 1.0)
        self.conv(x, hidden)
        return self.conv(Map(2 * hidden, x.side), c2)

    def sppf(self, x: Map, c2: int, k: int = 5) -> Map:
        """YOLOv5's `SPPF`."""
        hidden = self.conv(x, x.channels // 2)
        return self.conv(Map(4 * hidden.channels, x.side), c2)

    def detect(self, inputs: Sequence[Map], outputs: int) -> None:
        """YOLOv5's `Detect`, of `outputs` numbers at each place."""
        for x in inputs:
            self.params += x.channels * outputs + outputs
            self.multiply_adds += x.channels * outputs * x.side**2


def count(space: Space, architecture: Mapping[str, Value], imgsz: int) -> dict[str, float]:
    """Parameters and GFLOPs of an architecture, as `cost.measure` finds them in its network.

    Args:
        imgsz: input size in pixels; an architecture that names one has that.

    Returns:
        `params` and `gflops`.

    Raises:
        KeyError: the YAML has a layer whose cost is not known here.
    """
    total, found = Count(), list[Map]()
    image = Map(3, int(architecture.get("imgsz", imgsz)))
    for i, (_, _, (f, n, module, args)) in enumerate(stock_lines(space, architecture)):
        args = [{"None": None, "True": True, "False": False}.get(a, a) if isinstance(a, str) else a for a in args]
        read = [found[j] if j >= 0 else found[i + j] if i else image for j in (f if isinstance(f, list) else [f])]
        try:
            found.append(_layer(total, space, module, n, args, read))
        except (TypeError, ValueError):  # of a form that is rare, such as a kernel that is no square
            raise KeyError(module) from None
    return total.costs


def _layer(total: Count, space: Space, module: str, n: int, args: Sequence[Any], read: Sequence[Map]) -> Map:
    """Add the cost of one line of a stock YAML, with widths and repeats already scaled, and return its output."""
    x = read[0]
    repeated: dict[str, Callable[..., Map]] = {"Conv": total.conv, "Bottleneck": total.bottleneck, "SPPF": total.sppf}
    if module in repeated:
        for _ in range(n):
            x = repeated[module](x, *args[:6])  # what follows is an activation
        return x
    if module == "C3":
        return total.c3(x, n, *args)
    if module == "Concat":
        return Map(sum(one.channels for one in read), x.side)
    if module == "nn.Upsample":
        return Map(x.channels, int(x.side * args[1]))
    if module == "Detect":
        anchors = space.yaml["anchors"]
        places = len(anchors[0]) // 2 if isinstance(anchors, list) else anchors
        total.detect(read, places * (space.yaml["nc"] + 5))
        return x
    raise KeyError(module)
