"""What early stopping saves and loses, replayed on a table's curves in seconds.

    python benchmarks/search_efficiency.py

A search goes through the table's architectures in a random order, one at a time, each with the curve of one of its
seeds, validated as often as `--prune` does. Once with and once without early stopping: epochs saved, and what is lost
of the hypervolume of the front (mAP50-95 over GFLOPs) or of the best reward. Medians and quartiles over `--seeds`.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from yolov5_nas.journal import TrialRecord, best, front
from yolov5_nas.pruning import Curves, best_so_far
from yolov5_nas.reward import Reward, SoftReward, Target

TABLE = Path(__file__).parent / "tables/digits_hard_yolov5n_elastic.jsonl"
FRONT = ("map50_95", "gflops")


def main() -> None:
    args = parse()
    table = read(args.table)
    stock = next(iter(table.values()))[0]  # the table's first line
    reward = SoftReward([Target("gflops", stock["costs"]["gflops"])])
    most = 1.1 * max(lines[0]["costs"]["gflops"] for lines in table.values())
    cases: tuple[tuple[str, tuple[str, ...], Callable[[list[TrialRecord]], float]], ...] = (
        ("several objectives: hypervolume", FRONT, lambda records: hypervolume(records, most)),
        ("one reward: the best", (), lambda records: (best(records) or records[0]).reward or 0.0),
    )
    print(f"{len(table)} architectures of {args.table.name}, {args.seeds} seeds: median (quartiles)\n")
    print("| early stopping for | epochs saved | lost |\n|---|---|---|")
    for name, objectives, value in cases:
        saved, lost = [], []
        for seed in range(args.seeds):
            order = shuffled(table, seed)
            whole, epochs = search(order, reward, args.every)
            pruned, fewer = search(order, reward, args.every, Curves(reward, objectives))
            saved.append(1 - fewer / epochs)
            lost.append(1 - value(pruned) / value(whole))
        print(f"| {name} | {quartiles(saved)} | {quartiles(lost)} |")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--every", type=int, default=3, help="epochs between validations")
    return parser.parse_args()


def read(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The table's lines by architecture."""
    found = defaultdict(list)
    for line in map(json.loads, path.read_text().splitlines()):
        found[line["id"]].append(line)
    return dict(sorted(found.items(), key=lambda item: item[1][0]["number"]))


def shuffled(table: dict[str, list[dict[str, Any]]], seed: int) -> list[dict[str, Any]]:
    """Stock first, as in a search, then the others in a random order; of each one of its trainings."""
    rng = random.Random(seed)
    first, *others = table.values()
    rng.shuffle(others)
    return [rng.choice(lines) for lines in (first, *others)]


def search(
    lines: Sequence[dict[str, Any]], reward: Reward, every: int, curves: Curves | None = None
) -> tuple[list[TrialRecord], int]:
    """The records that a search would have, and the epochs that it trained."""
    records, epochs = [], 0
    for number, line in enumerate(lines):
        costs = {"gflops": line["costs"]["gflops"]}
        curve = [point for point in line["curve"] if point["epoch"] % every == 0]
        pruner = curves.pruner() if curves and number else None
        end = next((i for i in range(1, len(curve)) if pruner and pruner.why(curve[:i], costs)), len(curve))
        epochs += int(curve[end - 1]["epoch"])
        state = "complete" if end == len(curve) else "pruned"
        metrics = {**costs, **best_so_far(curve[:end])}
        value = reward(metrics) if state == "complete" else None
        record = TrialRecord(number, line["architecture"], state, value, metrics, tuple(curve[:end]))
        records.append(record)
        if curves:
            curves.observe(record)
    return records, epochs


def hypervolume(records: Sequence[TrialRecord], most: float) -> float:
    """Area that the front dominates, from mAP 0 and `most` GFLOPs on."""
    area, before = 0.0, 0.0
    for record in reversed(front(records, *FRONT)):  # from low mAP and cost to high
        area += (record.metrics["map50_95"] - before) * (most - record.metrics["gflops"])
        before = record.metrics["map50_95"]
    return area


def quartiles(values: Sequence[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.1%} ({low:.1%} to {high:.1%})"


if __name__ == "__main__":
    main()
