"""Whether a replacement search's plans are worth training: each beside its parent and random architectures.

    yolov5-nas search --method replace --weights best.pt --data my.yaml --latency-backend onnx --trials 0
    python benchmarks/replacement.py RUN --target 0.8 --seeds 1 2 3 4 5 --epochs 20

From the parent's weights the plan, the parent itself and three random architectures of the plan's latency are trained
for the same further epochs, with seeds that the search did not use; the mAP50-95 of the last epoch counts. Random ones
are those that the search measured, the nearest to the plan's latency, refitted like the plan. `--scratch EPOCHS` trains
the plan once more from nothing; `--rivals` trains those of the plan too, where a search has measured them. Lines go to
RUN/replacement.jsonl (with `--distill` RUN/replacement_taught.jsonl), where a later call goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs import lines_of

from yolov5_nas.records.journal import TrialRecord, TrialResult, latest, read_lines
from yolov5_nas.records.options import Options, load_options
from yolov5_nas.records.reward import Target
from yolov5_nas.records.run_folder import RunFolder
from yolov5_nas.results.replacement import Winner, planned
from yolov5_nas.results.rivals import rivals
from yolov5_nas.strategies.savings import measured_costs

RANDOM = 3


@dataclass(frozen=True)
class Run:
    """One training."""

    name: str
    architecture: dict[str, Any]
    seed: int
    epochs: int
    from_scratch: bool = False

    @property
    def labels(self) -> dict[str, Any]:
        """By which it is known what was done."""
        return {"name": self.name, "seed": self.seed, "epochs": self.epochs}


def options_of(args: argparse.Namespace) -> Options:
    """The run's options, with files where they lie now."""
    o = Options().with_given(load_options(RunFolder(args.run).options))
    given = {"data": args.data, "yolov5": args.yolov5, "device": args.device, "distill": args.distill}
    weights = args.weights or (RunFolder(args.run).parent.trial(0).weights if o.base_epochs else o.weights)
    return replace(o, base_epochs=None, weights=str(weights), **{k: v for k, v in given.items() if v})


def add_options(parser: argparse.ArgumentParser, epochs: int) -> None:
    """The run, how its networks are trained, and where its files lie now."""
    parser.add_argument("run", type=Path)
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--distill", help="teach all: `parent`, or a checkpoint, as a search takes it")
    parser.add_argument("--data", help="the data YAML, where it is not where the search found it")
    parser.add_argument("--weights", help="the parent, likewise")
    parser.add_argument("--yolov5", help="a clone of YOLOv5, likewise")


def contestants(
    run: Path, o: Options, target: float, randoms: int, with_rivals: bool
) -> list[tuple[str, dict[str, Any], float]]:
    """Name, architecture and cost of the plan for a target and of random architectures near its cost."""
    metric = measured_costs(o)[0]
    plan = next(w.record for w in planned(run, o) if w.targets[0].value == target)
    assert plan, f"no plan keeps to {target}"
    drawn = [r for r in latest(read_lines(RunFolder(run).latencies.journal)).values() if r.state == "complete"]
    cost = plan.metrics[metric]
    near = sorted((r for r in drawn if not r.is_reference), key=lambda r: abs(r.metrics[metric] - cost))[:randoms]
    return [
        named(f"plan {target:g}", plan, metric),
        *(named(f"random {r.number} at {target:g}", r, metric) for r in near),
        *(rivals_of(run, plan, target, o) if with_rivals else []),
    ]


def rivals_of(run: Path, plan: TrialRecord, target: float, o: Options) -> list[tuple[str, dict[str, Any], float]]:
    """The same of the parent at other widths and at a smaller input size, of a plan's cost."""
    costs = {r.id: r.metrics["latency_ratio"] for r in read_lines(RunFolder(run).rivals.latencies.journal) if r.done}
    found = rivals(run, [Winner((Target("latency_ratio", target),), plan)], o)
    return [(f"{r.name}, for {target:g}", dict(r.architecture), costs[r.architecture.id]) for r in found]


def named(name: str, record: TrialRecord, metric: str) -> tuple[str, dict[str, Any], float]:
    return name, dict(record.architecture), record.metrics[metric]


def parent_settings(folder: Path, o: Options) -> Any:
    """A trial's settings in this process, on one thread, by the parent in `o.weights`."""
    import torch

    from yolov5_nas.engines.local import own_device
    from yolov5_nas.run.prepare import settings_of

    torch.set_num_threads(1)
    alone: dict[str, Any] = {"constraints": (), "needed": (), "hooks": (), "workers": 0, "base_epochs": None}
    return replace(settings_of(folder, o), replaces=True, device=own_device(o.device), **alone)


def train(run: Run, folder: Path, o: Options) -> dict[str, Any]:
    """The last epoch's accuracies of one training."""
    from yolov5_nas.run.rivals import having
    from yolov5_nas.training.trial import run_trial

    settings = replace(
        parent_settings(folder, o), epochs=run.epochs, val_period=run.epochs, replaces=not run.from_scratch
    )
    if run.from_scratch:
        settings = replace(settings, weights=None)
    settings = having(run.architecture, settings)
    log = folder / "benchmark" / f"{run.name} {run.seed}".replace(" ", "_")
    result = run_trial(run.architecture, settings, run.seed, log, TrialResult({"params": 0.0}))
    (log / "weights.pt").unlink()
    return {**result.metrics, "classes": dict(result.classes)}


def wanted(args: argparse.Namespace, o: Options) -> list[Run]:
    default = json.loads(RunFolder(args.run).replacements.journal.read_text(encoding="utf-8").split("\n")[0])[
        "architecture"
    ]
    runs = []
    for target in args.target:
        for name, architecture, _ in contestants(args.run, o, target, args.randoms, args.rivals):
            runs += [Run(name, architecture, seed, args.epochs) for seed in args.seeds]
            if name.startswith("plan") and args.scratch:
                runs.append(Run(f"{name} from scratch", architecture, args.seeds[0], args.scratch, True))
    return [*(Run("parent", default, seed, args.epochs) for seed in args.seeds), *runs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=float, nargs="+", default=[0.8])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--randoms", type=int, default=RANDOM)
    parser.add_argument("--rivals", action="store_true", help="train the parent at other widths and input sizes too")
    parser.add_argument("--scratch", type=int, help="epochs of the plan's training from nothing")
    add_options(parser, epochs=20)
    args = parser.parse_args()
    o, file = options_of(args), args.run / ("replacement_taught.jsonl" if args.distill else "replacement.jsonl")
    runs = sorted(wanted(args, o), key=lambda run: -run.epochs)  # what takes longest starts first
    print("\n" + table(lines_of(runs, train, file, args.jobs, args.run, o), args, o))


def table(lines: list[dict[str, Any]], args: argparse.Namespace, o: Options) -> str:
    """Means over seeds, and differences to the parent of the same seed with their 95 % intervals."""
    costs = {
        name: cost
        for target in args.target
        for name, _, cost in contestants(args.run, o, target, args.randoms, args.rivals)
    }
    scores: dict[str, dict[int, float]] = {}
    for line in lines:
        scores.setdefault(line["name"], {})[line["seed"]] = line["map50_95"]
    rows = [f"| | {measured_costs(o)[0]} | seeds | mAP50-95 | against the parent |", "|---|---|---|---|---|"]
    parent = scores["parent"]
    for name, own in scores.items():
        apart = [own[seed] - parent[seed] for seed in own if seed in parent] if name != "parent" else []
        shown = interval(apart) if apart else ""
        cost = f"{costs[name]:.3f}" if name in costs else ""
        rows.append(f"| {name} | {cost} | {len(own)} | {statistics.mean(own.values()):.3f} | {shown} |")
    return "\n".join(rows)


def interval(apart: Sequence[float]) -> str:
    """The mean of differences with its 95 % interval."""
    from scipy.stats import t

    if len(apart) < 2:
        return f"{statistics.mean(apart):+.3f}" if apart else "-"
    half = t.ppf(0.975, len(apart) - 1) * statistics.stdev(apart) / len(apart) ** 0.5
    return f"{statistics.mean(apart):+.3f} ± {half:.3f}"


if __name__ == "__main__":
    main()
