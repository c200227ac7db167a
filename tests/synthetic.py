"""Searches that never ran: journals with planted effects, failures and untrusted latencies."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from yolov5_nas.files import shipped
from yolov5_nas.records.journal import Journal, TrialRecord
from yolov5_nas.records.options import Options
from yolov5_nas.space.compile import dump_model
from yolov5_nas.space.model_yaml import read_model_yaml
from yolov5_nas.space.space import Space

CFG = shipped("models") / "yolov5n_elastic.yaml"
ACCURACY = {("nasconv_0_act", "ReLU"): -0.04, ("c3_4", 1.5): 0.03, ("nasconv_3", "k5p2"): 0.03}  # planted effects
COST = {("c3_4", 1.5): 0.10, ("c3_6", 0.5): -0.08, ("nasconv_3", "k5p2"): 0.06}


def space() -> Space:
    return Space.from_yaml(CFG)


def records(number: int, seed: int = 0) -> list[TrialRecord]:
    """Complete trials of random architectures, the default one first."""
    rng, searched = random.Random(seed), space()
    return [_complete(i, searched.sample(rng) if i else searched.default(), rng) for i in range(number)]


def _complete(number: int, architecture, rng: random.Random) -> TrialRecord:
    accuracy = 0.5 + sum(ACCURACY.get(item, 0.0) for item in architecture.items()) + rng.gauss(0, 0.005)
    cost = 1.0 + sum(COST.get(item, 0.0) for item in architecture.items())
    metrics = {"map50_95": accuracy, "map50": 1.5 * accuracy, "latency_ms": 6 * cost, "latency_ratio": cost}
    metrics |= {"params": 1.8e6 * cost, "gflops": 0.2 * cost, "latency_error": 0.01}
    curve = tuple({"epoch": e, "map50_95": accuracy * e / 6, "box_loss": 0.1 / e} for e in (2, 4, 6))
    conditions = {"backend": "onnx", "device": "cpu (x)", "imgsz": 128, "runs": 20 + number, "trusted": True}
    return TrialRecord(
        number, dict(architecture), "complete", accuracy, metrics, curve, 60.0 + number, conditions=conditions
    )


def write(folder: Path, trials: Sequence[TrialRecord], **options) -> Path:
    """A run's folder with its journal, search.yaml and space.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    Options(cfg=str(CFG), **{"imgsz": 128, **options}).save(folder / "search.yaml")
    (folder / "space.yaml").write_text(dump_model(read_model_yaml(CFG)[0]))
    journal = Journal(folder / "trials.jsonl")
    for record in trials:
        journal.append(record)
    return folder
