"""Can the measured latency ratio be believed? Ten measurements each of a ratio that is known.

    python benchmarks/latency_trust.py [--imgsz 128] [--backend pytorch]

Stock yolov5n is timed beside its own copy (ratio 1), and with a layer more that takes about a quarter of its time alone
(so its ratio is known: 1 + time of the layer / time of the model, the fastest of some hundred passes each); on the
machine as it is, and while another process keeps a core busy. The layer is torch's: its rows are for the backend
`pytorch` alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from yolov5_nas.cost.latency import Pass, Runtime, compare, prepare
from yolov5_nas.files import shipped
from yolov5_nas.host import yolov5 as hosts
from yolov5_nas.records.metrics import ERROR_BOUND
from yolov5_nas.space.compile import derive
from yolov5_nas.space.space import Space

MEASUREMENTS, SHARE = 10, 0.25
BUSY = "while True: pass"


def main() -> None:
    """Print the table that the documentation quotes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imgsz", type=int, default=128)
    parser.add_argument("--backend", default="pytorch")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        stock, copy = (load(args, Path(folder, name)) for name in ("stock", "copy"))
        known: dict[str, tuple[Pass, float, float]] = {"its own copy": (copy, 1.0, 0.03)}
        if args.backend == "pytorch":
            layer = extra(fastest(stock) * SHARE)
            known["with a known layer more"] = (lambda: (copy(), layer()), 1 + fastest(layer) / fastest(stock), 0.05)
        print(f"{'':<28}{'other core':<12}{'right':>6}{'within':>8}{'of 10':>7}   measured (+- its own error)")
        for load_name, around in (("as it is", quiet), ("busy", busy)):
            for name, (model, right, bound) in known.items():
                found = around(lambda model=model: [compare(model, stock) for _ in range(MEASUREMENTS)])  # type: ignore[misc]
                ratios = sorted(m["latency_ratio"] for m in found)
                good = sum(abs(ratio / right - 1) <= bound for ratio in ratios)
                error = max(m["latency_error"] for m in found)
                figures = f"{ratios[0]:.3f} to {ratios[-1]:.3f} (+-{error:.1%})"
                print(f"{name:<28}{load_name:<12}{right:>6.3f}{bound:>8.0%}{good:>7}   {figures}", flush=True)
        print(f"(what measures itself worse than +-{ERROR_BOUND:.0%} is recorded as untrusted)")


def load(args: argparse.Namespace, path: Path) -> Pass:
    """Stock yolov5n on the runtime."""
    host = hosts.load()
    space = Space.from_yaml(shipped("models") / "yolov5n_elastic.yaml", nc=10)
    return prepare(host.build(derive(space, space.default())), args.imgsz, Runtime(args.backend), host, path)


def extra(seconds: float) -> Pass:
    """A convolution, run as often as takes about so long."""
    image, convolution = torch.zeros(1, 64, 16, 16), torch.nn.Conv2d(64, 64, 3, padding=1)
    times = max(1, round(seconds / fastest(lambda: convolution(image))))

    def run() -> None:
        for _ in range(times):
            convolution(image)

    return run


def fastest(model: Pass) -> float:
    """Seconds of the fastest of three hundred passes."""
    times = []
    for _ in range(300):
        start = time.perf_counter()
        model()
        times.append(time.perf_counter() - start)
    return min(times)


def quiet(work: Callable[[], Any]) -> Any:
    """Nothing beside it but what runs anyway."""
    return work()


def busy(work: Callable[[], Any]) -> Any:
    """Another process beside it that never rests."""
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        return work()
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
