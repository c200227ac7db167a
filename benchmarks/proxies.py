"""How cheap scores rank the architectures of a table, beside what ranks them for nothing.

    python benchmarks/proxies.py

Each architecture of the table is scored in two ways: by a short training on weights that it inherits from stock
YOLOv5, which is trained once, and by its slice of one shared network, which is trained once too. Both are compared with
its full training from scratch (the table's mAP50-95, mean of its seeds) by Kendall's tau, beside GFLOPs and parameters.
It goes on where it was stopped. `--only` leaves one of the two out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent / "tables"))
import make_table

from yolov5_nas.agreement import tau
from yolov5_nas.architecture import Architecture
from yolov5_nas.files import WEIGHTS, shipped, write_whole
from yolov5_nas.journal import TrialResult
from yolov5_nas.one_shot import score_trial, train_shared
from yolov5_nas.space import load_yaml
from yolov5_nas.trial import Settings, run_trial

TABLE = make_table.HERE / "digits_hard_yolov5n_elastic.jsonl"


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    rows = read(args.table)
    settings = settings_of(args)
    scores: dict[str, dict[str, float]] = {"GFLOPs": {}, "parameters": {}}
    for name, row in rows.items():
        scores["GFLOPs"][name], scores["parameters"][name] = row["gflops"], row["params"]
    if args.only != "one-shot":
        label = f"{args.inherit_epochs} epochs on inherited weights (base: {args.base_epochs})"
        scores[label] = inherited(rows, settings, args)
    if args.only != "inherited":
        scores[f"shared network of {args.one_shot_epochs} epochs"] = one_shot(rows, settings, args)
    print(f"\n{len(rows)} architectures of {args.table.name}\n\n| score | tau (95 % interval) |\n|---|---|")
    for label, found in scores.items():
        both = [name for name in rows if name in found]
        print(f"| {label} | {tau([found[n] for n in both], [rows[n]['truth'] for n in both])} |")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--base-epochs", type=int, default=36)
    parser.add_argument("--inherit-epochs", type=int, default=3)
    parser.add_argument("--one-shot-epochs", type=int, default=36)
    parser.add_argument("--only", choices=("inherited", "one-shot"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("runs/proxies"))
    return parser.parse_args()


def read(table: Path) -> dict[str, dict[str, Any]]:
    """The table's architectures by id, with costs and `truth`, the mean mAP50-95 of their seeds."""
    lines = [json.loads(line) for line in table.read_text().splitlines()]
    truths = defaultdict(list)
    for line in lines:
        truths[line["id"]].append(line["metrics"]["map50_95"])
    return {
        line["id"]: {
            "architecture": line["architecture"],
            **line["costs"],
            "truth": statistics.mean(truths[line["id"]]),
        }
        for line in lines
    }


def settings_of(args: argparse.Namespace) -> Settings:
    """As the table's trainings have it, which its first line tells."""
    conditions = json.loads(args.table.read_text().splitlines()[0])["conditions"]
    names = ("cfg", "data", "hyp", "epochs", "batch_size", "imgsz")
    given = argparse.Namespace(**{n: conditions[n] for n in names}, device="cpu", yolov5=None)
    inherit_hyp, _ = load_yaml(shipped("data") / "hyp.inherit.yaml")
    inherit_hyp.pop("optimizer")
    return replace(make_table.make_settings(given), inherit_hyp=inherit_hyp)


def inherited(rows: Mapping[str, Any], settings: Settings, args: argparse.Namespace) -> dict[str, float]:
    """mAP50-95 of short trainings from the base's weights."""
    folder = args.folder / f"base-{args.base_epochs}-{args.seed}"
    default = settings.space.default()
    scratch = replace(settings, epochs=args.base_epochs, val_period=args.base_epochs)
    once(folder, lambda: run_trial(default, scratch, args.seed, folder))
    child = replace(settings.of_child(folder / WEIGHTS), epochs=args.inherit_epochs, val_period=args.inherit_epochs)
    return score_all(rows, folder / f"heirs-{args.inherit_epochs}", lambda a, f: run_trial(a, child, args.seed, f))


def one_shot(rows: Mapping[str, Any], settings: Settings, args: argparse.Namespace) -> dict[str, float]:
    """mAP50-95 of slices of the shared network."""
    folder = args.folder / f"shared-{args.one_shot_epochs}-{args.seed}"
    training = replace(settings, epochs=args.one_shot_epochs, val_period=4)
    once(folder, lambda: train_shared(settings.space.default(), training, args.seed, folder))
    scoring = replace(settings, weights=str(folder / WEIGHTS))
    return score_all(rows, folder / "scores", lambda a, f: score_trial(a, scoring, args.seed))


def score_all(rows: Mapping[str, Any], folder: Path, score: Callable[..., TrialResult]) -> dict[str, float]:
    """mAP50-95 by id, as `score` of an architecture and a folder gives it."""
    found = {}
    for name, row in rows.items():
        start = time.perf_counter()
        result = once(folder / name, partial(score, Architecture(row["architecture"]), folder / name))
        found[name] = result["map50_95"]
        seconds = time.perf_counter() - start
        print(f"{name}: mAP50-95 {result['map50_95']:.4f}, in full {row['truth']:.4f}, {seconds:.1f} s", flush=True)
    return found


def once(folder: Path, work: Callable[[], TrialResult]) -> dict[str, float]:
    """The metrics of some work, which an earlier call may have left in the folder."""
    kept = folder / "result.json"
    if not kept.exists():
        result = work()
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(kept, json.dumps(dict(result.metrics)))
    found: dict[str, float] = json.loads(kept.read_text())
    return found


if __name__ == "__main__":
    main()
