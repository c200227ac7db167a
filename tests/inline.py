"""Searches without processes, which take longer to start than a small trial does to train, and without trainings."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_trials
import pytest

from yolov5_nas.cost import measure
from yolov5_nas.engines.contract import Engine, Outcome, call_trial
from yolov5_nas.errors import TrialError
from yolov5_nas.records.journal import TrialResult
from yolov5_nas.records.options import Options
from yolov5_nas.results import plots
from yolov5_nas.run import api, pipeline, prepare, prove
from yolov5_nas.space.compile import derive, dump_model
from yolov5_nas.training import trial
from yolov5_nas.training.settings import budget_of

EMPTY = base64.b64decode(  # a PNG of one pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4//8/AAX+Av4N70a4AAAAAElFTkSuQmCC"
)


class InlineEngine(Engine):
    """Runs trials in this process.

    Args:
        interrupts: `(folder, number)` of trials in which the search is interrupted, each once.
    """

    slots = 1

    def __init__(self, interrupts: set[tuple[str, int]] | None = None):
        self.interrupts = set() if interrupts is None else interrupts

    def start(self, trial: Any, settings: Any, folder: Path) -> None:
        self.trial, self.settings, self.folder = trial, settings, folder

    def submit(self, job: Any) -> None:
        self.job = job

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        if (place := (self.folder.name, self.job.number)) in self.interrupts:
            self.interrupts.remove(place)
            raise KeyboardInterrupt
        try:
            return [Outcome(self.job.number, 1.0, call_trial(self.trial, self.job, self.settings, self.folder))]
        except TrialError as e:
            return [Outcome(self.job.number, 1.0, error={"reason": e.reason, "message": e.message})]

    def close(self) -> None:
        pass


@contextmanager
def inline(interrupts: set[tuple[str, int]] | None = None) -> Iterator[None]:
    """Searches and proofs run their trials in this process; what an engine refuses is refused."""
    real = prepare.engine_of

    def engine_of(options: Options) -> InlineEngine:
        real(replace(options, engine="local")).close()
        return InlineEngine(interrupts)

    with pytest.MonkeyPatch.context() as patch:
        for module in (api, pipeline, prove):
            patch.setattr(module, "engine_of", engine_of)
        yield


@contextmanager
def untrained() -> Iterator[None]:
    """Trials of this process write their files as ever, but train and time nothing: what they find is made up.

    Pictures take longer than such a search does, and are empty.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "_png", lambda *_: EMPTY)
        patch.setattr(trial, "_train", _no_training)
        patch.setattr(measure, "latency", _no_latency)
        yield


def _no_latency(model: Any, stock: Any, imgsz: tuple[int, int], runtime: Any, host: Any) -> tuple[dict, dict]:
    """A latency that grows with the parameters and the pixels, as exact as a real one is."""
    ratio = sum(p.numel() for p in model.parameters()) / sum(p.numel() for p in stock.parameters())
    ratio *= (imgsz[0] / imgsz[1]) ** 2
    spread = {"latency_p95_ms": 1.05 * ratio, "latency_error": 0.01}
    conditions = {**runtime.conditions(imgsz[0]), "trusted": True}
    return {"latency_ms": ratio, "latency_ratio": ratio, **spread}, conditions


def _no_training(
    architecture: Any, settings: Any, seed: int, folder: Path | None, host: Any, costs: TrialResult
) -> TrialResult:
    score = fake_trials.score(architecture)
    point = {"precision": score, "recall": score, "map50": score, "map50_95": 0.9 * score}
    curve = tuple({**point, "epoch": e} for e in range(1, settings.epochs + 1))
    cfg = derive(settings.space, architecture)
    if folder:
        host.save_checkpoint(host.build(cfg, nc=settings.nc), folder / "weights.pt")
        (folder / "model.yaml").write_text(dump_model(cfg))
        (folder / "curve.jsonl").write_text("".join(f"{json.dumps(p)}\n" for p in curve))
    metrics = {**point, **costs.metrics, "batch_size": settings.batch_size}
    return replace(costs, metrics=metrics, curve=curve, budget=budget_of(settings))
