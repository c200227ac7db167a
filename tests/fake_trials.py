"""Fast trials for testing loops and engines; processes import them by name."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zlib import crc32

from yolov5_nas.errors import TrialError, UserError
from yolov5_nas.records.journal import TrialResult
from yolov5_nas.space.architecture import Architecture
from yolov5_nas.strategies.early_stopping import best_so_far


@dataclass
class NeedsGPU:
    """Settings of trials on a GPU."""

    device: str = "cuda:0"


@dataclass
class NeedsData:
    """Settings of trials that read a data set."""

    data: dict[str, Any]


class Picky:
    """Settings of trials that don't run where the environment says `REFUSES`."""

    imgsz = 64

    @property
    def runtime(self) -> Picky:
        return self

    def check(self) -> None:
        if os.environ.get("REFUSES"):
            raise UserError("this node refuses")

    def conditions(self, imgsz: int) -> dict[str, str]:
        return {"device": "the same"}


SEEDS = 1000  # a lent engine's job has its own seed, and so many times the number of its test


@dataclass
class Overridable:
    """Settings that a job may override."""

    weights: str | None = None
    base_epochs: int | None = None
    pruner: Any = None
    trial: str = ""
    space: Any = None


def named(architecture: Mapping[str, Any], settings: Overridable, seed: int, folder: Path) -> TrialResult:
    """The trial of this file that the settings name."""
    return globals()[settings.trial](architecture, settings, seed % SEEDS, folder)


EPOCHS = 10


def points(final: float) -> tuple[dict[str, float], ...]:
    """A curve that rises evenly to `final`."""
    return tuple({"epoch": e, "map50": 0.9, "map50_95": final * e / EPOCHS} for e in range(1, EPOCHS + 1))


def curved(architecture: Mapping[str, Any], settings: Overridable, seed: int, folder: Path) -> TrialResult:
    """A trial with a curve that asks its pruner, as the real one does."""
    whole = points(score(architecture))
    for epoch in range(1, EPOCHS):
        if settings.pruner and (why := settings.pruner.why(whole[:epoch], {"latency_ratio": 1.0})):
            metrics = {**best_so_far(whole[:epoch]), "latency_ratio": 1.0}
            return TrialResult(metrics, whole[:epoch], "pruned", {}, why)
    return TrialResult({"map50_95": score(architecture), "map50": 0.9, "latency_ratio": 1.0}, whole)


def score(architecture: Mapping[str, Any]) -> float:
    """A number from 0 to 1 that depends on the architecture alone."""
    return int(Architecture(architecture).id, 16) / 16**10


def quick(architecture: Mapping[str, Any], settings: Any, seed: int, folder: Path) -> TrialResult:
    """Sleeps a little and notes in the run's folder that it ran to its end; the settings may be where that is."""
    time.sleep(0.02 + 0.1 * score(architecture))
    folder.mkdir(parents=True, exist_ok=True)
    with ((settings if isinstance(settings, Path) else folder.parent.parent) / "ran.txt").open("a") as file:
        file.write(f"{folder.name}\n")
    return TrialResult({"map50_95": score(architecture), "latency_ratio": 1.0}, ({"epoch": 1, "map50_95": 0.1},))


def noop(architecture: Mapping[str, Any], *_: Any) -> TrialResult:
    return TrialResult({"map50_95": score(architecture), "latency_ratio": 1.0})


def planted(architecture: Mapping[str, Any], settings: Any, seed: int, folder: Path) -> TrialResult:
    """A training for a proof: the wider `c3_8` the worse and the dearer, and seeds matter little."""
    width, noise = architecture["c3_8"], random.Random(f"{seed} {architecture['c3_8']}").gauss(0, 0.001)
    accuracy = 0.5 + 0.05 * (1.0 - width) + noise
    return TrialResult({"map50_95": accuracy, "latency_ratio": width, "latency_error": 0.01})


def slow(architecture: Mapping[str, Any], *_: Any) -> TrialResult:
    time.sleep(3)
    return noop(architecture)


def with_curve(architecture: Mapping[str, Any], settings: Any, seed: int, folder: Path) -> TrialResult:
    """Writes its curve as the real trial does."""
    folder.mkdir(parents=True, exist_ok=True)
    points = tuple({"epoch": i, "map50_95": i / 10} for i in (1, 2, 3))
    (folder / "curve.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    return TrialResult({"map50_95": score(architecture), "latency_ratio": 1.0}, points)


def with_weights(architecture: Mapping[str, Any], settings: Any, seed: int, folder: Path) -> TrialResult:
    """Leaves a log and weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.txt").write_text("a line\n")
    (folder / "weights.pt").write_bytes(bytes(300_000))
    return noop(architecture)


def one_then_slow(architecture: Mapping[str, Any], settings: Any, seed: int, folder: Path) -> TrialResult:
    """Trial 0 and those whose folder has a file `slow` end at once, with all their files; others take a minute."""
    if folder.name != "0" and not (folder / "slow").exists():
        folder.mkdir(parents=True, exist_ok=True)
        time.sleep(60)
    (folder.mkdir(parents=True, exist_ok=True), (folder / "model.yaml").write_text("a model\n"))
    return with_weights(architecture, settings, seed, folder)


def measures(architecture: Mapping[str, Any], settings: Any, seed: int, folder: Path) -> TrialResult:
    """Measures, and refuses one in three."""
    refused = Architecture(architecture).id[0] in "01234"
    conditions = {"place": _place()}
    return TrialResult({"latency_ratio": 1.5}, (), "infeasible" if refused else "complete", conditions)


def with_costs(
    architecture: Mapping[str, Any], settings: Any, seed: int, folder: Path, costs: TrialResult
) -> TrialResult:
    """Trains with costs that were measured elsewhere."""
    metrics = {"map50_95": score(architecture), "place": _place(), **costs.metrics}
    return replace(costs, metrics=metrics)


def _place() -> int:
    """A number for the node that this is: each of the tests' cluster has a folder of its own."""
    return crc32(Path.cwd().parts[3].encode())


def infeasible(architecture: Mapping[str, Any], *_: Any) -> TrialResult:
    """Refused before training, with all that such a result says."""
    conditions = {"backend": "onnx", "trusted": True}
    return TrialResult({"params": 2.0}, (), "infeasible", conditions, "params is 2, which breaks params<=1")


def raises(*_: Any) -> TrialResult:
    raise ValueError("broken on purpose")


def raises_timeout(*_: Any) -> TrialResult:
    raise TimeoutError("raised by the trial itself")


def out_of_memory(*_: Any) -> TrialResult:
    raise TrialError("oom", "no memory at half the batch")


def exits(*_: Any) -> TrialResult:
    os._exit(1)


def killed(*_: Any) -> TrialResult:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def returns_none(*_: Any) -> Any:
    return None


def returns_nan(*_: Any) -> TrialResult:
    return TrialResult({"map50_95": float("nan"), "latency_ratio": 1.0})


def returns_nothing_measured(*_: Any) -> TrialResult:
    return TrialResult({"map50_95": 0.5})


def sleeps(*_: Any) -> TrialResult:
    """Takes twice as long as a test waits (`processes.LONG`), so that it ends in no test."""
    time.sleep(600)
    raise AssertionError


def some_fail(architecture: Mapping[str, Any], settings: Any, seed: int, folder: Path) -> TrialResult:
    """Three in ten fail, in four ways."""
    rng = random.Random(Architecture(architecture).id)
    if rng.random() < 0.3:
        rng.choice([raises, exits, killed, returns_none])()
        raise TrialError("crash", "returned nothing")
    return quick(architecture, settings, seed, folder)


def reports_process(architecture: Mapping[str, Any], settings: Any, seed: int, folder: Path) -> TrialResult:
    """Which process, with which pins."""
    device = os.environ["CUDA_VISIBLE_DEVICES"]
    metrics = {"pid": os.getpid(), "threads": int(os.environ["OMP_NUM_THREADS"]), "device": int(device or -1)}
    metrics["lightning"] = int("pytorch_lightning" in sys.modules)
    time.sleep(0.3)
    return TrialResult({"map50_95": 0.5, "latency_ratio": 1.0, **metrics})
