"""How much each channel of a trained network counts, by what its loss would lose with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import nn

Counts: TypeAlias = Mapping[nn.Module, torch.Tensor]  # of each `Conv`, (c2,)


def taylor(
    model: Any,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    loss: Callable[[Any, torch.Tensor], torch.Tensor],
) -> dict[nn.Module, torch.Tensor]:
    """The importance of each output channel of each `Conv`: how much the loss would change without it, to first order.

    The square of the sum over places of activation times gradient, summed over the images (Molchanov et al. 2019,
    Importance estimation for neural network pruning, eq. 8, at the activations).

    Args:
        model: in evaluation mode; its weights stay as they are.
        batches: images (B, 3, H, W) of 0 to 1 with what `loss` takes beside the raw outputs of the detection layer.

    Returns:
        By module, (c2,).
    """
    outputs: dict[nn.Module, torch.Tensor] = {}
    counts: dict[nn.Module, torch.Tensor] = {}

    def keep(module: nn.Module, args: Any, output: torch.Tensor) -> None:
        output.retain_grad()
        outputs[module] = output

    handles = [m.register_forward_hook(keep) for m in model.modules() if hasattr(m, "conv") and hasattr(m, "bn")]
    try:
        with torch.enable_grad():
            for images, targets in batches:
                loss(model(images.clone().requires_grad_())[1], targets).backward()
                for module, output in outputs.items():
                    assert output.grad is not None
                    share = (output.detach() * output.grad).sum((2, 3)).square().sum(0)
                    counts[module] = counts.get(module, torch.zeros_like(share)) + share
                outputs.clear()
    finally:
        for handle in handles:
            handle.remove()
    return counts
