"""How many architectures a search measures until some may be trained under a constraint, and how long that takes.

    python benchmarks/constraints.py --constraint "latency_ratio<=0.9"

Nothing is trained: each architecture that a strategy proposes is measured as a trial does first, and one that keeps to
the constraint is told to it with a reward of its own, drawn at random.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from yolov5_nas.records.journal import TrialRecord
from yolov5_nas.records.options import Options
from yolov5_nas.run.pipeline import strategy_of
from yolov5_nas.run.prepare import prepare, write_run
from yolov5_nas.training.trial import measure_architecture

MOST = 400  # architectures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--constraint", nargs="+", default=["latency_ratio<=0.9"])
    parser.add_argument("--strategies", nargs="+", default=["additive", "evolution", "tpe", "nsga2", "random"])
    parser.add_argument("--cfg", default="yolov5n_elastic.yaml")
    parser.add_argument("--imgsz", type=int, default=128)
    parser.add_argument("--count", type=int, default=20, help="architectures that may be trained")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| strategy | constraint | measured | may be trained | seconds |\n|---|---|---|---|---|")
    for constraint in args.constraint:
        for name in args.strategies:
            print(f"| {name} | {constraint} | {row(name, constraint, args)} |", flush=True)


def row(name: str, constraint: str, args: Any) -> str:
    """The figures of one search."""
    o = Options(
        cfg=args.cfg,
        data="digits.yaml",
        imgsz=args.imgsz,
        device="cpu",
        strategy=name,
        constraint=(constraint,),
        population=16,
        method="trials",
    )
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(o)
        settings = write_run(Path(folder), prepared)
        strategy, rng, measured, good = strategy_of(prepared.options, settings), random.Random(0), 0, 0
        start = time.perf_counter()
        while good < args.count and measured < MOST:
            architecture = strategy.ask()
            result = measure_architecture(architecture, settings)
            state = "infeasible" if result.state == "infeasible" else "complete"
            reward = rng.random() if state == "complete" else None
            strategy.tell(TrialRecord(measured, dict(architecture), state, reward, result.metrics))
            good += state == "complete" and measured > 0
            measured += 1
        return f"{measured} | {good} | {time.perf_counter() - start:.0f}"


if __name__ == "__main__":
    main()
