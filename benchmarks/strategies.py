"""Which strategy finds the best architecture when one training says little: simulated searches of known rewards.

    python benchmarks/strategies.py --jobs 2

The reward of an architecture of a searchable YAML is a sum of one effect for each option and one for each pair of
options, all drawn from normal distributions; `additive` is the share of the variance over architectures that the first
make. What a strategy is told has noise, as a share of the standard deviation over architectures. Printed is the regret
of what a search names as its winner, the trial with the highest reward that it saw: how far its true reward is below
the highest there is, in standard deviations over architectures, the mean over seeds. Lines go to --out, where a later
call goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import os
import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from yolov5_nas.files import shipped
from yolov5_nas.records.journal import TrialRecord, best
from yolov5_nas.space.architecture import Architecture, Value
from yolov5_nas.space.model_yaml import read_model_yaml
from yolov5_nas.space.space import Space
from yolov5_nas.strategies.named import make_strategy
from yolov5_nas.strategies.optuna_samplers import OptunaStrategy
from yolov5_nas.strategies.strategy import Strategy

YAML = "yolov5n_elastic.yaml"
IMGSZ = 128
TRIALS = {20: (20,), 100: (60, 100)}  # trials of a search, and after how many its winner is asked for
STARTS = 10  # climbs to the best architecture where pairs count
DRAWN = 2000  # architectures, for their spread


@dataclass(frozen=True)
class Cell:
    """One kind of search, and its seed."""

    strategy: str
    options: int
    additive: float
    noise: float
    trials: int
    seed: int


def space_of(options: int) -> Space:
    """A space with about as many options that are not the default: some of a YAML's layers are stock."""
    model, _ = read_model_yaml(shipped("models") / YAML)
    rows = [*model["backbone"], *model["head"]]
    for i in random.Random(0).sample(range(len(rows)), len(rows)):
        space = Space.from_dict({**model, "backbone": rows[:10], "head": rows[10:]}, nc=10)
        if sum(len(c.options) - 1 for c in space.choices.values()) <= options:
            break
        f, n, module, args = rows[i]
        if module.startswith("NAS"):
            rows[i] = [f, n, module.removeprefix("NAS"), [a for a in args if not isinstance(a, Mapping)]]
    return space


class Problem:
    """True rewards of a space's architectures, with mean 0 and standard deviation 1 over them."""

    def __init__(self, space: Space, additive: float, seed: int):
        rng = np.random.default_rng(seed)
        self.space = space
        entries = [(c.label, option) for c in space.choices.values() for option in c.options]
        self.column: dict[tuple[str, Value], int] = {entry: j for j, entry in enumerate(entries)}
        labels = np.array([list(space.choices).index(label) for label, _ in entries])
        self.single = rng.normal(size=len(entries))
        self.pair = rng.normal(size=(len(entries),) * 2) * (labels[:, None] < labels)
        drawn = [self.columns(space.sample(random.Random(f"{seed} {i}"))) for i in range(DRAWN)]
        x = np.zeros((DRAWN, len(entries) + 1))
        x[:, -1] = 1.0
        for row, columns in zip(x, drawn):
            row[columns] = 1.0
        singles, pairs = x[:, :-1] @ self.single, np.array([self._pairs(c) for c in drawn])
        self.linear = np.linalg.lstsq(x, pairs, rcond=None)[0]  # what pairs have of an additive reward does not count
        pairs = pairs - x @ self.linear
        self.weights = math.sqrt(additive) / singles.std(), math.sqrt(1 - additive) / (pairs.std() or 1.0)
        self.mean = self.weights[0] * singles.mean()
        self.best = self._best(random.Random(seed), 1 if additive == 1 else STARTS)

    def columns(self, architecture: Mapping[str, Value]) -> list[int]:
        return [self.column[entry] for entry in architecture.items()]

    def reward(self, architecture: Mapping[str, Value]) -> float:
        """The true reward."""
        columns = self.columns(architecture)
        pairs = self._pairs(columns) - self.linear[columns].sum() - self.linear[-1] if self.weights[1] else 0.0
        return float(self.weights[0] * self.single[columns].sum() + self.weights[1] * pairs - self.mean)

    def _pairs(self, columns: Sequence[int]) -> float:
        return float(self.pair[np.ix_(columns, columns)].sum())

    def _best(self, rng: random.Random, starts: int) -> float:
        """The highest reward that climbs from random architectures reach, one label at a time."""
        highest = -math.inf
        for _ in range(starts):
            at = self.space.sample(rng)
            reward, moved = self.reward(at), True
            while moved:
                found = max(self.space.neighbours(at), key=self.reward)
                if moved := self.reward(found) > reward + 1e-9:
                    at, reward = found, self.reward(found)
            highest = max(highest, reward)
        return highest


class GPStrategy(OptunaStrategy):
    """Optuna's Gaussian process (`GPSampler`)."""

    def _sampler(self, name: str, population: int) -> Any:
        return self.optuna.samplers.GPSampler(seed=self.seed, n_startup_trials=population)


def strategy_of(cell: Cell, space: Space) -> Strategy:
    population = max(2, min(16, cell.trials // 3))  # as `prepare` has it
    if cell.strategy == "gp":
        return GPStrategy(space, cell.seed, population=population)
    return make_strategy(cell.strategy, space, cell.seed, population, imgsz=IMGSZ)


@lru_cache(maxsize=1)
def problem_of(options: int, additive: float, seed: int) -> Problem:
    """That of many cells."""
    return Problem(space_of(options), additive, seed)


def run(own: Sequence[Cell]) -> list[dict[str, Any]]:
    """The regrets of searches for the same rewards."""
    return [regrets(cell, problem_of(cell.options, cell.additive, cell.seed)) for cell in own]


def regrets(cell: Cell, problem: Problem) -> dict[str, Any]:
    """The regret of a search's winner after some numbers of trials."""
    strategy, rng = strategy_of(cell, problem.space), random.Random(f"noise {cell.seed}")
    records: list[TrialRecord] = []
    found = {}
    for number in range(cell.trials):
        architecture = strategy.ask()
        seen = problem.reward(architecture) + cell.noise * rng.gauss(0, 1)
        metrics = {"map50_95": seen, "latency_ratio": 1.0}
        records.append(TrialRecord(number, dict(architecture), "complete", seen, metrics))
        strategy.tell(records[-1])
        if number + 1 in TRIALS[cell.trials]:
            winner = best(records)
            assert winner
            found[number + 1] = problem.best - problem.reward(Architecture(winner.architecture))
    return {**asdict(cell), "regrets": found}


def cells(args: argparse.Namespace) -> Iterable[Cell]:
    for seed in range(args.seeds):
        for options in (30, 60, 90):
            for additive in (1.0, 0.8, 0.5):
                for noise in (0.25, 0.5, 1.0):
                    for trials in TRIALS:
                        for name in args.strategies:
                            few = args.few if (options, additive) == (60, 0.8) else 0
                            if seed < (few if name == "gp" else args.seeds):
                                yield Cell(name, options, additive, noise, trials, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--few", type=int, default=20, help="seeds of gp, which takes long, in three cells")
    default = ["additive", "evolution", "nsga2", "random", "tpe", "gp"]
    parser.add_argument("--strategies", nargs="+", default=default)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/strategies.jsonl"))
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    lines = (
        [json.loads(line) for line in args.out.read_text(encoding="utf-8").splitlines()] if args.out.exists() else []
    )
    fields = Cell.__dataclass_fields__
    known = {Cell(**{name: line[name] for name in fields}) for line in lines}
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as pool:
        left = [cell for cell in cells(args) if cell not in known]
        groups = itertools.groupby(left, key=lambda cell: (cell.options, cell.additive, cell.seed))
        futures = [pool.submit(run, list(own)) for _, own in groups]
        for future in as_completed(futures):
            lines += future.result()
            with args.out.open("a", encoding="utf-8") as out:
                out.writelines(json.dumps(line) + "\n" for line in future.result())
    print(table(lines, args.strategies))


def table(lines: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Mean regrets with their standard errors, a row for each kind of search; and means over kinds."""
    found: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for line in lines:
        for trials, regret in line["regrets"].items():
            key = int(trials), line["options"], line["additive"], line["noise"]
            found.setdefault(key, {}).setdefault(line["strategy"], []).append(regret)
    return f"{_by_kind(found, names)}\n\n{_by_trials(found, names)}"


def _by_trials(found: Mapping[tuple[Any, ...], Mapping[str, Sequence[float]]], names: Sequence[str]) -> str:
    """Means over the kinds of which all strategies have some."""
    rows = ["| trials | noise | " + " | ".join(names) + " |", "|---" * (2 + len(names)) + "|"]
    whole = {key: own for key, own in found.items() if set(names) <= set(own)}
    for trials, noise in sorted({(key[0], key[3]) for key in whole}):
        kinds = [own for key, own in whole.items() if (key[0], key[3]) == (trials, noise)]
        means = (statistics.mean(statistics.mean(own[name]) for own in kinds) for name in names)
        rows.append(f"| {trials} | {noise:g} | " + " | ".join(f"{mean:.2f}" for mean in means) + " |")
    return "\n".join(rows)


def _by_kind(found: Mapping[tuple[Any, ...], Mapping[str, Sequence[float]]], names: Sequence[str]) -> str:
    rows = ["| trials | options | additive | noise | " + " | ".join(names) + " |", "|---" * (4 + len(names)) + "|"]
    for key, own in sorted(found.items()):
        shown = [_shown(own.get(name, [])) for name in names]
        trials, options, additive, noise = key
        rows.append(f"| {trials} | {options} | {additive:.0%} | {noise:g} | " + " | ".join(shown) + " |")
    means = [[statistics.mean(own[name]) for own in found.values() if name in own] for name in names]
    rows.append("| all | | | | " + " | ".join(f"{statistics.mean(m):.2f}" if m else "" for m in means) + " |")
    return "\n".join(rows)


def _shown(regrets: Sequence[float]) -> str:
    if len(regrets) < 2:
        return "".join(f"{regret:.2f}" for regret in regrets)
    return f"{statistics.mean(regrets):.2f} ± {statistics.stdev(regrets) / len(regrets) ** 0.5:.2f}"


if __name__ == "__main__":
    main()
