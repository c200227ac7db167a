"""Proof of gain: a run's best, stock YOLOv5 and stock rescaled, trained equally with several seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..engines.contract import Engine
from ..errors import UserError
from ..files import write_whole
from ..records.journal import Journal, TrialRecord, TrialResult, best, eligible, front, read_journal
from ..records.options import Options, load_options
from ..records.reward import accuracy
from ..records.run_folder import RunFolder
from ..results.comparison import EQUAL, compare, contestants, names_of, read, table, verdict
from ..results.report import report
from ..space.architecture import Architecture, Value
from ..space.choices import ConvLayer, Layer
from ..space.model_yaml import load_yaml
from ..strategies.given import GivenArchitectures
from ..training.settings import Settings
from ..training.trial import measure_architecture, run_trial
from .loop import Listener
from .prepare import engine_of, settings_of
from .resume import hold
from .stages import from_scratch, run_stage

FAMILY = ((0.25, 0.5, 0.75, 1.0, 1.25), (0.33, 0.33, 0.67, 1.0, 1.33))  # YOLOv5's n, s, m, l, x: width, depth multiple
STEPS = 8  # of the search for a scale


def prove(
    run: str | Path,
    top: int = 3,
    seeds: int = 3,
    epochs: int | None = None,
    engine: Engine | None = None,
    **options: Any,
) -> str:
    """Train, or go on with what was begun, and say in words what came of it.

    Args:
        run: a run's folder; `<run>/prove` gets the journal, and the report a section.
        top: candidates: of the best and the front, those with the highest rewards; of all trials, where they started
            from inherited weights.
        seeds: trainings of each.
        epochs: of each training; by default three times a trial's, or the base's, and those of an audit at least.
        engine: where to train, instead of the options `engine`, `device`, `concurrency`, `trial_minutes`.
        options: those of a search that say where to train.

    Raises:
        UserError: there is no such run, nothing to prove in it, or a proof of other epochs or candidates was begun.
    """
    run = Path(run)
    files = RunFolder(run)
    records = read_journal(run)
    o = Options().with_given(load_options(files.options)).with_given(options)
    least = o.full_epochs if o.proxy else 1  # what inherited weights need is too little from scratch
    settings = from_scratch(settings_of(run, o), epochs or max(least, 3 * (o.base_epochs or o.epochs)))
    engine = engine or engine_of(replace(o, measure_on=None))
    folder = files.proof
    cost = o.cost
    candidates = _candidates(records, o, o.inherits, top)
    with hold(run):
        folder.path.mkdir(exist_ok=True)
        architectures = _plan(folder, candidates, settings, cost)
        names = names_of(run)
        _train(folder, architectures, names, seeds, settings, engine)
    found = contestants(read(run), names, cost)
    comparisons = compare(found)
    report(run)
    lines = ["".join(f"{cell:>16}" for cell in row) for row in table(found, cost)]
    return "\n".join([*lines, "", *(c.text(cost) for c in comparisons), "", verdict(comparisons, cost)])


def prove_trial(architecture: Mapping[str, Value], settings: Settings, seed: int, folder: Path) -> TrialResult:
    """A trial of a contestant: an architecture of the space, or the multiples by which stock is rescaled."""
    if "width_multiple" in architecture:
        settings = rescaled(settings, float(architecture["depth_multiple"]), float(architecture["width_multiple"]))
        architecture = settings.space.default()
    return run_trial(architecture, settings, seed, folder)


def rescaled(settings: Settings, depth: float, width: float) -> Settings:
    """Settings whose default architecture is stock YOLOv5 at other multiples, timed against stock as it was."""
    plain = settings.space.in_form(settings.space.forms[0])
    rows = [[*row[:3], _stock_args(row[3], plain.layers.get(i))] for i, row in enumerate(plain.rows)]
    n = len(plain.yaml["backbone"])
    model = {**plain.yaml, "backbone": rows[:n], "head": rows[n:], "depth_multiple": depth, "width_multiple": width}
    size = settings.imgsz_of(settings.space.default())
    return replace(settings, model=model, stock=settings.as_stock(), imgsz=size)


def _stock_args(args: list[Any], layer: Layer | None) -> list[Any]:
    """A layer's arguments with stock YOLOv5's options alone (others may not fit the rounded widths)."""
    if layer is None:
        return args
    given = args[:-1] if args and isinstance(args[-1], dict) else args
    if isinstance(layer, ConvLayer):
        kernel = int(str(layer.kernel.default)[1:].split("p")[0])  # of k6p2
        return [*given, {"kernel": [kernel], "act": [layer.act.default]}]
    return [*given, {"width": [1.0], "kernel": [1], "act": [layer.acts[0].default]}]


def _candidates(records: list[TrialRecord], o: Options, stock_leads: bool, top: int) -> list[TrialRecord]:
    winner = best(records)
    likely = [*([winner] if winner else []), *front(records, *o.front)]
    if stock_leads:  # which keeps good ones off the front
        likely = eligible(records)
    found = {r.number: r for r in likely if not r.is_reference}
    if not found:
        raise UserError("there is nothing to prove: the search found nothing better than the stock architecture")
    return sorted(found.values(), key=lambda r: -(r.reward or 0.0))[:top]


def _plan(folder: RunFolder, candidates: list[TrialRecord], settings: Settings, cost: str) -> list[Architecture]:
    """The contestants: stock, stock rescaled, candidates; as it was begun, where it was.

    Raises:
        UserError: it was begun with other epochs or candidates.
    """
    numbers = [r.number for r in candidates]
    if folder.plan.exists():
        begun, _ = load_yaml(folder.plan)
        if (begun["epochs"], begun["candidates"]) != (settings.epochs, numbers):
            raise UserError(
                f"a proof of {begun['epochs']} epochs of the trials {begun['candidates']} was begun: give the same"
                " --epochs and --top (--seeds may grow), or delete the folder",
                got=(settings.epochs, numbers),
                file=folder.path,
            )
    else:
        begun = {"epochs": settings.epochs, "candidates": numbers, "rescaled": _rescale(candidates[0], settings, cost)}
        write_whole(folder.plan, yaml.safe_dump(begun, sort_keys=False))
    rivals = [settings.space.default(), *([begun["rescaled"]] if begun["rescaled"] else [])]
    return [Architecture(a) for a in (*rivals, *(r.architecture for r in candidates))]


def _rescale(winner: TrialRecord, settings: Settings, cost: str) -> dict[str, float] | None:
    """The multiples at which stock YOLOv5 costs what the winner does, by bisection.

    Its widths are rounded, so that it seldom costs exactly that: then rather a little more, to be no easy rival.
    """
    wanted = winner.metrics.get(cost)
    if not wanted:
        return None
    base = float(settings.model["width_multiple"])
    low, high = math.log(base / 4), math.log(base * 4)
    costs: dict[float, float] = {}
    for _ in range(STEPS):
        width = round(math.exp((low + high) / 2), 4)
        scaled = rescaled(settings, depth_of(width, settings), width)
        costs[width] = measure_architecture(scaled.space.default(), scaled).metrics[cost]
        low, high = (math.log(width), high) if costs[width] < wanted else (low, math.log(width))
    if not all(costs.values()):  # a hook's metric, which scaling does not move
        return None
    dear_enough = [w for w in costs if costs[w] >= wanted / EQUAL]
    width = min(dear_enough or costs, key=lambda w: abs(math.log(costs[w] / wanted)))
    print(f"stock rescaled: width_multiple {width:g}, {cost} {costs[width]:.4g} (trial {winner.number}: {wanted:.4g})")
    return {"depth_multiple": depth_of(width, settings), "width_multiple": width}


def depth_of(width: float, settings: Settings) -> float:
    """The depth multiple that belongs to a width multiple in YOLOv5's own family, from the model YAML's on."""
    base_depth, base_width = (float(settings.model[f"{name}_multiple"]) for name in ("depth", "width"))
    return round(base_depth * float(np.interp(width, *FAMILY) / np.interp(base_width, *FAMILY)), 4)


def _train(
    folder: RunFolder,
    architectures: list[Architecture],
    names: Mapping[str, str],
    seeds: int,
    settings: Settings,
    engine: Engine,
) -> None:
    """Train each with one seed after the other."""
    count = seeds * len(architectures)

    def listeners(journal: Journal) -> list[Listener]:
        def tell(record: TrialRecord) -> None:
            done = sum(r.done for r in journal.trials.values())
            score = f"mAP50-95 {record.reward:.4f}" if record.state == "complete" else f"{record.state}: {record.error}"
            who, took = f"{names[record.id]}, seed {record.seed}", f"{record.seconds:.0f} s"
            print(f"[{done}/{count}] {who}: {score}, {took}", flush=True)

        return [tell]

    strategy = GivenArchitectures(architectures * seeds)
    stage = {"listeners": listeners, "seed": lambda number: number // len(architectures)}
    try:
        run_stage(folder, prove_trial, settings, strategy, lambda: engine, accuracy, count, **stage)
    finally:
        engine.close()
