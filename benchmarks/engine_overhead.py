"""What an engine adds to a trial: seconds for each trial that does nothing, one at a time.

Every trial needs torch, which a plainly started one imports. YOLOv5, which a real one loads as well, is in a row of its
own: that is part of the trial, not of the engine.

    python benchmarks/engine_overhead.py [--trials 20]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolov5_nas.engines.contract import Engine, Job, Trial
from yolov5_nas.engines.local import LocalEngine
from yolov5_nas.engines.nni.engine import NNIEngine
from yolov5_nas.files import shipped
from yolov5_nas.host import yolov5 as host
from yolov5_nas.host.locate import Location, find
from yolov5_nas.records.journal import TrialResult
from yolov5_nas.space.space import Space
from yolov5_nas.training.settings import Settings as _  # noqa: F401  # a real trial's file, and with it torch

LIMITS = {"NNI, forked": 1.5, "NNI, started plainly": 4.0}  # seconds over the local engine's


@dataclass
class Settings:
    """What the trial and the portal need."""

    location: Location
    space: Space


def preload(settings: Settings) -> None:
    """As `trial.preload`."""
    host.load(settings.location)


def noop(architecture: Mapping[str, Any], settings: Settings, seed: int, folder: Path) -> TrialResult:
    """A trial that does nothing."""
    return TrialResult({"map50_95": 0.5})


def loads(architecture: Mapping[str, Any], settings: Settings, seed: int, folder: Path) -> TrialResult:
    """A trial that loads YOLOv5 and does nothing."""
    host.load(settings.location)
    return TrialResult({"map50_95": 0.5})


def seconds(engine: Engine, trial: Trial, settings: Settings, trials: int) -> tuple[float, float]:
    """Until the first trial ended, and for each that followed."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        engine.start(trial, settings, Path(folder))
        try:
            for number in range(trials + 1):
                engine.submit(Job(number, dict(settings.space.default()), seed=0))
                while not engine.wait(60):
                    pass
                if number == 0:
                    first = time.perf_counter()
            return first - start, (time.perf_counter() - first) / trials
        finally:
            engine.close()


def main() -> None:
    """Print the table that README quotes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20)
    trials = parser.parse_args().trials
    space = Space.from_yaml(shipped("models") / "yolov5n_nas.yaml")
    settings = Settings(find(), space)
    rows = [("local", *seconds(LocalEngine(), noop, settings, trials))]
    rows.append(("NNI, forked", *seconds(NNIEngine(), loads, settings, trials)))
    os.environ["YOLOV5_NAS_START"] = "spawn"
    rows.append(("NNI, started plainly", *seconds(NNIEngine(), noop, settings, max(2, trials // 3))))
    rows.append((" … and loads YOLOv5", *seconds(NNIEngine(), loads, settings, max(2, trials // 3))))
    print(f"\n{'engine':<22}{'first trial':>13}{'each further':>14}{'over local':>12}{'limit':>7}")
    for name, first, each in rows:
        over = each - rows[0][2]
        limit = f"{LIMITS[name]:>7.1f}" if name in LIMITS else ""
        print(f"{name:<22}{first:>11.2f} s{each:>12.3f} s{over:>10.3f} s{limit}")


if __name__ == "__main__":
    main()
