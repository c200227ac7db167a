"""What YOLOv5's parser makes of a layer's numbers: kernels and paddings, widths, repeats, activations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .activations import activation_name
from .architecture import Value

# The modules whose first argument YOLOv5's parse_model scales by width_multiple, over all supported versions. A search
# asks its host (`run.check_model`); a model YAML's `scaled_modules` are what it found to differ.
SCALED_MODULES = frozenset(
    (
        *("Conv", "GhostConv", "Bottleneck", "GhostBottleneck", "SPP", "SPPF", "DWConv", "MixConv2d", "Focus"),
        *("CrossConv", "BottleneckCSP", "C3", "C3TR", "C3SPP", "C3Ghost", "nn.ConvTranspose2d", "DWConvTranspose2d"),
        *("C3x", "NASConv", "NASC3"),
    )
)


def make_divisible(x: float, divisor: int = 8) -> int:
    """`x` rounded up to a multiple of `divisor`, as YOLOv5 rounds widths."""
    return math.ceil(x / divisor) * divisor


def autopad(k: int, p: int | None = None, d: int = 1) -> int:
    """YOLOv5's padding of a kernel where none is given."""
    return (d * (k - 1) + 1) // 2 if p is None else p


def hidden_width(c2: int, e: float, scale: float) -> int:
    """Hidden channels of a C3 with `c2` outputs and expansion `e`, at a width scale."""
    stock = int(c2 * e)
    return stock if scale == 1.0 else make_divisible(stock * scale)


def kernel_name(k: int, p: int) -> str:
    """A kernel option as it is written: `k6p2`."""
    return f"k{k}p{p}"


def parse_kernel(name: Value) -> tuple[int, int]:
    """Kernel and padding of `k6p2`: (6, 2)."""
    k, p = str(name)[1:].split("p")
    return int(k), int(p)


def same_output(k: int, p: int, given: tuple[int, int], s: int, d: int = 1) -> bool:
    """Whether kernel `k` with padding `p` keeps the output size of the given (kernel, padding).

    The size is floor((H + 2p - d(k-1) - 1) / s) + 1. Inside a YOLOv5 model H is a multiple of the stride s, since
    the input is a multiple of the largest stride, so H drops out of the comparison.
    """

    def offset(kk: int, pp: int) -> int:
        return (2 * pp - d * (kk - 1) - 1) // s

    return offset(k, p) == offset(*given)


class Multiples:
    """What parse_model does to a layer's numbers: width and depth multiples, and the YAML's own activation."""

    def __init__(self, model: Mapping[str, Any]):
        self.model = model
        self.scaled = frozenset(model.get("scaled_modules", SCALED_MODULES))
        self.default_act = activation_name(model.get("activation") or "nn.SiLU()") or ""

    def channels(self, c2: int) -> int:
        """Output channels as parse_model scales them (it leaves the width of a detection output as it is)."""
        anchors = self.model["anchors"]
        na = len(anchors[0]) // 2 if isinstance(anchors, list) else anchors
        return c2 if c2 == na * (self.model["nc"] + 5) else self.width(c2)

    def width(self, c: int) -> int:
        """A width as `width_multiple` scales it, rounded up to a multiple of 8."""
        return make_divisible(c * self.model["width_multiple"])

    def repeats(self, number: int) -> int:
        """Repeats as parse_model scales them."""
        return max(round(number * self.model["depth_multiple"]), 1) if number > 1 else number


def plain_kernels(k: int, s: int, p: int | None = None, d: int = 1) -> tuple[str, ...]:
    """The kernel options of a NASConv without a mapping: the given one, then k-2 and k+2 at each padding that fits.

    >>> plain_kernels(6, 2, 2), plain_kernels(3, 2)
    (('k6p2', 'k4p1', 'k8p3'), ('k3p1', 'k5p2'))
    """
    given = (k, autopad(k, p, d))
    options = [kernel_name(*given)]
    for kk in (k - 2, k + 2):
        for pad in range(given[1] + (0 if p is None else -p), given[1] + 4):
            if kk >= 1 and same_output(kk, pad, given, s, d):
                options.append(kernel_name(kk, pad))
    return tuple(options)


def is_number(x: Any) -> bool:
    """Whether YAML gave a number."""
    return isinstance(x, (int, float)) and not isinstance(x, bool)
