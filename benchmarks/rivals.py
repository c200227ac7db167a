r"""What a search over scale, input size and layers together finds, beside each of the three alone, at the same latency.

    yolov5-nas search --weights best.pt --data my.yaml --cfg formed.yaml --epochs 25 \
                      --target latency_ratio=0.8,0.6,0.45
    yolov5-nas search --method replace --weights best.pt --data my.yaml --trials 0
    python benchmarks/rivals.py RUN LAYERS --seeds 1 2 3 --epochs 25 --draw rivals.png

`formed.yaml` is the elastic YAML with `scale` and `imgsz` at its top. RUN's winners, LAYERS' plans (of layers alone),
and RUN's rivals (the parent at other widths, and at a smaller input size) are trained alike from the parent's weights,
by seeds that the searches did not use; the mAP50-95 of the last epoch counts. Before that their latencies are measured
anew, by turns, since those by which a search chose err to the low side. Layers alone may have other targets: they do
not reach the lowest. Lines go to RUN/together.jsonl and RUN/together_latency.jsonl, where a later call goes on.
Differences are paired by target and seed; for the pooled one the rivals' mean is taken first, since all of a pair are
to one and the same training.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs import lines_of
from replacement import Run, add_options, interval, options_of, parent_settings, train

from yolov5_nas.records.journal import read_journal
from yolov5_nas.records.options import Options, load_options
from yolov5_nas.records.run_folder import RunFolder
from yolov5_nas.results.replacement import Winner, planned, winners
from yolov5_nas.results.rivals import rivals
from yolov5_nas.run.rivals import having
from yolov5_nas.training.trial import measure_trial

TOGETHER, LAYERS, WIDTHS, SIZE, PARENT = "all together", "layers alone", "widths alone", "input size alone", "parent"
TURNS = 3  # in which each latency is measured
KINDS = {"scale": WIDTHS, "imgsz": SIZE}
COLOURS = {TOGETHER: "#009e73", LAYERS: "#0072b2", WIDTHS: "#d55e00", SIZE: "#e69f00", PARENT: "#5f6368"}
MARKS = {TOGETHER: "*", LAYERS: "o", WIDTHS: "s", SIZE: "D", PARENT: "P"}


@dataclass(frozen=True)
class Contestant:
    """What is trained for a target."""

    way: str
    target: float
    architecture: dict[str, Any]
    cost: float = 1.0  # latency as a share of the parent's

    @property
    def name(self) -> str:
        return f"{self.way} at {self.target:g}" if self.way != PARENT else PARENT


def contestants(run: Path, layers: Path) -> list[Contestant]:
    """The parent, what RUN found with its rivals, and what LAYERS planned; each network once."""
    o, of_layers = (Options().with_given(load_options(RunFolder(folder).options)) for folder in (run, layers))
    records = read_journal(run)
    default = dict(next(r for r in records if r.is_reference).architecture)
    every = [Contestant(PARENT, 1.0, default)]
    for way, found in ((TOGETHER, winners(run, records, o)), (LAYERS, planned(layers, of_layers))):
        for winner in found:
            target = float(winner.targets[0].value)
            if winner.record is None:
                print(f"{way}: nothing keeps to {target:g}")
                continue
            every.append(Contestant(way, target, {**default, **winner.record.architecture}))
            every += _rivals(run, winner, o, target) if way == TOGETHER else []
    distinct: dict[str, Contestant] = {}
    for one in every:
        distinct.setdefault(one.way + json.dumps(one.architecture, sort_keys=True), one)
    return list(distinct.values())


def _rivals(run: Path, winner: Winner, o: Options, target: float) -> list[Contestant]:
    return [Contestant(KINDS[r.kind], target, dict(r.architecture)) for r in rivals(run, [winner], o) if r.record]


def measure(run: Run, folder: Path, o: Options) -> dict[str, Any]:
    """The latency of one network beside its parent's."""
    settings = replace(parent_settings(folder, o), needed=("latency_ratio",))
    return dict(measure_trial(run.architecture, having(run.architecture, settings), run.seed).metrics)


def measured(found: list[Contestant], args: argparse.Namespace, o: Options) -> list[Contestant]:
    """The same, with the median of what was measured by turns."""
    jobs = [Run(one.name, one.architecture, turn, 0) for turn in range(TURNS) for one in found]
    lines = lines_of(jobs, measure, args.run / "together_latency.jsonl", 1, args.run, o)
    costs: dict[str, list[float]] = {}
    for line in lines:
        costs.setdefault(line["name"], []).append(line["latency_ratio"])
    return [replace(one, cost=statistics.median(costs[one.name])) for one in found]


def table(found: list[Contestant], lines: list[dict[str, Any]]) -> str:
    """Means over seeds, differences to the parent, and what all together is above each rival, paired by seed."""
    scores = {(line["name"], line["seed"]): line["map50_95"] for line in lines}
    seeds = sorted({seed for _, seed in scores})

    def apart(own: Contestant, other: Contestant) -> list[float]:
        return [scores[own.name, seed] - scores[other.name, seed] for seed in seeds]

    rows = ["| target | network | latency | mAP50-95 | by seed | against the parent |", "|---|---|---|---|---|---|"]
    for one in found:
        own = [scores[one.name, seed] for seed in seeds]
        shown = ", ".join(f"{score:.3f}" for score in own)
        target, against = ("", "") if one.way == PARENT else (f"{one.target:g}", interval(apart(one, found[0])))
        rows.append(f"| {target} | {one.way} | {one.cost:.3f} | {statistics.mean(own):.3f} | {shown} | {against} |")
    rows += ["", "| all together is above | by | pairs |", "|---|---|---|"]
    best = {one.target: one for one in found if one.way == TOGETHER}
    pooled: dict[tuple[float, int], list[float]] = {}  # of a target and a seed, which have one winner's score
    for way in (LAYERS, WIDTHS, SIZE):
        pairs = [(best[one.target], one) for one in found if one.way == way and one.target in best]
        differences = []
        for winner, rival in pairs:
            for seed, difference in zip(seeds, apart(winner, rival)):
                pooled.setdefault((winner.target, seed), []).append(difference)
                differences.append(difference)
        rows.append(f"| {way} | {interval(differences)} | {len(differences)} |")
    means = [statistics.mean(several) for several in pooled.values()]
    return "\n".join([*rows, f"| the mean of them | {interval(means)} | {len(means)} |"])


def draw(found: list[Contestant], lines: list[dict[str, Any]], epochs: int, file: Path) -> None:
    """mAP50-95 against latency: means, and each seed's as a dot."""
    import seaborn as sns
    from matplotlib.figure import Figure

    scores: dict[str, list[float]] = {}
    for line in lines:
        scores.setdefault(line["name"], []).append(line["map50_95"])
    parent = statistics.mean(scores[PARENT])
    with sns.axes_style("whitegrid", {"grid.color": "#e8eaed", "axes.edgecolor": "#80868b"}):
        figure = Figure(figsize=(8.5, 4.8), layout="constrained")
        axes = figure.subplots()
    sns.despine(figure)
    axes.axhline(parent, color=COLOURS[PARENT], linewidth=0.8, linestyle="--")
    for way, colour in COLOURS.items():
        own = sorted((one for one in found if one.way == way), key=lambda one: one.cost)
        costs, means = [one.cost for one in own], [statistics.mean(scores[one.name]) for one in own]
        size = 17 if way == TOGETHER else 9
        style: dict[str, Any] = {"marker": MARKS[way], "markersize": size, "markeredgecolor": "white", "linewidth": 1.4}
        axes.plot(costs, means, color=colour, label=way, zorder=4 if way == TOGETHER else 3, **style)
        for one in own:
            axes.scatter([one.cost] * len(scores[one.name]), scores[one.name], s=9, color=colour, alpha=0.5, zorder=2)
    axes.set(xlabel="latency, as a share of the trained parent's", ylabel=f"mAP50-95 after {epochs} further epochs")
    figure.legend(loc="outside upper center", ncols=len(COLOURS), frameon=False)
    figure.savefig(file, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--draw", type=Path, help="a PNG to write")
    add_options(parser, epochs=25)
    parser.add_argument("layers", type=Path, help="the run without scale and imgsz in its YAML")
    args = parser.parse_args()
    o = options_of(args)
    found = measured(contestants(args.run, args.layers), args, o)
    jobs = [Run(one.name, one.architecture, seed, args.epochs) for seed in args.seeds for one in found]
    lines = lines_of(jobs, train, args.run / "together.jsonl", args.jobs, args.run, o)
    lines = [line for line in lines if line["epochs"] == args.epochs and line["seed"] in args.seeds]
    print("\n" + table(found, lines))
    if args.draw:
        draw(found, lines, args.epochs, args.draw)


if __name__ == "__main__":
    main()
