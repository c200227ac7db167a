"""Latency on the runtime that will be used, measured alternately with the stock architecture's."""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import UserError
from ..host.yolov5 import Host
from ..records.metrics import BACKENDS, ERROR_BOUND, PACKAGES, PRECISIONS, QUANTISERS
from .device_lock import DeviceLock
from .quantisation import computes_fp16, has_vnni, quantised

HASTY = bool(os.environ.get("YOLOV5_NAS_HASTY_LATENCY"))  # for tests of other things: the ratio is worth little then
WARM_UP = 1 if HASTY else 5  # runs of each model before the clock starts
CLOCKS = 0.5  # seconds in which an idle GPU's clocks rise
PAIRS = (2, 2) if HASTY else (12, 60)  # at least, at most
REPEATS = 3  # passes of which the fastest counts in a pair: other programs' interruptions only ever slow one down
SECONDS = 6.0  # no further pair is timed after this, once there are enough
ATTEMPTS = 1 if HASTY else 3

DTYPES = {"fp32": "float32", "fp16": "float16", "int8": "int8"}

Pass = Callable[[], Any]  # one forward pass over a fixed input


@dataclass(frozen=True)
class Runtime:
    """Where and how a forward pass is timed.

    Args:
        backend: one of `BACKENDS`.
        batch: images per forward pass.
        precision: "fp32", "fp16" or "int8", which needs no calibrated values to be timed.
        device: "cpu", "mps" or "cuda:0".
        attempts: how often a ratio is measured at most, until it is certain.
    """

    backend: str = "pytorch"
    batch: int = 1
    precision: str = "fp32"
    device: str = "cpu"
    attempts: int = ATTEMPTS

    def check(self) -> None:
        """Look whether this machine can measure so.

        Raises:
            UserError: it can't; what to install, or what to choose instead.
        """
        if self.backend not in BACKENDS:
            raise UserError("unknown --latency-backend", got=self.backend, accepted=BACKENDS)
        if missing := [name for name in PACKAGES[self.backend] if find_spec(name) is None]:
            raise UserError(f"the runtime {self.backend} needs: pip install {' '.join(missing)}")
        if self.batch < 1:
            raise UserError("--latency-batch must be at least 1", got=self.batch)
        self._check_precision()
        if self.backend == "engine" and not self.device.startswith("cuda"):
            raise UserError("the runtime engine (TensorRT) needs an NVIDIA GPU", got=self.device)

    def _check_precision(self) -> None:
        on_gpu = self.device.startswith("cuda")
        if self.precision not in PRECISIONS:
            raise UserError("unknown --precision", got=self.precision, accepted=PRECISIONS)
        if self.precision == "fp16" and not on_gpu and not (self.backend == "openvino" and computes_fp16()):
            accepted = "a GPU, or OpenVINO on a processor that computes in FP16"
            raise UserError("--precision fp16 (--half) is not for this", got=self.where, accepted=accepted)
        if self.precision != "int8":
            return
        if self.backend not in QUANTISERS or (on_gpu and self.backend == "onnx"):
            raise UserError("--precision int8 is not for this", got=self.where, accepted="onnx or openvino on a CPU")
        if find_spec(QUANTISERS[self.backend]) is None:
            raise UserError(f"--precision int8 on {self.backend} needs: pip install {QUANTISERS[self.backend]}")

    @property
    def where(self) -> str:
        """For people: backend and device."""
        return f"{self.backend} on {self.device}"

    @property
    def half(self) -> bool:
        """Whether YOLOv5's exporter and torch are told to compute in FP16, which both do on a GPU only."""
        return self.precision == "fp16" and self.device.startswith("cuda")

    @property
    def is_on_gpu(self) -> bool:
        """Whether the runtime uses the GPU where one is given; ONNX Runtime's package for CPUs and OpenVINO don't."""
        if not self.device.startswith("cuda") or self.backend == "openvino":
            return False
        if self.backend != "onnx":
            return True
        import onnxruntime

        return "CUDAExecutionProvider" in onnxruntime.get_available_providers()

    def conditions(self, imgsz: int) -> dict[str, Any]:
        """What a latency was measured on, to stand beside the figure."""
        cuda = self.is_on_gpu
        conditions: dict[str, Any] = {
            "backend": self.backend,
            "runtime": _version(self.backend, cuda),
            "device": torch.cuda.get_device_name(self.device) if cuda else f"{self.device} ({_processor()})",
            "dtype": DTYPES[self.precision],
            "batch": self.batch,
            "imgsz": imgsz,
        }
        if self.precision == "int8":
            conditions["vnni"] = has_vnni()
        if not cuda:
            conditions["threads"] = torch.get_num_threads()
        return conditions


def latency(
    model: Any, reference: Any, imgsz: tuple[int, int], runtime: Runtime, host: Host
) -> tuple[dict[str, float], dict[str, Any]]:
    """Time of a forward pass of a YOLOv5 model, alternately with a reference so that a noisy machine slows both.

    While it runs, trainings of this machine on the same device wait (see `device_lock`).

    Args:
        model, reference: before fusing, on whatever device.
        imgsz: input sizes in pixels of the two.

    Returns:
        The metrics of `compare` with the most certain ratio of up to `runtime.attempts`; and the conditions, in which
        `trusted` says whether its error is within `ERROR_BOUND`.

    Raises:
        RuntimeError: YOLOv5 can't export the model. What else a runtime raises comes through.
    """
    with tempfile.TemporaryDirectory() as folder, _current(runtime.device):
        own = prepare(model, imgsz[0], runtime, host, Path(folder, "model"))
        other = prepare(reference, imgsz[1], runtime, host, Path(folder, "stock"))
        metrics = timed(own, other, runtime)
    runs = int(metrics.pop("runs"))
    return metrics, {**runtime.conditions(imgsz[0]), "runs": runs, "trusted": metrics["latency_error"] <= ERROR_BOUND}


def timed(own: Pass, other: Pass, runtime: Runtime) -> dict[str, float]:
    """The metrics of `compare` with the most certain ratio of up to `runtime.attempts`; trainings wait meanwhile."""
    with _current(runtime.device), DeviceLock(runtime.device).measuring():
        return _certain(own, other, runtime)


def _certain(own: Pass, other: Pass, runtime: Runtime) -> dict[str, float]:
    cuda = runtime.device.startswith("cuda")
    synchronise = torch.cuda.synchronize if cuda else lambda: None
    best: dict[str, float] = {}
    with torch.inference_mode():
        for _ in range(runtime.attempts):
            metrics = compare(own, other, synchronise, CLOCKS if cuda else 0.0)
            best = metrics if not best else min(best, metrics, key=lambda m: m["latency_error"])
            if best["latency_error"] <= ERROR_BOUND:
                break
    return best


def _current(device: str) -> contextlib.AbstractContextManager[Any]:
    """Streams, graphs and waiting are those of the current GPU: make it this one."""
    return torch.cuda.device(device) if device.startswith("cuda") else contextlib.nullcontext()


def compare(
    own: Pass, other: Pass, synchronise: Callable[[], Any] = lambda: None, warm_up: float = 0.0
) -> dict[str, float]:
    """Time two passes alternately, in pairs whose order alternates too.

    Args:
        synchronise: waits until a pass has ended.
        warm_up: seconds of passes at least before the clock starts.

    Returns:
        `latency_ms`: median milliseconds of a pass of `own`; `latency_p95_ms`: its 95th percentile.
        `latency_ratio`: median over pairs of time of `own` / time of `other`, each the fastest of `REPEATS`.
        `latency_spread`: interquartile range of these ratios / their median.
        `latency_error`: half the 95 % interval of that median / the median: 1.57 x spread / sqrt(pairs) (McGill, Tukey
            and Larsen 1978, the notches of box plots).
        `runs`: the number of pairs.
    """

    def milliseconds(timed: Pass) -> float:
        synchronise()
        start = time.perf_counter()
        timed()
        synchronise()
        return (time.perf_counter() - start) * 1e3

    start, runs = time.perf_counter(), 0
    while runs < WARM_UP or time.perf_counter() - start < warm_up:
        milliseconds(own), milliseconds(other)
        runs += 1
    passes: list[float] = []
    ratios: list[float] = []
    start = time.perf_counter()
    while len(ratios) < PAIRS[1] and (len(ratios) < PAIRS[0] or time.perf_counter() - start < SECONDS):
        times: dict[bool, list[float]] = {}
        for is_own in (True, False) if len(ratios) % 2 else (False, True):
            times[is_own] = [milliseconds(own if is_own else other) for _ in range(REPEATS)]
        passes += times[True]
        ratios.append(min(times[True]) / min(times[False]))
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    spread = (high - low) / middle
    return {
        "latency_ms": float(np.median(passes)),
        "latency_p95_ms": float(np.percentile(passes, 95)),
        "latency_ratio": float(middle),
        "latency_spread": float(spread),
        "latency_error": float(1.57 * spread / np.sqrt(len(ratios))),
        "runs": len(ratios),
    }


def prepare(model: Any, imgsz: int, runtime: Runtime, host: Host, path: Path) -> Pass:
    """A model on a runtime, ready to be timed.

    Args:
        path: where an exported file may be written, without its ending.

    Raises:
        RuntimeError: YOLOv5 can't export it. What else a runtime raises comes through.
    """
    device = torch.device(runtime.device)
    dtype = torch.float16 if runtime.half else torch.float32
    image = torch.zeros(runtime.batch, 3, imgsz, imgsz, device=device, dtype=dtype)
    if runtime.backend == "pytorch":
        fused = host.fused(model, device)
        fused = fused.half() if runtime.half else fused
        return _graph(fused, image) if device.type == "cuda" else lambda: fused(image)
    exported = host.export(model, path.with_suffix(".pt"), runtime.backend, imgsz, runtime.batch, runtime.half, device)
    if runtime.precision == "int8":
        exported = quantised(exported, noise(image.shape))
    loaded = host.load_exported(exported, runtime.precision, device)
    return lambda: loaded(image)


def noise(shape: Sequence[int], count: int = 2) -> list[np.ndarray]:
    """Images to quantise by where the result is timed alone."""
    rng = np.random.default_rng(0)
    return [rng.random(tuple(shape), dtype=np.float32) for _ in range(count)]


def _graph(model: Any, image: torch.Tensor) -> Pass:
    """A pass recorded as a CUDA graph: started kernel by kernel, small models take the time of the CPU's calls."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.no_grad():
        for _ in range(3):
            model(image)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.no_grad():
        model(image)
    return lambda: (graph.replay(), model, image)[0]  # it reads their memory, which must stay theirs


def _version(backend: str, cuda: bool) -> str:
    package = {"onnx": "onnxruntime", "openvino": "openvino", "engine": "tensorrt"}.get(backend, "torch")
    for name in (package, f"{package}-gpu"):
        try:
            text = f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
        return f"{text}, CUDA graph" if backend == "pytorch" and cuda else text
    return package


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
