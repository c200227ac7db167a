"""A search of fake trials, as a script to be killed: `python fake_search.py FOLDER TRIALS SLOTS ENGINE TRIAL`."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import fake_trials

from yolov5_nas.engines.local import LocalEngine
from yolov5_nas.engines.nni.engine import NNIEngine
from yolov5_nas.engines.ray.engine import RayEngine
from yolov5_nas.files import shipped
from yolov5_nas.records.journal import Journal
from yolov5_nas.records.reward import SoftReward, Target
from yolov5_nas.run.loop import Loop
from yolov5_nas.space.space import Space
from yolov5_nas.strategies.evolution import Evolution


def main(folder: Path, trials: int, slots: int, engine_name: str, trial: str) -> None:
    space = Space.from_yaml(shipped("models") / "yolov5n_nas.yaml")
    ray = partial(RayEngine, os.environ.get("RAY_ADDRESS"), files=[fake_trials.__file__])
    engine = {"local": LocalEngine, "nni": NNIEngine, "ray": ray}[engine_name](concurrency=slots)
    engine.start(getattr(fake_trials, trial), folder, folder)
    reward = SoftReward([Target("latency_ratio", 1.0)])
    try:
        journal = Journal(folder / "trials.jsonl")
        Loop(Evolution(space, seed=3, population=6, sample=2), engine, journal, reward, trials).run()
    finally:
        engine.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
