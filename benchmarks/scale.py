"""What a search costs beside its trials, and how it grows: trials that do nothing, on a Ray of this machine.

The first table runs them over more and more slots. `driver` is what the search's own process computes for a trial:
strategy, journal, best and front, TensorBoard, and its part of Ray. The second table looks at one search after the
other hundreds: what is spent in each trial should not grow.

    python benchmarks/scale.py [--trials 2000] [--slots 1 2 4 8 16] [--sleep 0.0]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yolov5_nas.engines.contract import Job, Outcome, cores
from yolov5_nas.engines.ray.engine import RayEngine
from yolov5_nas.files import shipped
from yolov5_nas.records.journal import Journal, TrialResult
from yolov5_nas.records.options import Options
from yolov5_nas.records.reward import SoftReward, Target
from yolov5_nas.results.tensorboard import TensorBoardLogger
from yolov5_nas.run.callbacks import Checkpoints, Progress
from yolov5_nas.run.loop import Loop
from yolov5_nas.space.compile import dump_model
from yolov5_nas.space.model_yaml import load_yaml
from yolov5_nas.space.space import Space
from yolov5_nas.strategies.evolution import Evolution

CFG = shipped("models") / "yolov5n_nas.yaml"
PARTS = ("strategy", "journal", "best, front", "TensorBoard", "progress", "engine")


def trial(architecture: Mapping[str, Any], sleep: float, seed: int, folder: Path) -> TrialResult:
    """Does nothing, for a while; every result is different, and so is every cost, so that there is a front."""
    time.sleep(sleep)
    number = int(folder.name)
    metrics = {"map50_95": (number * 7919 % 2003) / 2003, "latency_ratio": 1 + (number * 104729 % 1999) / 1999}
    names = ("map50", "precision", "recall", "params", "gflops", "latency_ms", "latency_spread", "batch_size")
    curve = tuple({"epoch": epoch, **dict.fromkeys(names[:3], 0.5)} for epoch in (3, 6, 9, 12))
    return TrialResult({**dict.fromkeys(names, 0.5), **metrics}, curve)


@dataclass
class Spent:
    """Seconds that each trial took in each part of the driver; `Loop` calls what `timed` returns."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in PARTS})

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part].append(time.process_time() - start)

        return call

    def around(self, part: str, first: int, last: int, trials: int) -> float:
        """The mean for a trial, from the `first` to the `last` of so many."""
        calls = self.seconds[part]
        each = len(calls) / trials  # a part may be called more than once for a trial
        return sum(calls[int(first * each) : int(last * each)]) / (last - first)


class Watched:
    """The engine, its own computing measured."""

    def __init__(self, engine: RayEngine, spent: Spent):
        self.engine = engine
        self.submit: Callable[[Job], None] = spent.timed("engine", engine.submit)
        self.wait: Callable[[float | None], list[Outcome]] = spent.timed("engine", engine.wait)

    @property
    def slots(self) -> int:
        return self.engine.slots


def search(slots: int, trials: int, sleep: float, folder: Path) -> tuple[float, float, Spent]:
    """Seconds of a whole search without its start, those that the driver computed, and where."""
    space, spent = Space.from_yaml(CFG), Spent()
    (folder / "space.yaml").write_text(dump_model({**load_yaml(CFG)[0], "nc": 10}), encoding="utf-8")
    (folder / "search.yaml").write_text("imgsz: 128\n", encoding="utf-8")  # for the model YAML of the best
    engine = RayEngine(cpus_per_trial=min(1.0, cores() / slots), concurrency=slots, files=[__file__])
    engine.start(importlib.import_module(Path(__file__).stem).trial, sleep, folder)  # by the name that nodes know it by
    journal = Journal(folder / "trials.jsonl")
    warm_up(engine, slots)
    options = Options(trials=trials)
    keeper = Checkpoints(folder, journal, options.front, fetch=engine.fetch)
    strategy, logger = Evolution(space, population=16), TensorBoardLogger(folder, [], options, space)
    with Progress(trials, journal) as progress, contextlib.redirect_stdout(io.StringIO()):
        functions: list[Callable[..., Any]] = [keeper, logger, progress]
        listeners = [spent.timed(part, function) for part, function in zip(PARTS[2:], functions)]
        strategy.ask = spent.timed("strategy", strategy.ask)  # type: ignore[method-assign]
        strategy.tell = spent.timed("strategy", strategy.tell)  # type: ignore[method-assign]
        journal.append = spent.timed("journal", journal.append)  # type: ignore[method-assign]
        reward = SoftReward([Target("latency_ratio", 1.0)])
        watched: Any = Watched(engine, spent)
        start, computed = time.perf_counter(), time.process_time()
        Loop(strategy, watched, journal, reward, trials, listeners=listeners).run()
        seconds, computed = time.perf_counter() - start, time.process_time() - computed
    engine.close()
    assert sum(r.state == "complete" for r in journal.trials.values()) == trials
    return seconds, computed, spent


def warm_up(engine: RayEngine, slots: int) -> None:
    """One trial in each slot, so that its process is there."""
    for number in range(slots):
        engine.submit(Job(number, {}, seed=0))
    while engine._queues[False] or engine._busy:
        engine.wait(1)


def main() -> None:
    """Print the tables that docs/cluster.md quotes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--sleep", type=float, default=0.0, help="seconds that a trial sleeps")
    args = parser.parse_args()
    print(f"{args.trials} trials that sleep {args.sleep:g} s, {cores()} cores, load {os.getloadavg()[0]:.0f}\n")
    print(f"{'slots':>5}{'seconds':>10}{'trials/s':>10}{'driver ms/trial':>17}")
    for slots in args.slots:
        with tempfile.TemporaryDirectory() as folder:
            seconds, computed, spent = search(slots, args.trials, args.sleep, Path(folder))
        each = 1e3 * computed / args.trials
        print(f"{slots:>5}{seconds:>10.1f}{args.trials / seconds:>10.1f}{each:>17.2f}", flush=True)
    width = max(1, args.trials // 20)
    spans = [(width, 2 * width), (args.trials - width, args.trials)]
    print(f"\nms of the driver for a trial, {slots} slots")
    print(" " * 17 + "".join(f"{first}-{last}".rjust(13) for first, last in spans))
    for part in PARTS:
        means = [spent.around(part, first, last, args.trials) for first, last in spans]
        print(f"{part:<17}" + "".join(f"{1e3 * mean:>13.2f}" for mean in means))


if __name__ == "__main__":
    main()
