"""Make up by least squares for what a mapping of weights lost: no training, one pass over some images.

A layer's output has the same number of channels in every architecture of a space. So the convolution that writes it can
be solved to write what the same layer of the source writes, given what it now reads: fewer hidden channels, the output
of another activation, a cut kernel. After He et al. 2017 (Channel pruning for accelerating very deep neural networks,
section 3.1), with a ridge towards the mapped weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

PLACES = 8192  # of a layer's output, drawn from all images; twice as many gave the same, half as many a little less
PIXELS = 128 * 128 * 128  # of the images: 128 of 128 px, 6 of 640 px
RIDGE = 0.3  # of the mean square of what is read, for each of its numbers: the fewer places, the more it counts
SMALL = 1e-3  # share of the variance; a layer that misses no more is left as it is
LEAST = 1e-8  # a ridge that keeps a system regular where next to nothing is read


def refit(model: nn.Module, source: nn.Module, pairs: Mapping[Any, tuple[Any, Any]], images: torch.Tensor) -> None:
    """Solve convolutions of a model for what those of its source write before the activation.

    Both work in float32 and normalise by these images, so that what computes the same does so here too. The source
    stays as it is. Batch norm's statistics of the model are of no use afterwards, and to be estimated again.

    Args:
        pairs: YOLOv5's `Conv` of the model and that of the source, in the order in which images go through them.
        images: (B, 3, H, W), of 0 to 1.
    """
    pairs = {
        name: (ours, theirs)
        for name, (ours, theirs) in pairs.items()
        if is_solvable(ours) and ours.conv.weight.requires_grad
    }
    wanted = _Wanted()
    handles = [theirs.bn.register_forward_hook(wanted.keep(name)) for name, (_, theirs) in pairs.items()]
    training = model.training, source.training
    try:
        with torch.no_grad():
            with _statistics_kept(source):
                source.train()(images)
            handles += [ours.register_forward_pre_hook(wanted.solve(name)) for name, (ours, _) in pairs.items()]
            model.train()(images)
    finally:
        for handle in handles:
            handle.remove()
        model.train(training[0]), source.train(training[1])


def is_solvable(module: Any) -> bool:
    """Whether a `Conv` can be solved: its convolution has no groups and no dilation."""
    return module.conv.groups == 1 and module.conv.dilation == (1, 1)


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """Batch norms have the statistics again that they had before the block."""
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(kept[name])


class Places:
    """Some places of a layer's output, drawn from all images.

    Args:
        output: (B, c2, H, W).
        weights: (B, H, W), to which the chance of each place to be drawn is proportional; by default all are alike.
    """

    def __init__(self, output: torch.Tensor, generator: torch.Generator, weights: torch.Tensor | None = None):
        count = output.shape[0] * output.shape[2] * output.shape[3]
        if weights is None:
            drawn = torch.randperm(count, generator=generator)[:PLACES]
        else:
            weights = weights.flatten().cpu()
            drawn = torch.multinomial(weights, min(PLACES, count), replacement=True, generator=generator)
        self.indices = drawn.to(output.device)

    def of(self, output: torch.Tensor) -> torch.Tensor:
        """What is there, (places, c2)."""
        return output.movedim(1, -1).flatten(0, 2)[self.indices]

    def read_by(self, conv: nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
        """What a convolution reads of its input (B, c1, h, w) for them, (places, c1 k k)."""
        return _patches(conv, images, self.indices)


class _Wanted:
    """What the source's convolutions write, (places, c2) each, and at which places."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.outputs: dict[Any, torch.Tensor] = {}
        self.places: dict[Any, Places] = {}

    def keep(self, name: Any) -> Callable[..., None]:
        """A hook that takes what a batch norm gives, (B, c2, H, W)."""

        def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
            self.places[name] = Places(output, self.generator)
            self.outputs[name] = self.places[name].of(output)

        return hook

    def solve(self, name: Any) -> Callable[..., None]:
        """A hook that solves a `Conv` for it, given what it reads, (B, c1, h, w)."""

        def hook(module: Any, args: tuple[torch.Tensor]) -> None:
            read = self.places[name].read_by(module.conv, args[0])
            solve(module, read, self.outputs.pop(name), SMALL)

        return hook


# What a replaced layer needs, in evaluation mode ----------------------------------------------------------------------


@contextmanager
def estimating(modules: Sequence[nn.Module], but: Sequence[Any] = ()) -> Iterator[None]:
    """What goes through these modules in the block gives their batch norms their statistics.

    Args:
        but: each `Conv` among them whose statistics stay, since it is solved.
    """
    norms = [n for module in modules for n in module.modules() if isinstance(n, nn.BatchNorm2d)]
    norms = [norm for norm in norms if not any(norm is getattr(conv, "bn", None) for conv in but)]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.train().momentum = 1.0  # the batch's own
        yield
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.eval().momentum = momentum


@contextmanager
def solving(module: Any, places: Places, wanted: torch.Tensor, is_replaced: bool) -> Iterator[None]:
    """A convolution is solved for what is wanted at some places, (places, c2), when something goes through it.

    Args:
        module: a `Conv`, or one of the detection layer's own, which have no batch norm.
        is_replaced: its batch norm's statistics are of another layer. Else it is left as it is where little is missed.
    """

    def hook(module: Any, args: tuple[torch.Tensor]) -> None:
        if isinstance(module, nn.Conv2d):
            solve_head(module, places.read_by(module, args[0]), wanted)
            return
        read = places.read_by(module.conv, args[0])
        solve(module, read, wanted, 0.0 if is_replaced else SMALL, not is_replaced)

    handle = module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def normalising(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Within the block, each `Conv` of these modules takes its batch norm's statistics from what goes through it, and
    still computes what it did before.

    In evaluation mode any statistics will do. A training normalises by its batches, so with statistics of another layer
    or of other places it would start from another network than the one that was solved.
    """
    convs = [m for module in modules for m in module.modules() if isinstance(getattr(m, "bn", None), nn.BatchNorm2d)]
    handles = [conv.conv.register_forward_hook(partial(_normalise, conv.bn)) for conv in convs if hasattr(conv, "conv")]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _normalise(bn: Any, conv: nn.Module, args: Any, seen: torch.Tensor) -> None:
    """The hook: a convolution's outputs (B, c2, H, W) become what its batch norm knows."""
    mean, variance = seen.mean((0, 2, 3)), seen.var((0, 2, 3))
    was = (bn.running_var + bn.eps).sqrt()
    bn.bias.add_(bn.weight * (mean - bn.running_mean) / was)
    bn.weight.mul_((variance + bn.eps).sqrt() / was)
    bn.running_mean.copy_(mean)
    bn.running_var.copy_(variance)


# Least squares --------------------------------------------------------------------------------------------------------


def _patches(conv: nn.Conv2d, images: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """What a convolution reads for some of its outputs, (n, c1 k k).

    Args:
        places: (n), indices of the outputs in the order (B, H, W).
    """
    (k1, k2), (s1, s2), (p1, p2) = conv.kernel_size, conv.stride, conv.padding
    padded = F.pad(images, (int(p2), int(p2), int(p1), int(p1)))
    windows = padded.unfold(2, k1, s1).unfold(3, k2, s2)  # (B, c1, H, W, k, k), a view
    height, width = windows.shape[2:4]
    image, place = places // (height * width), places % (height * width)
    return windows[image, :, place // width, place % width].flatten(1)


def solve(
    module: Any, read: torch.Tensor, wanted: torch.Tensor, small: float = 0.0, by_statistics: bool = False
) -> None:
    """Least squares of a `Conv` (convolution and batch norm) with a ridge towards what it is.

    Args:
        read: (n, c1 k k).
        wanted: (n, c2), before the activation.
        small: share of the variance; a convolution that misses no more is left as it is.
        by_statistics: the ridge is towards the convolution as normalised by batch norm's own statistics, instead of
            those of what is read.
    """
    conv, bn = module.conv, module.bn
    weight, mean = conv.weight.flatten(1).float(), wanted.mean(0)
    centre = read.mean(0)
    read, wanted = read - centre, wanted - mean
    if not read.any():  # a dead layer before it, or one place alone
        return
    variance = bn.running_var if by_statistics else (read @ weight.T).var(0)
    effective = weight * (bn.weight / (variance + bn.eps).sqrt())[:, None]
    missed = wanted - read @ effective.T
    if missed.square().mean() < small * wanted.square().mean():
        return
    effective = effective + _ridge(read, missed).T
    # Batch norm undoes the scale of a convolution: its rows keep their norms, and its own scale is the wanted one.
    norms = weight.norm(dim=1) / effective.norm(dim=1)
    norms[~norms.isfinite() | (norms == 0)] = 1.0  # a filter that was pruned, or switched off, has no norm to keep
    weight = effective * norms[:, None]
    conv.weight.copy_(weight.view_as(conv.weight))
    variance = (read @ weight.T).var(0)
    bn.running_mean.copy_(weight @ centre)
    bn.running_var.copy_(variance)
    bn.weight.copy_((variance + bn.eps).sqrt() / norms)
    bn.bias.copy_(mean)


def solve_head(conv: nn.Conv2d, read: torch.Tensor, wanted: torch.Tensor) -> None:
    """As `solve`, for a convolution with a bias and without batch norm."""
    assert conv.bias is not None
    weight, mean, centre = conv.weight.flatten(1), wanted.mean(0), read.mean(0)
    read, wanted = read - centre, wanted - mean
    missed = wanted - read @ weight.T
    if missed.square().mean() < SMALL * wanted.square().mean():
        return
    weight = weight + _ridge(read, missed).T
    conv.weight.copy_(weight.view_as(conv.weight))
    conv.bias.copy_(mean - weight @ centre)


def _ridge(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the ridge regression of y (n, c2) on x (n, d), both centred: (d, c2). Solved in the smaller of n and d."""
    n, d = x.shape
    ridge = (RIDGE * x.square().sum() / n).clamp(min=LEAST)
    if d <= n:
        return torch.linalg.solve(x.T @ x + ridge * torch.eye(d, device=x.device), x.T @ y)
    return x.T @ torch.linalg.solve(x @ x.T + ridge * torch.eye(n, device=x.device), y)
