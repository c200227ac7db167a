"""Batch norm's statistics, estimated again."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

BATCHES = 8  # of training images, from which batch norm statistics are estimated again


def estimate_batch_norm(model: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Set batch norm's running statistics to their mean over batches of images (B, 3, H, W)."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta, training = [bn.momentum for bn in norms], model.training
    for bn in norms:
        bn.reset_running_stats()
        bn.momentum = None  # a plain mean
    model.train()
    with torch.no_grad():
        for images in batches:
            model(images)
    model.train(training)
    for bn, momentum in zip(norms, momenta):
        bn.momentum = momentum
