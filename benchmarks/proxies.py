"""How cheap scores rank the architectures of a table, beside what ranks them for nothing.

    python benchmarks/proxies.py

Each architecture of the table is scored in two ways: by a short training on weights that it inherits from stock
YOLOv5, which is trained once, and by its slice of one supernet, which is trained once too. Both are compared with
its full training from scratch (the table's mAP50-95, mean of its seeds) by Kendall's tau, beside GFLOPs and parameters.
It goes on where it was stopped, and its scores are kept beside the table. `--only` leaves one of the two out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent / "tables"))
import make_table
from search_efficiency import read_scores

from yolov5_nas.files import shipped
from yolov5_nas.records.journal import TrialResult
from yolov5_nas.results.statistics import Tau, tau_with_interval
from yolov5_nas.space.architecture import Architecture
from yolov5_nas.space.model_yaml import load_yaml
from yolov5_nas.training.scoring import score_trial
from yolov5_nas.training.settings import Settings
from yolov5_nas.training.supernet import train_supernet
from yolov5_nas.training.trial import run_trial

TABLE = make_table.HERE / "digits_hard_yolov5n_elastic.jsonl"
SCORES = TABLE.with_suffix(".scores.jsonl")
STEP = 8  # steps of stock YOLOv5n that one of the supernet costs, by GFLOPs (docs/one_shot.md)
COSTS = {"GFLOPs": "gflops", "parameters": "params"}


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    rows = read(args.table)
    settings = settings_of(args)
    if args.only != "one-shot":
        inherited(rows, settings, args)
    if args.only != "inherited":
        one_shot(rows, settings, args)
    print(f"\n{len(rows)} architectures of {args.table.name}\n")
    twice = {name: row["truths"] for name, row in rows.items() if len(row["truths"]) > 1}
    print(f"| score | tau with the mean of the trainings | with one of another seed, over {len(twice)} | mean |")
    print("|---|---|---|---|")
    full = {seed: {name: truths[seed] for name, truths in twice.items()} for seed in range(2)}
    for (label, seed), found in scores(rows, args.scores).items():
        value = tau_with_interval(list(found.values()), [rows[name]["truth"] for name in found])
        other = against(found, full[0 if seed else 1])
        own = (f", seed {seed}", f"{mean(found.values()):.3f}") if seed >= 0 else ("", "")  # costs have neither
        print(f"| {label}{own[0]} | {value} | {other} | {own[1]} |")
    print(f"| a full training, seed 0 | | {against(full[0], full[1])} | {mean(full[0].values()):.3f} |")


def against(found: Mapping[str, float], truths: Mapping[str, float]) -> Tau:
    """Tau over the architectures that both have."""
    both = [name for name in truths if name in found]
    return tau_with_interval([found[name] for name in both], [truths[name] for name in both])


def scores(rows: Mapping[str, Any], path: Path) -> dict[tuple[str, int], dict[str, float]]:
    """All scores that are known, by what they are and their seed, then by architecture; the costs first."""
    found = {(name, -1): {i: row[metric] for i, row in rows.items()} for name, metric in COSTS.items()}
    for line in read_scores(path):
        if line["id"] in rows:
            found.setdefault((line["score"], line["seed"]), {})[line["id"]] = line["map50_95"]
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--scores", type=Path, default=SCORES, help="file with a line for each score, which grows")
    parser.add_argument("--base-epochs", type=int, default=36)
    parser.add_argument("--inherit-epochs", type=int, default=3)
    parser.add_argument("--one-shot-epochs", type=int, default=36)
    parser.add_argument("--warm", action="store_true", help="the supernet starts from the base's weights")
    parser.add_argument("--only", choices=("inherited", "one-shot"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("runs/proxies"))
    return parser.parse_args()


def read(table: Path) -> dict[str, dict[str, Any]]:
    """The table's architectures by id, with costs, `truths`, the mAP50-95 of each seed, and `truth`, their mean."""
    lines = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]
    truths = defaultdict(list)
    for line in lines:
        truths[line["id"]].append(line["metrics"]["map50_95"])
    return {
        line["id"]: {
            "architecture": line["architecture"],
            **line["costs"],
            "truths": truths[line["id"]],
            "truth": mean(truths[line["id"]]),
        }
        for line in lines
    }


def settings_of(args: argparse.Namespace) -> Settings:
    """As the table's trainings have it, which its first line tells."""
    conditions = json.loads(args.table.read_text(encoding="utf-8").splitlines()[0])["conditions"]
    names = ("cfg", "data", "hyp", "epochs", "batch_size", "imgsz")
    given = argparse.Namespace(**{n: conditions[n] for n in names}, device="cpu", yolov5=None)
    inherit_hyp, _ = load_yaml(shipped("data") / "hyp.inherit.yaml")
    inherit_hyp.pop("optimizer")
    return replace(make_table.make_settings(given), inherit_hyp=inherit_hyp)


def inherited(rows: Mapping[str, Any], settings: Settings, args: argparse.Namespace) -> None:
    """Score by short trainings from the base's weights."""
    name = f"{args.inherit_epochs} epochs on inherited weights (base: {args.base_epochs})"
    if not missing(name, rows, args):
        return
    folder = args.folder / f"base-{args.base_epochs}-{args.seed}"
    default = settings.space.default()
    scratch = replace(settings, epochs=args.base_epochs, val_period=args.base_epochs)
    if not (folder / "weights.pt").exists():
        run_trial(default, scratch, args.seed, folder)
    weights = str(folder / "weights.pt")
    child = replace(settings, weights=weights, base_epochs=None, epochs=args.inherit_epochs, val_period=1)
    epochs = {"base_epochs": args.base_epochs, "epochs": args.inherit_epochs}
    score_all(name, rows, args, epochs, lambda architecture: run_trial(architecture, child, args.seed))


def one_shot(rows: Mapping[str, Any], settings: Settings, args: argparse.Namespace) -> None:
    """Score by slices of the supernet."""
    after = f" (base: {args.base_epochs})" if args.warm else ""
    name = f"supernet of {args.one_shot_epochs} epochs{after}"
    if not missing(name, rows, args):
        return
    base = args.folder / f"base-{args.base_epochs}-{args.seed}" / "weights.pt" if args.warm else None
    folder = args.folder / f"shared-{args.one_shot_epochs}{f'-of-{args.base_epochs}' if base else ''}-{args.seed}"
    training = replace(settings, epochs=args.one_shot_epochs, val_period=4, weights=str(base) if base else None)
    if not (folder / "weights.pt").exists():
        train_supernet(settings.space.default(), training, args.seed, folder)
    scoring = replace(settings, weights=str(folder / "weights.pt"))
    epochs = {"base_epochs": STEP * args.one_shot_epochs + (args.base_epochs if base else 0), "epochs": 0}
    score_all(name, rows, args, epochs, lambda architecture: score_trial(architecture, scoring, args.seed))


def score_all(
    name: str,
    rows: Mapping[str, Any],
    args: argparse.Namespace,
    epochs: Mapping[str, int],
    score: Callable[[Architecture], TrialResult],
) -> None:
    """Score what has no such score of this seed yet; a line in the file for each."""
    for i in missing(name, rows, args):
        start = time.perf_counter()
        result = score(Architecture(rows[i]["architecture"]))
        seconds, value = time.perf_counter() - start, result.metrics["map50_95"]
        line = {"score": name, **epochs, "seed": args.seed, "id": i, "map50_95": value, "curve": list(result.curve)}
        with args.scores.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**line, "seconds": round(seconds, 1)}) + "\n")
        print(f"{i}: mAP50-95 {value:.4f}, in full {rows[i]['truth']:.4f}, {seconds:.1f} s", flush=True)


def missing(name: str, rows: Mapping[str, Any], args: argparse.Namespace) -> list[str]:
    """The architectures that have no such score of this seed yet."""
    known = {line["id"] for line in read_scores(args.scores) if (line["score"], line["seed"]) == (name, args.seed)}
    return [i for i in rows if i not in known]


if __name__ == "__main__":
    main()
