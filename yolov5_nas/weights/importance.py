"""How much each channel of a trained network matters, and what the others tell of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn


@dataclass(frozen=True)
class Importance:
    """Importance of the output channels of a `Conv`.

    Args:
        loss: (c2,), how much the loss would change without each, to first order.
        covariance: (c2, c2), of the outputs over images and places.
    """

    loss: torch.Tensor
    covariance: torch.Tensor

    def of(self, channels: torch.Tensor) -> Importance:
        """Return that of some channels."""
        return Importance(self.loss[channels], self.covariance[channels][:, channels])

    def cpu(self) -> Importance:
        """Return it in the CPU's memory."""
        return Importance(self.loss.cpu(), self.covariance.cpu())


Importances: TypeAlias = Mapping[nn.Module, Importance]


def taylor(
    model: Any,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    loss: Callable[[Any, torch.Tensor], torch.Tensor],
) -> dict[nn.Module, Importance]:
    """Return the importance of each output channel of each `Conv`.

    That for the loss is the square of the sum over places of activation times gradient, summed over the images
    (Molchanov et al. 2019, Importance estimation for neural network pruning, eq. 8, at the activations).

    Args:
        model: in evaluation mode; its weights stay as they are.
        batches: images (B, 3, H, W) of 0 to 1, with the targets that `loss` takes after the raw outputs of the
            detection layer.
    """
    outputs: dict[nn.Module, torch.Tensor] = {}
    sums: dict[nn.Module, _Sums] = {}

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
                    sums.setdefault(module, _Sums()).add(output.detach(), output.grad)
                outputs.clear()
    finally:
        for handle in handles:
            handle.remove()
    return {module: own.importance() for module, own in sums.items()}


class _Sums:
    """Sums over batches of what an `Importance` is made of."""

    def __init__(self) -> None:
        self.count, self.loss, self.first, self.second = 0, *[torch.zeros(())] * 3

    def add(self, output: torch.Tensor, gradient: torch.Tensor) -> None:
        """Add a batch, (B, c2, H, W) each."""
        flat = output.movedim(1, 0).flatten(1)  # (c2, B H W)
        self.count += flat.shape[1]
        self.loss = self.loss.to(flat.device) + (output * gradient).sum((2, 3)).square().sum(0)
        self.first = self.first.to(flat.device) + flat.sum(1)
        self.second = self.second.to(flat.device) + flat @ flat.T

    def importance(self) -> Importance:
        mean = self.first / self.count
        return Importance(self.loss, self.second / self.count - mean[:, None] * mean)
