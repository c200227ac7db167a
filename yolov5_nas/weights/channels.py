"""Which channels of a convolution are kept or repeated, and what becomes of the one that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from .importance import Importance
from .source import ConvWeights

FLOOR = 1e-3  # of the mean variance, which is added to each channel's: what is told apart by less is a copy


def importance(conv: ConvWeights, reader: torch.Tensor, g: int = 1) -> torch.Tensor:
    """How much each output of a convolution counts, (c2,): what is known of it, else its scale (Liu et al. 2017,
    Learning efficient convolutional networks through network slimming) times the weights that read it.

    Args:
        reader: weights (c2', c2 / g, k, k) of the convolution that reads it, of `g` groups.
    """
    if conv.importance is not None:
        return conv.importance.loss
    squares = reader.square().sum((2, 3)).reshape(g, -1, reader.shape[1]).sum(1)  # (g, c2 / g)
    return conv.bn["weight"].abs() * squares.sqrt().flatten()


def choose(score: torch.Tensor, c: int, g: int = 1, by_importance: bool = False) -> torch.Tensor:
    """The old channel that each of `c` new ones copies: the most important; or all, and the most important repeated.

    Channels stay in their group (of `g`), in their old order or, with `by_importance`, the most important first.
    """
    old, new = len(score) // g, c // g
    ranked = score.reshape(g, old).argsort(dim=1, descending=True, stable=True)
    chosen = ranked[:, :new] if by_importance else ranked[:, :new].sort(1).values
    if new > old:
        chosen = torch.cat((chosen, ranked[:, torch.arange(new - old) % old]), 1)
    return (chosen + old * torch.arange(g)[:, None]).flatten()


def select(known: Sequence[Importance], c: int) -> torch.Tensor:
    """Return the `c` channels to keep of convolutions that share them, dropping one after the other.

    The next to go is the one whose loss is least: its importance times the share of its variance that the others don't
    predict. Its importance moves to those that predict it. So of channels that are copies one is kept.

    Args:
        known: of each convolution whose outputs are added or read together.
    """
    losses = torch.stack([one.loss / one.loss.sum().clamp(min=1e-30) for one in known]).double()  # (convs, channels)
    second = torch.stack([one.covariance for one in known]).double()
    variance = second.diagonal(dim1=1, dim2=2).clone()
    floor = FLOOR * variance.mean(1, keepdim=True) + 1e-12
    inverse = torch.linalg.inv(second + torch.diag_embed(floor.expand_as(variance)))
    is_kept = torch.ones(losses.shape[1], dtype=torch.bool)
    for _ in range(losses.shape[1] - c):
        precision = inverse.diagonal(dim1=1, dim2=2)
        missed = losses / ((variance + floor) * precision)
        worst = int(missed.sum(0).masked_fill(~is_kept, torch.inf).argmin())
        is_kept[worst] = False
        row = inverse[:, worst].clone()
        weight = (row / row[:, worst : worst + 1]) ** 2 * variance / (variance[:, worst : worst + 1] + floor)
        losses += losses[:, worst : worst + 1] * weight * is_kept
        inverse -= row[:, :, None] * row[:, None] / row[:, worst, None, None]
        inverse[:, worst, worst] = 1.0
    return torch.nonzero(is_kept).flatten()


def writing(conv: ConvWeights, channels: torch.Tensor) -> ConvWeights:
    """A convolution with these of its output channels."""
    bn = {name: value[channels] if value.ndim else value for name, value in conv.bn.items()}
    importance = conv.importance and conv.importance.of(channels)
    origins = None if conv.channels is None else conv.channels[channels]
    return replace(conv, weight=conv.weight[channels], bn=bn, importance=importance, channels=origins)


def reading(conv: ConvWeights, channels: torch.Tensor, once: bool = False) -> ConvWeights:
    """A convolution that reads these channels of its input; a repeated channel's weights are split among its copies.

    Each output splits them in its own way, at random, so that equal channels learn to differ; or, with `once`, reads
    only the first copy.
    """
    groups = zip(conv.weight.chunk(conv.g), channels.chunk(conv.g))
    c1 = conv.weight.shape[1]
    share = _first_read if once else _shared_out
    return replace(conv, weight=torch.cat([share(w, chosen % c1, c1) for w, chosen in groups]))


def _shared_out(weight: torch.Tensor, channels: torch.Tensor, c1: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shares = torch.rand(len(weight), len(channels), generator=generator, dtype=weight.dtype) + 0.5
    total = torch.zeros(len(weight), c1, dtype=weight.dtype).index_add(1, channels, shares)
    return weight[:, channels] * (shares / total[:, channels])[:, :, None, None]


def _first_read(weight: torch.Tensor, channels: torch.Tensor, c1: int) -> torch.Tensor:
    is_first = torch.tensor([c not in channels[:i] for i, c in enumerate(channels)])
    return weight[:, channels] * is_first[:, None, None]
