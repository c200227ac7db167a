"""Whether a replacement search's scores rank networks as fine-tuning them does, in a narrow band of cost.

    yolov5-nas search --method replace --weights best.pt --data my.yaml --latency-backend onnx --trials 0
    python benchmarks/fidelity.py RUN

Networks between 0.75 and 0.85 of the parent's GFLOPs, half of them drawn at random and half plans in which some layers
were changed, are scored, measured, and fine-tuned alike with two seeds. Ten decide which kind of score is taken, 24
others judge it: by Kendall's tau with the mean of their trainings, and paired differences to the score, with 95 %
intervals of a bootstrap over networks. Lines go to RUN/fidelity.jsonl, where a later call goes on.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jobs import lines_of
from replacement import Run, add_options, options_of, parent_settings, train

from yolov5_nas.records.journal import TrialResult
from yolov5_nas.records.options import Options
from yolov5_nas.results.replacement import read_table
from yolov5_nas.results.statistics import tau_b
from yolov5_nas.run.replace import joint
from yolov5_nas.space.architecture import Architecture
from yolov5_nas.strategies.knapsack import Limit, plan
from yolov5_nas.strategies.replacement import Table, changed

BAND = (0.75, 0.85)  # of the parent's GFLOPs
SAMPLES = 4000  # of a bootstrap
LEAST = 10  # networks that a tau says something about
SCORE = "sum of rises"  # what a search plans by


@dataclass(frozen=True)
class Job:
    """One thing to do for a network: its score (no epochs), or a training."""

    network: Architecture
    group: str
    seed: int
    epochs: int

    @property
    def labels(self) -> dict[str, Any]:
        """By which it is known what was done."""
        return {"id": self.network.id, "group": self.group, "seed": self.seed, "epochs": self.epochs}


# Networks -------------------------------------------------------------------------------------------------------------


def drawn(table: Table, count: int, seed: int) -> list[Architecture]:
    """Architectures in the band: half at random, half plans in which one to four layers were changed."""
    rng = random.Random(seed)
    found: dict[str, Architecture] = {}
    while len(found) < count:
        if len(found) < count // 2:
            (one,) = joint(table, 1, rng.randrange(2**31))
        else:
            one = perturbed(table, rng)
        if BAND[0] <= table.ratio(one, "gflops") <= BAND[1]:
            found.setdefault(one.id, one)
    return list(found.values())


def perturbed(table: Table, rng: random.Random) -> Architecture:
    """A plan for a random share of the GFLOPs, in which one to four layers are something else."""
    best = plan(table, [Limit("gflops", rng.uniform(*BAND))])
    assert best, "no plan reaches the band"
    own = {item.layer: item for item in table.of(best)}
    for layer in rng.sample([i for i, items in table.items.items() if items], rng.randint(1, 4)):
        own[layer] = rng.choice(table.items[layer])
    return changed(table.parent, (entry for item in own.values() for entry in item.change))


# What is done with them -----------------------------------------------------------------------------------------------


def do(job: Job, run: Path, o: Options) -> dict[str, Any]:
    """The metrics of a job."""
    if job.epochs:
        name = f"fidelity {job.network.id} {job.epochs}"
        return train(Run(name, dict(job.network), job.seed, job.epochs), run, o)
    from yolov5_nas.training.replacement import score_replacement

    settings = replace(parent_settings(run, o), needed=("latency_ratio",))
    result: TrialResult = score_replacement(job.network, settings, o.seed)
    return dict(result.metrics)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choose", type=int, default=10, help="networks that choose the kind of score")
    parser.add_argument("--judge", type=int, default=24, help="networks that judge it")
    parser.add_argument("--seeds", type=int, nargs=2, default=[11, 12])
    add_options(parser, epochs=10)
    args = parser.parse_args()
    o = options_of(args)
    table = read_table(args.run, o)
    assert table, f"{args.run} has no table"
    groups = {"judge": drawn(table, args.judge, 2), "choose": drawn(table, args.choose, 1)}
    jobs = [
        Job(network, group, seed, epochs)
        for group, networks in groups.items()
        for seed, epochs in ((0, 0), (args.seeds[0], 1), *((seed, args.epochs) for seed in args.seeds))
        for network in networks
    ]
    lines = lines_of(jobs, do, args.run / "fidelity.jsonl", args.jobs, args.run, o)
    for group, networks in groups.items():
        half = len(networks) // 2
        parts = {"all": networks, "drawn at random": networks[:half], "changed plans": networks[half:]}
        for name, some in parts.items():
            if len(some) >= LEAST:
                print(f"\n{group}, {name}\n\n" + judged(some, lines, table, args))


# How they rank --------------------------------------------------------------------------------------------------------


def judged(networks: Sequence[Architecture], lines: Sequence[Mapping[str, Any]], table: Table, args: Any) -> str:
    """Kendall's tau of each score with the trainings; differences to the first score's."""
    by = {(line["id"], line["seed"], line["epochs"]): line for line in lines}
    one, other = ([by[a.id, seed, args.epochs]["map50_95"] for a in networks] for seed in args.seeds)
    score = {a.id: by[a.id, 0, 0] for a in networks}
    scores = {
        SCORE: [-table.rise(a) for a in networks],
        "rise of the whole": [-score[a.id]["rise"] for a in networks],
        "one epoch": [by[a.id, args.seeds[0], 1]["map50_95"] for a in networks],
        "GFLOPs": [score[a.id]["gflops"] for a in networks],
        "latency": [score[a.id]["latency_ratio"] for a in networks],
    }
    truth = np.mean([one, other], axis=0).tolist()
    rows = [
        "| score | tau with the mean | less than the first by | with one training |",
        "|---|---|---|---|",
    ]
    first = scores[SCORE]
    for name, values in scores.items():
        less = "" if name == SCORE else difference(first, values, truth)
        rows.append(f"| {name} | {interval(values, truth)} | {less} | {tau_b(values, one):.2f} |")
    return "\n".join([*rows, f"| another training | | | {interval(other, one)} |"])


def resampled(count: int) -> np.ndarray:
    """(SAMPLES, count), indices."""
    return np.random.default_rng(0).integers(0, count, (SAMPLES, count))


def sampled(values: Sequence[float], other: Sequence[float]) -> np.ndarray:
    """(SAMPLES), taus over networks that are drawn again."""
    own, truth = np.array(values), np.array(other)
    return np.array([tau_b(own[i].tolist(), truth[i].tolist()) for i in resampled(len(own))])


def interval(values: Sequence[float], other: Sequence[float]) -> str:
    """Tau with its 95 % interval."""
    low, high = np.nanpercentile(sampled(values, other), [2.5, 97.5])
    return f"{tau_b(values, other):.2f} ({low:.2f} to {high:.2f})"


def difference(better: Sequence[float], worse: Sequence[float], other: Sequence[float]) -> str:
    """Of two taus over the same networks, with its 95 % interval."""
    low, high = np.nanpercentile(sampled(better, other) - sampled(worse, other), [2.5, 97.5])
    return f"{tau_b(better, other) - tau_b(worse, other):.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
