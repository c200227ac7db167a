"""What an architecture costs: parameters, GFLOPs, and latency measured in turn with the stock architecture."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from .host import Host

WARM_UP = 5  # runs of each model before the clock starts
PAIRS = (20, 60)  # at least, at most
SECONDS = 6.0  # no further pair is timed after this, once there are enough


def parameters(model: torch.nn.Module) -> int:
    """Number of parameters, batch norms included, as YOLOv5 counts them (before fusing)."""
    return sum(p.numel() for p in model.parameters())


def gflops(model: torch.nn.Module, imgsz: int) -> float:
    """2 x multiply-adds / 1e9 of convolutions and matrix products, for one image of `imgsz` x `imgsz` pixels."""
    weight = next(model.parameters())
    image = torch.zeros(1, 3, imgsz, imgsz, device=weight.device, dtype=weight.dtype)
    training = model.training
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(image)
    model.train(training)
    return counter.get_total_flops() / 1e9


def latency(model: torch.nn.Module, reference: torch.nn.Module, imgsz: int, batch: int = 1) -> dict[str, float]:
    """Time of a forward pass of two fused models, measured in turn so that a noisy machine slows both.

    Args:
        model, reference: in eval mode on the same device.
        imgsz: side of the square input in pixels.
        batch: images per forward pass.

    Returns:
        `latency_ms`: median milliseconds of a pass of `model`.
        `latency_ratio`: median over pairs of passes of time of `model` / time of `reference`, the order alternating.
        `latency_spread`: interquartile range of these ratios / their median; small means trustworthy.
    """
    weight = next(model.parameters())
    image = torch.zeros(batch, 3, imgsz, imgsz, device=weight.device, dtype=weight.dtype)
    synchronise: Callable[[], Any] = torch.cuda.synchronize if weight.is_cuda else lambda: None

    def milliseconds(timed: torch.nn.Module) -> float:
        synchronise()
        start = time.perf_counter()
        timed(image)
        synchronise()
        return (time.perf_counter() - start) * 1e3

    with torch.inference_mode():
        for _ in range(WARM_UP):
            milliseconds(model), milliseconds(reference)
        own, other = [], []
        start = time.perf_counter()
        for pair in range(PAIRS[1]):
            if pair >= PAIRS[0] and time.perf_counter() - start > SECONDS:
                break
            order = (model, reference) if pair % 2 else (reference, model)
            first, second = milliseconds(order[0]), milliseconds(order[1])
            own.append(first if order[0] is model else second)
            other.append(second if order[0] is model else first)
    ratios = np.array(own) / np.array(other)
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    return {
        "latency_ms": float(np.median(own)),
        "latency_ratio": float(middle),
        "latency_spread": float((high - low) / middle),
    }


def measure(model: Any, reference: Any, imgsz: int, device: torch.device, host: Host) -> dict[str, float]:
    """All costs of a YOLOv5 model beside those of the stock architecture's, as metrics."""
    costs: dict[str, float] = {"params": parameters(model), "gflops": gflops(model, imgsz)}
    with host.quiet():
        fused = [deepcopy(m).to(device).float().eval().fuse() for m in (model, reference)]
    return costs | latency(fused[0], fused[1], imgsz)
