"""The names of metrics, what is better (more or less), and where latency can be measured."""

from __future__ import annotations

from collections.abc import Iterable

from .errors import UserError

ACCURACIES = ("map50_95", "map50", "precision", "recall")  # known after training; more is better
COSTS = ("latency_ratio", "latency_ms", "gflops", "params")  # known before training; less is better
LATENCIES = ("latency_ratio", "latency_ms")
BACKENDS = ("pytorch", "torchscript", "onnx", "openvino", "engine")  # where latency can be measured


def is_maximised(metric: str) -> bool:
    """Whether more of a metric is better; what is no accuracy is a cost."""
    return metric in ACCURACIES


def check_objectives(metrics: Iterable[str]) -> tuple[str, ...]:
    """Two or more different metrics that a search makes better together.

    Raises:
        UserError: one is unknown or named twice, or there is only one.
    """
    metrics = tuple(metrics)
    for metric in metrics:
        if metric not in ACCURACIES + COSTS:
            raise UserError("an objective must be a metric", got=metric, accepted=ACCURACIES + COSTS)
    if len(metrics) < 2 or len(set(metrics)) < len(metrics):
        raise UserError("--objectives must be two or more different metrics (for one, there is --reward)", got=metrics)
    return metrics
