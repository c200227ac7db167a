"""A trained network at other widths: its layers keep the output channels that matter most, and what reads them follows.

Plain scaling, as YOLOv5's `width_multiple` does it, but with weights. Kept channels go through Concat by its offsets,
through SPPF's four copies, and into the detection layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import torch

from ..errors import UserError
from ..space.layers import C3Layer, ConvLayer
from ..space.space import Space
from .channels import choose, importance, reading, writing
from .elastic import activation
from .mapping import with_depth, with_width
from .source import C3Weights, ConvWeights, Part, Source, convs_of_c3, state_of

Channels: TypeAlias = torch.Tensor  # (c), indices of a layer's output channels in the source
PASSING = ("Upsample", "MaxPool2d", "Identity")  # modules that give as many channels as they get


def scaled(source: Source, space: Space, target: Space) -> tuple[Source, dict[int, Channels]]:
    """A source with the outer widths of another space.

    Hidden widths and depths of searchable layers stay, and are for `inherit` to map.

    Args:
        space, target: the same model YAML at two `width_multiple`s, or `depth_multiple`s too.

    Returns:
        The source, and which of its own output channels each layer kept.

    Raises:
        UserError: a layer is one that can't be sliced.
    """
    rows = space.rows
    parts: dict[int, Part] = {}
    kept: dict[int, Channels] = {}
    widths: dict[int, int] = {}  # of the source's layers
    writers = source.writers()
    for i, row in enumerate(rows):
        sources = [i + x if x < 0 else x for x in ([row[0]] if isinstance(row[0], int) else row[0])]
        read = [kept[j] if j >= 0 else torch.arange(3) for j in sources]
        if row[2] == "Concat":
            offsets = [sum(widths[j] for j in sources[:n]) for n in range(len(sources))]
            kept[i] = torch.cat([channels + offset for channels, offset in zip(read, offsets)])
            widths[i], parts[i] = sum(widths[j] for j in sources), {}
            continue
        parts[i], channels = _Slicer(source, space, target, i).sliced(read)
        kept[i] = read[0] if channels is None else channels
        widths[i] = len(writers[i].conv.weight) if i in writers else widths.get(sources[0], 3)
    return replace(source, parts=parts), kept


class _Slicer:
    """One layer of a source, to be sliced for another space."""

    def __init__(self, source: Source, space: Space, target: Space, i: int):
        self.part, self.module, self.importances, self.index = source.parts[i], source.ends[i], source.importances, i
        self.row = space.rows[i]
        self.wanted, self.target = target.layers.get(i), target

    def sliced(self, read: Sequence[Channels]) -> tuple[Part, Channels | None]:
        """The layer's weights that read these channels, and which of its outputs they give; None: what is read."""
        if isinstance(self.part, C3Weights):
            assert isinstance(self.wanted, C3Layer)
            return self._c3(self.part, read[0], self.wanted.c2)
        if isinstance(self.part, tuple):
            assert isinstance(self.wanted, ConvLayer)
            return self._convs(self.part, read[0], self.wanted.c2)
        kind = type(self.module).__name__
        if kind in PASSING:
            return self.part, None
        if kind == "Detect":
            weights = {f"m.{j}.weight": self.part[f"m.{j}.weight"][:, channels] for j, channels in enumerate(read)}
            return {**self.part, **weights}, None
        if kind == "Conv":
            (conv,), channels = self._convs((self._of(self.module),), read[0], self._c2)
            return conv.state(), channels
        if kind == "SPPF":
            return self._sppf(read[0], self._c2)
        if kind == "C3":
            c3, channels = self._c3(self._c3_of_module(), read[0], self._c2)
            shortcut, multiples = bool(self.module.m[0].add), self.target.multiples
            hidden = int(self._c2 * (self.row[3][3] if len(self.row[3]) > 3 else 0.5))
            c3 = with_depth(c3, multiples.repeats(self.row[1]), shortcut, activation(multiples.default_act))
            return state_of(with_width(c3, hidden, shortcut)), channels
        raise self._fail()

    def _fail(self, why: str = "") -> UserError:
        rule = " ".join(f"layer {self.index} ({self.row[2]}) {why} can't be sliced to another width".split())
        return UserError(rule, file=Path(self.target.source))

    @property
    def _c2(self) -> int:
        return self.target.multiples.channels(self.row[3][0])

    def _of(self, conv: Any) -> ConvWeights:
        return ConvWeights.of(conv, self.importances)

    def _c3_of_module(self) -> C3Weights:
        c3 = self.module
        return C3Weights.of(convs_of_c3(c3.cv1, c3.cv2, c3.cv3, c3.m), lambda _, conv: self._of(conv))

    def _convs(
        self, convs: tuple[ConvWeights, ...], read: Channels, c2: int
    ) -> tuple[tuple[ConvWeights, ...], Channels]:
        found = []
        for conv in convs:
            if conv.g > 1:
                raise self._fail("has groups, and")
            chosen = _chosen(conv, c2)
            found.append(reading(writing(conv, chosen), read))
            read = chosen
        return tuple(found), read

    def _c3(self, c3: C3Weights, read: Channels, c2: int) -> tuple[C3Weights, Channels]:
        chosen = _chosen(c3.cv3, c2)
        cv1, cv2 = reading(c3.cv1, read), reading(c3.cv2, read)
        return replace(c3, cv1=cv1, cv2=cv2, cv3=writing(c3.cv3, chosen)), chosen

    def _sppf(self, read: Channels, c2: int) -> tuple[Part, Channels]:
        cv1, cv2 = self._of(self.module.cv1), self._of(self.module.cv2)
        old = len(cv1.weight)
        copies = cv2.weight.shape[1] // old  # of what cv1 writes, pooled differently
        hidden = choose(importance(cv1, cv2.weight.unflatten(1, (copies, old)).flatten(0, 1)), len(read) // 2)
        every = torch.cat([hidden + old * n for n in range(copies)])
        chosen = _chosen(cv2, c2)
        cv1, cv2 = reading(writing(cv1, hidden), read), reading(writing(cv2, chosen), every)
        both = {"cv1": cv1, "cv2": cv2}
        return {f"{name}.{key}": v for name, conv in both.items() for key, v in conv.state().items()}, chosen


def _chosen(conv: ConvWeights, c2: int) -> Channels:
    """Which outputs are kept of a convolution that many others read."""
    return choose(conv.bn["weight"].abs() if conv.importance is None else conv.importance.loss, c2, conv.g)
