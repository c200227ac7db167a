"""What an architecture costs before it is trained: parameters, GFLOPs, latency."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..errors import machine_fault
from ..host.yolov5 import Host
from .latency import Runtime, latency


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


def measure(
    model: Any,
    reference: Callable[[], Any],
    imgsz: tuple[int, int],
    runtime: Runtime,
    host: Host,
    enough: Callable[[Mapping[str, float]], bool] = lambda costs: False,
) -> tuple[dict[str, float], dict[str, Any]]:
    """All costs of a YOLOv5 model, the cheap ones first; its latency is compared with the stock architecture's.

    Args:
        reference: builds the stock model, where it is needed.
        imgsz: input sizes of the two in pixels.
        enough: whether the costs so far are enough to refuse the model; the latency is then not measured.

    Returns:
        Costs as metrics, and the conditions of the latency; where it can't be measured, the conditions hold an `error`.
    """
    costs: dict[str, float] = {"params": parameters(model), "gflops": gflops(model, imgsz[0])}
    if enough(costs):
        return costs, {}
    try:
        timed, conditions = latency(model, reference(), imgsz, runtime, host)
    except Exception as e:  # a runtime can raise anything
        if machine_fault(e):
            raise
        traceback.print_exc()
        problem = f"{e or type(e).__name__}".splitlines()[0][:400]
        return costs, {"backend": runtime.backend, "error": f"the latency backend {runtime.backend} failed: {problem}"}
    return costs | timed, conditions
