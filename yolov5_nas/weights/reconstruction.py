"""What a mapping of weights could not keep, made up for by least squares: no training, one pass over some images.

A layer's output has as many channels in every architecture of a space. So the convolution that writes it can be solved
for what the same layer of the source writes, given what it really reads: hidden channels that are left, another
activation before it, a cut kernel. After He et al. 2017 (Channel pruning for accelerating very deep neural networks,
section 3.1), with a ridge towards the mapped weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

PLACES = 8192  # of a layer's output, drawn from all images; twice as many gave the same, half as many a little less
PIXELS = 128 * 128 * 128  # of the images: 128 of 128 px, 6 of 640 px
RIDGE = 0.3  # of the mean square of what is read, for each of its numbers: the fewer places, the more it counts
SMALL = 1e-3  # share of the variance; a layer that misses no more is left as it is


def refit(model: nn.Module, source: nn.Module, pairs: Mapping[Any, tuple[Any, Any]], images: torch.Tensor) -> None:
    """Solve convolutions of a model for what those of its source write before the activation.

    Both work in float32 and normalise by these images, so that what computes the same does so here too. Batch norm's
    statistics of both are of no use afterwards: those of the model are to be estimated again.

    Args:
        pairs: YOLOv5's `Conv` of the model and that of the source, in the order in which images go through them.
        images: (B, 3, H, W), of 0 to 1.
    """
    pairs = {name: (ours, theirs) for name, (ours, theirs) in pairs.items() if _can_be_solved(ours)}
    wanted = _Wanted()
    handles = [theirs.bn.register_forward_hook(wanted.keep(name)) for name, (_, theirs) in pairs.items()]
    training = model.training, source.training
    try:
        with torch.no_grad():
            source.train()(images)
            handles += [ours.register_forward_pre_hook(wanted.solve(name)) for name, (ours, _) in pairs.items()]
            model.train()(images)
    finally:
        for handle in handles:
            handle.remove()
        model.train(training[0]), source.train(training[1])


def _can_be_solved(module: Any) -> bool:
    conv = module.conv
    return conv.groups == 1 and conv.dilation == (1, 1) and conv.weight.requires_grad


class _Wanted:
    """What the source's convolutions write, (places, c2) each, and at which places."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.outputs: dict[Any, torch.Tensor] = {}
        self.places: dict[Any, torch.Tensor] = {}

    def keep(self, name: Any) -> Callable[..., None]:
        """A hook that takes what a batch norm gives, (B, c2, H, W)."""

        def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
            every = output.movedim(1, -1).flatten(0, 2)  # (B H W, c2)
            places = torch.randperm(len(every), generator=self.generator)[:PLACES].to(output.device)
            self.places[name], self.outputs[name] = places, every[places]

        return hook

    def solve(self, name: Any) -> Callable[..., None]:
        """A hook that solves a `Conv` for it, given what it reads, (B, c1, h, w)."""

        def hook(module: Any, args: tuple[torch.Tensor]) -> None:
            _solve(module, _patches(module.conv, args[0], self.places[name]), self.outputs.pop(name))

        return hook


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


def _solve(module: Any, read: torch.Tensor, wanted: torch.Tensor) -> None:
    """Least squares of a `Conv` (convolution and batch norm) with a ridge towards what it is.

    Args:
        read: (n, c1 k k).
        wanted: (n, c2), before the activation.
    """
    conv, bn = module.conv, module.bn
    weight, mean = conv.weight.flatten(1).float(), wanted.mean(0)
    read, wanted = read - read.mean(0), wanted - mean
    effective = weight * (bn.weight / ((read @ weight.T).var(0) + bn.eps).sqrt())[:, None]
    missed = wanted - read @ effective.T
    if missed.square().mean() < SMALL * wanted.square().mean():
        return
    effective = effective + _ridge(read, missed).T
    # Batch norm undoes the scale of a convolution: its rows keep their norms, and its own scale is the wanted one.
    norms = weight.norm(dim=1) / effective.norm(dim=1).clamp(min=1e-12)
    conv.weight.copy_((effective * norms[:, None]).view_as(conv.weight))
    bn.weight.copy_((read @ effective.T).std(0))
    bn.bias.copy_(mean)


def _ridge(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Ridge regression of y (n, c2) on x (n, d), both centred: (d, c2). Solved in the smaller of n and d."""
    n, d = x.shape
    ridge = RIDGE * x.square().sum() / n
    if d <= n:
        return torch.linalg.solve(x.T @ x + ridge * torch.eye(d, device=x.device), x.T @ y)
    return x.T @ torch.linalg.solve(x @ x.T + ridge * torch.eye(n, device=x.device), y)
