"""The names of metrics, what is better (more or less), and where latency can be measured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..errors import UserError

ACCURACIES = ("map50_95", "map50", "precision", "recall")  # known after training; more is better
COSTS = ("latency_ratio", "latency_ms", "gflops", "params")  # known before training; less is better
# Names that a hook can't give to a metric: those of our own metrics, and of the other columns of `results.csv`.
TAKEN = (
    *(*ACCURACIES, *COSTS, "latency_p95_ms", "latency_spread", "latency_error", "batch_size"),
    *("number", "id", "state", "reward", "seconds", "reason", "message"),
)
LEARNT = 0.01  # mAP50-95 below which a model detects nothing to speak of
LATENCIES = ("latency_ratio", "latency_ms")
ERROR_BOUND = 0.02  # half of a latency's 95 % interval, as a share of it, above which the measurement is noisy
NORMAL_95 = 1.96  # half of a 95 % interval, in standard deviations; "latency_error" is such a half


class Shown(NamedTuple):
    """How a metric is shown to people: the heading of its column, the label of its axis, the format of its number."""

    heading: str
    axis: str
    number: str


SHOWN = {  # in the order of the columns
    "map50_95": Shown("mAP50-95", "mAP50-95", "{:.3f}"),
    "map50": Shown("mAP50", "mAP50", "{:.3f}"),
    "latency_ms": Shown("latency ms", "latency (ms)", "{:.2f}"),
    "latency_ratio": Shown("x stock", "latency / latency of stock YOLOv5", "{:.2f}"),
    "gflops": Shown("GFLOPs", "GFLOPs", "{:.3f}"),
    "params": Shown("parameters", "parameters", "{:,.0f}"),
}
# What each latency backend needs besides torch and YOLOv5. Their names are YOLOv5's (`export.py --include`).
PACKAGES: dict[str, tuple[str, ...]] = {
    "pytorch": (),
    "torchscript": (),
    "onnx": ("onnx", "onnxruntime"),
    "openvino": ("onnx", "openvino"),
    "engine": ("onnx", "tensorrt"),
}
BACKENDS = tuple(PACKAGES)
PRECISIONS = ("fp32", "fp16", "int8")
QUANTISERS = {"onnx": "onnxruntime", "openvino": "nncf"}  # the package that makes a backend's files INT8


def is_maximised(metric: str) -> bool:
    """Whether more of a metric is better; what is no accuracy is a cost."""
    return metric in ACCURACIES


def axis_label(metric: str) -> str:
    """What a metric is called along an axis, and in words."""
    return SHOWN[metric].axis if metric in SHOWN else metric


def is_own(metric: str) -> bool:
    """Whether a metric can only be one that a hook measures; these are costs."""
    return metric.isidentifier() and metric not in TAKEN


def check_cost(metric: str, rule: str, own: bool) -> None:
    """Raise a UserError unless a metric is a cost: one of ours, or where `own` is true one that a hook may measure."""
    if metric not in COSTS and not (own and is_own(metric)):
        raise UserError(rule, got=metric, accepted=(*COSTS, "what the measure of a --hook gives"))


def check_objectives(metrics: Iterable[str], own: bool = False) -> tuple[str, ...]:
    """Two or more different metrics that a search makes better together.

    Args:
        own: whether there is a hook that may measure others than ours.

    Raises:
        UserError: one is unknown or named twice, or there is only one.
    """
    metrics = tuple(metrics)
    for metric in metrics:
        if metric not in ACCURACIES:
            check_cost(metric, "an objective must be a metric", own)
    if len(metrics) < 2 or len(set(metrics)) < len(metrics):
        raise UserError("--objectives must be two or more different metrics (for one, there is --reward)", got=metrics)
    return metrics
