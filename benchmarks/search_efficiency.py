"""What a search costs and finds, replayed on a table's trainings in seconds.

    python benchmarks/search_efficiency.py

A search goes through the table's architectures in a random order, one at a time. Told are:

- Early stopping, over `--seeds` orders: epochs saved when each curve is validated as often as `--prune` does, and what
  is lost of the hypervolume of the front (mAP50-95 over GFLOPs) or of the best reward.
- Compute until the search first holds an architecture within 1 % of the table's best reward, its base's training
  included, over 200 orders, and how good what it holds is. The unit is what an epoch of stock YOLOv5n costs: an epoch
  of another architecture counts as its processor time in the table. What a search holds is what its own scores put
  first. How good that is in truth is the table's mean over seeds, of which a score from scratch is itself a part, in
  its favour. So it is told a second time, for the architectures with two seeds: the truth is then a training with
  another seed than the score's. From scratch each is trained in full, or its training is broken off after a third or
  two ninths of the epochs; the scores of `proxies.py` are what inherited weights and the supernet gave. On
  inherited weights stock, which takes them whole and would be held to the end, is left out. `--draw` draws the second.
- The best of the few that each kind of score puts first, as when `prove` trains those in full.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Any

import numpy as np

from yolov5_nas.records.journal import TrialRecord, best, front
from yolov5_nas.records.reward import Reward, SoftReward, Target
from yolov5_nas.strategies.early_stopping import Curves, best_so_far

TABLE = Path(__file__).parent / "tables/digits_hard_yolov5n_elastic.jsonl"
Table = dict[str, list[dict[str, Any]]]
NEAR = 0.99  # of the best reward
ORDERS = 200  # in which a search goes through the table
BUDGETS = (80, 160, 400)  # epochs
FIRST = (1, 3, 5, 10)
SETTLING = 0.4  # epochs of stock YOLOv5n that mapping weights, refitting them and estimating batch norm take
FRONT = ("map50_95", "gflops")


def main() -> None:
    args = parse()
    table = read(args.table)
    stock = next(iter(table.values()))[0]  # the table's first line
    reward = SoftReward([Target("gflops", stock["costs"]["gflops"])])
    early_stopping(table, reward, args)
    compute(table, reward, args)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--scores", type=Path, default=TABLE.with_suffix(".scores.jsonl"))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--every", type=int, default=3, help="epochs between validations")
    parser.add_argument("--draw", type=Path, metavar="PNG")
    return parser.parse_args()


# Early stopping -------------------------------------------------------------------------------------------------------


def early_stopping(table: Table, reward: Reward, args: argparse.Namespace) -> None:
    """Print what it saves and loses."""
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


def read(path: Path) -> Table:
    """The table's lines by architecture."""
    found = defaultdict(list)
    for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        found[line["id"]].append(line)
    return dict(sorted(found.items(), key=lambda item: item[1][0]["number"]))


def shuffled(table: Table, seed: int) -> list[dict[str, Any]]:
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
    low, middle, high = quantiles(values, n=4)
    return f"{middle:.1%} ({low:.1%} to {high:.1%})"


# Compute --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """A way to search.

    Args:
        base: epochs before the first score.
        each: epochs of a score.
        scores: rewards by seed, then by architecture, as the search sees them.
        prices: of an epoch of each architecture, in epochs of stock YOLOv5n.
    """

    name: str
    base: float
    each: float
    scores: Mapping[int, Mapping[str, float]]
    prices: Mapping[str, float]

    def held(self, order: int, truth: int | None = None) -> list[tuple[float, str]]:
        """Epochs, and the architecture that is held from then on.

        Args:
            truth: the seed of the training that judges, which no score may have.
        """
        rng, seeds = random.Random(order), sorted(self.scores)
        scores = self.scores[rng.choice([seed for seed in seeds if seed != truth] or seeds)]
        names, spent = sorted(scores), self.base
        held: list[tuple[float, str]] = []
        rng.shuffle(names)
        for name in names:
            spent += self.each * self.prices[name]
            if not held or scores[name] > scores[held[-1][1]]:
                held.append((spent, name))
        return held

    def first(self, count: int, truths: Mapping[str, float]) -> float:
        """The best in truth of the few that the scores put first, mean over their seeds."""
        tops = [sorted(scores, key=lambda name: -scores[name])[:count] for scores in self.scores.values()]
        return mean(max(truths[name] for name in top) for top in tops)


def compute(table: Table, reward: Reward, args: argparse.Namespace) -> None:
    """Print, and draw, what each way of searching needs and finds."""
    means = {name: rewarded(lines, reward) for name, lines in table.items()}
    paths = judged(table, {None: means}, reward, args)
    twice = {name: lines[:2] for name, lines in table.items() if len(lines) > 1}
    if len(twice) > 2:
        print("\nJudged by a training with another seed:")
        others: dict[int | None, dict[str, float]] = {}
        for seed in range(2):
            others[seed] = {name: rewarded([lines[seed]], reward) for name, lines in twice.items()}
        paths = judged(twice, others, reward, args)
    first_few(table, means, reward, args)
    if args.draw:
        draw(paths, args.draw)


def rewarded(lines: Sequence[dict[str, Any]], reward: Reward) -> float:
    """The reward of an architecture with the mean mAP of some of its trainings."""
    accuracy = mean(line["metrics"]["map50_95"] for line in lines)
    return reward({"map50_95": accuracy, "gflops": lines[0]["costs"]["gflops"]})


def judged(
    table: Table, truths: Mapping[int | None, Mapping[str, float]], reward: Reward, args: argparse.Namespace
) -> dict[str, list[list[tuple[float, float]]]]:
    """Print what each way needs and finds.

    Args:
        truths: rewards of the table's architectures, by the seed of the trainings that they are of; the replays take
            them in turn.

    Returns:
        For each way its replays: epochs, and the reward of what is held from then on as a share of the best.
    """
    shares = {seed: {name: value / max(of.values()) for name, value in of.items()} for seed, of in truths.items()}
    good = " or ".join(str(sum(value >= NEAR for value in share.values())) for share in shares.values())
    drawn = mean(value for share in shares.values() for value in share.values())
    print(f"\n{good} of {len(table)} architectures are within 1 % of the best reward; the mean has {drawn:.1%} of it\n")
    after = " | ".join(f"held after {epochs}" for epochs in BUDGETS)
    print(f"| search | epochs until one is held first, median (quartiles) | times less | by | {after} | at the end |")
    print("|---" * (5 + len(BUDGETS)) + "|")
    paths, slowest = {}, 0.0  # that is from scratch with full trainings, the first
    for way in ways(table, reward, args.scores):
        runs = []
        for order in range(ORDERS):
            seed = sorted(shares, key=str)[order % len(shares)]
            runs.append([(epochs, shares[seed][name]) for epochs, name in way.held(order, seed)])
        first = [next((e for e, value in run if value >= NEAR), math.inf) for run in runs]
        shown = " to ".join(f"{e:.0f}" for e in np.quantile(first, (0.25, 0.75), method="nearest"))
        slowest = slowest or median(first)
        less = f"{slowest / median(first):.1f}" if math.isfinite(median(first)) else ""
        cells = [f"{median(first):.0f} ({shown})", less, f"{sum(map(math.isfinite, first))} of {len(runs)}"]
        print(f"| {' | '.join([way.name, *cells, *(_held_after(runs, e) for e in (*BUDGETS, math.inf))])} |")
        paths[way.name] = runs
    return paths


def _held_after(runs: Sequence[Sequence[tuple[float, float]]], epochs: float) -> str:
    """Share of the best reward, mean over the replays; empty where some hold nothing yet."""
    held = [[value for spent, value in run if spent <= epochs] for run in runs]
    return f"{mean(values[-1] for values in held):.1%}" if all(held) else ""


def first_few(table: Table, truths: Mapping[str, float], reward: Reward, args: argparse.Namespace) -> None:
    """Print how good the best of the first few is by each kind of score."""
    best, stock = max(truths.values()), next(iter(table))
    rng, others = random.Random(0), [value for name, value in truths.items() if name != stock]
    print("\n| the best of the first | " + " | ".join(map(str, FIRST)) + " |")
    print("|---" * (1 + len(FIRST)) + "|")
    drawn = [mean(max(rng.sample(others, count)) for _ in range(2000)) / best for count in FIRST]
    print("| drawn at random | " + " | ".join(f"{value:.1%}" for value in drawn) + " |")
    for way in ways(table, reward, args.scores):
        if way.base:
            cells = (f"{way.first(count, truths) / best:.1%}" for count in FIRST)
            print(f"| {way.name}, {len(way.scores)} seeds | {' | '.join(cells)} |")


def ways(table: Table, reward: Reward, scores: Path) -> list[Way]:
    """The ways of searching that there are results for."""
    gflops = {name: lines[0]["costs"]["gflops"] for name, lines in table.items()}
    seconds = {name: mean(line["costs"]["cpu_seconds"] for line in lines) for name, lines in table.items()}
    stock = next(iter(table))
    prices = {name: value / seconds[stock] for name, value in seconds.items()}
    return [*from_scratch(table, reward, gflops, prices), *by_proxies(scores, stock, reward, gflops, prices)]


def from_scratch(table: Table, reward: Reward, gflops: Mapping[str, float], prices: Mapping[str, float]) -> list[Way]:
    """Random search with full trainings, and with such that are broken off."""
    epochs = int(next(iter(table.values()))[0]["curve"][-1]["epoch"])
    found = []
    for each in (epochs, epochs // 3, 2 * epochs // 9):
        scores = {}
        for seed in range(2):
            accuracy = {n: best_so_far(_until(lines[seed % len(lines)], each)) for n, lines in table.items()}
            scores[seed] = {n: reward({**a, "gflops": gflops[n]}) for n, a in accuracy.items()}
        found.append(Way(f"from scratch, {each} epochs each", 0, each, scores, prices))
    return found


def by_proxies(
    path: Path, stock: str, reward: Reward, gflops: Mapping[str, float], prices: Mapping[str, float]
) -> list[Way]:
    """Random search with each kind of score that `proxies.py` has left."""
    found: dict[str, dict[int, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    costs = {}
    for line in read_scores(path):
        if line["id"] not in gflops or (line["epochs"] and line["id"] == stock):
            continue
        metrics = {"map50_95": line["map50_95"], "gflops": gflops[line["id"]]}
        found[line["score"]][line["seed"]][line["id"]] = reward(metrics)
        costs[line["score"]] = (line["base_epochs"], line["epochs"] + SETTLING)
    return [Way(name, *costs[name], by_seed, prices) for name, by_seed in found.items()]


def read_scores(path: Path) -> Iterator[dict[str, Any]]:
    """The scores that `proxies.py` has left, and what those of several epochs were after the first."""
    for line in map(json.loads, path.read_text(encoding="utf-8").splitlines() if path.exists() else ()):
        yield line
        if len(line["curve"]) > 1:
            yield {**line, "score": f"the first of {line['score']}", "epochs": 1, **line["curve"][0]}


def _until(line: dict[str, Any], epoch: int) -> list[dict[str, float]]:
    return [point for point in line["curve"] if point["epoch"] <= epoch]


def draw(paths: Mapping[str, Sequence[Sequence[tuple[float, float]]]], path: Path) -> None:
    """Reward of what is held, over compute: mean of the replays, from where all hold something."""
    import matplotlib.pyplot as plt
    import seaborn as sns
    from matplotlib.ticker import PercentFormatter

    sns.set_theme(style="whitegrid")
    figure, axes = plt.subplots(figsize=(8, 4.5))
    last = max(run[-1][0] for runs in paths.values() for run in runs)
    for color, (name, runs) in zip(sns.color_palette("colorblind"), paths.items()):
        grid = np.geomspace(max(run[0][0] for run in runs), last, 400)
        values = [[[v for e, v in run if e <= x][-1] for x in grid] for run in runs]
        axes.plot(grid, np.mean(values, axis=0), label=name, color=color, linestyle="-" if "scratch" in name else "--")
    axes.axhline(NEAR, color="0.4", linewidth=1, linestyle=":")
    axes.set(xscale="log", xlabel="compute, in epochs of stock YOLOv5n", ylabel="reward of what is held / best")
    ticks = [t for t in (10, 20, 50, 100, 200, 500, 1000) if t < last]
    axes.set_xticks(ticks, map(str, ticks))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(loc="upper left", bbox_to_anchor=(-0.08, -0.14), ncols=2, fontsize=9, frameon=False)
    figure.savefig(path, dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main()
