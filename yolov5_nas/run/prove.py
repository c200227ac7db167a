"""Proof of gain: a run's best, the reference (stock YOLOv5 or the parent), and the reference rescaled, trained alike
with several seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..engines.contract import Engine
from ..errors import UserError
from ..files import given_path, write_whole
from ..records.journal import Journal, TrialRecord, TrialResult, eligible, front, latest, read_journal, read_lines
from ..records.options import Options, load_options
from ..records.proof import Plan, read_plan, search_seeds
from ..records.reward import accuracy
from ..records.run_folder import RunFolder
from ..results.claims import EQUAL
from ..results.comparison import (
    finished,
    left_out,
    names_of,
    race_of,
    read_images,
    said,
    table,
    text,
)
from ..results.race import Race
from ..results.replacement import winners
from ..results.report import check_readable, report
from ..results.rivals import rivals
from ..results.winner import winner_of
from ..space.architecture import Architecture, Value
from ..space.layers import ConvLayer, Layer
from ..training.settings import Settings
from ..training.trial import measure_architecture, run_trial
from .callbacks import duration, say
from .inputs import check_same_files
from .judge import judge_proof
from .loop import Listener
from .prepare import engine_of, settings_of
from .resume import hold
from .rivals import having
from .rounds import Rounds
from .stages import from_scratch, from_weights, run_stage, started

FAMILY = ((0.25, 0.5, 0.75, 1.0, 1.25), (0.33, 0.33, 0.67, 1.0, 1.33))  # YOLOv5's n, s, m, l, x: width, depth multiple
STEPS = 8  # of the search for a scale
STARTS = ("weights", "scratch")
SEEDS = 5  # of three, a gain of two standard deviations is found in one proof of eight (benchmarks/proof_errors.py)


def prove(
    run: str | Path,
    top: int = 3,
    seeds: int | None = None,
    epochs: int | None = None,
    engine: str | Engine | None = None,
    start: str | None = None,
    trial: int | None = None,
    **options: Any,
) -> str:
    """Train, or go on with what was begun, and say in words what came of it.

    Args:
        run: a run's folder; `<run>/prove` gets the journal, and the report a section.
        top: how many candidates: the winners of a replacement search; else those with the highest rewards, of the best
            and the front, or of all trials where they started from inherited weights.
        seeds: trainings of each at most (default: `SEEDS`, or as many as a proof that was begun has); a contestant with
            nothing left to decide gets no more. None has a seed that the search used.
        epochs: of each training; by default twice a trial's from weights, three times from scratch (or the base's, and
            those of an audit at least).
        engine: the name of one, or an object, instead of the options `engine`, `device`, `concurrency`,
            `trial_minutes`.
        start: `weights`, those that the run started from, adapted to each contestant; or `scratch`. By default weights
            where the run had any.
        trial: the number of the one candidate, in place of `top`.
        options: those of a search that say where to train, and `margin`.

    Raises:
        UserError: there is no such run, nothing to prove in it, it has no weights to start from, or a proof of other
            epochs, candidates, start or margin was begun.
    """
    if isinstance(engine, str):
        options["engine"], engine = engine, None
    run = given_path(run)
    files = RunFolder(run)
    records = read_journal(run)
    o = Options().with_given(load_options(files.options)).with_given(options)
    for name, count in (("seeds", seeds), ("top", top), ("epochs", epochs)):
        if count is not None and count < 1:
            raise UserError(f"--{name} must be at least 1", got=count)
    check_readable(run)
    begun = read_plan(run)
    seeds = seeds or (begun.seeds[-1] if begun and begun.seeds else SEEDS)
    start = _start(start, o, begun)
    settings = _settings(run, o, start, epochs)
    if not o.measure_on:
        settings.runtime.check()
    engine = engine or engine_of(replace(o, measure_on=None))
    candidates = _candidates(run, records, o, top) if trial is None else [_candidate(records, trial)]
    if begun and trial is None and len(begun.candidates) == len(candidates):  # the search may have gone on since
        candidates = _as_begun(begun, candidates, records, files.proof)
    with hold(run):
        files.proof.path.mkdir(exist_ok=True)
        numbers = tuple(r.number for r in candidates)
        wanted = Plan(settings.epochs, numbers, None, start, (seeds,), o.margin, search_seeds(run))
        plan = _plan(files.proof, wanted, lambda: _rescaled_rival(run, candidates[0], settings, o, start))
        names = names_of(run, plan, o.reference)
        if plan.seeds:  # the last epoch's mAP counts, and not that of the one that did best on `val`
            settings = replace(settings, val_period=settings.epochs)
        race = race_of(names, plan)
        race.seeds = max(race.seeds, seeds)
        _train(run, race, plan, _architectures(names, plan, records), names, settings, o, engine)
        found = finished(run, o)
        assert found
        race, plan = found
        judge_proof(run, race, names, o, settings)
    report(run)
    images = read_images(run)
    lines = ["".join(f"{cell:>18}" for cell in row) for row in table(race, o.cost, images)]
    return "\n".join(
        [*lines, "", *(text(c, o.cost) for c in race.comparisons()), "", *said(race, plan, o.cost, images)]
    )


def _start(given: str | None, o: Options, begun: Plan | None) -> str:
    has_weights = o.inherits or o.replaces
    if given not in (None, *STARTS):
        raise UserError("unknown --from", got=given, accepted=STARTS)
    if given == "weights" and not has_weights:
        raise UserError("--from weights: the run started from none", accepted="scratch")
    return given or (begun.start if begun else "weights" if has_weights else "scratch")


def _settings(run: Path, o: Options, start: str, epochs: int | None) -> Settings:
    """Of the trainings."""
    settings = settings_of(run, o)
    check_same_files(run, o, ["distill"] if start == "scratch" or o.base_epochs else ["distill", "weights"])
    if start == "scratch":
        least = o.full_epochs if o.proxy else 1  # what inherited weights need is too little from scratch
        return from_scratch(settings, epochs or max(least, 3 * (o.base_epochs or o.epochs)))
    settings = started(settings, run, o)
    if not settings.weights or not Path(settings.weights).exists():
        rule = "--from weights: what the run started from is gone"
        raise UserError(rule, got=settings.weights, accepted="--from scratch")
    return replace(from_weights(settings, epochs or 2 * o.epochs), replaces=o.replaces)


def prove_trial(architecture: Mapping[str, Value], settings: Settings, seed: int, folder: Path) -> TrialResult:
    """A trial of a contestant: an architecture of the space, or what says how the reference is rescaled."""
    if "width_multiple" in architecture:
        settings = rescaled(settings, float(architecture["depth_multiple"]), float(architecture["width_multiple"]))
        architecture = settings.space.default()
    else:
        settings = having(architecture, settings)
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


def _candidates(run: Path, records: list[TrialRecord], o: Options, top: int) -> list[TrialRecord]:
    winner = winner_of(run, records, o)
    likely = [*([winner] if winner else []), *front(records, *o.front)]
    if o.replaces:
        likely = [w.record for w in winners(run, records, o) if w.record]
    elif o.inherits:  # stock leads there, and keeps good ones off the front
        likely = eligible(records)
    found = {r.number: r for r in likely if not r.is_reference}
    if not found:
        raise UserError(f"there is nothing to prove: the search found nothing better than {_named(o)}")
    first = winner.number if winner else None
    order = (
        found.values() if o.replaces else sorted(found.values(), key=lambda r: (r.number != first, -(r.reward or 0.0)))
    )
    return list(order)[:top]


def _candidate(records: Sequence[TrialRecord], number: int) -> TrialRecord:
    """The trial that the user named."""
    found = {r.number: r for r in eligible(records) if not r.is_reference}
    if number not in found:
        raise UserError("--trial names none that can be proved", got=number, accepted=sorted(found))
    return found[number]


def _as_begun(
    begun: Plan, now: Sequence[TrialRecord], records: Sequence[TrialRecord], folder: RunFolder
) -> list[TrialRecord]:
    """The candidates of the proof that was begun, which it goes on with."""
    best = [r.number for r in now]
    if sorted(best) != sorted(begun.candidates):
        print(f"goes on with the trials {list(begun.candidates)}; to prove {best} in their place, delete {folder.path}")
    return [r for number in begun.candidates for r in records if r.number == number]


def _named(o: Options) -> str:
    return "the parent" if o.replaces else "the stock architecture"


def _plan(folder: RunFolder, wanted: Plan, rival: Callable[[], Mapping[str, Value] | None]) -> Plan:
    """The plan of a proof: the one that was begun, if any, else the wanted one.

    Args:
        rival: finds the rescaled reference.

    Raises:
        UserError: the one that was begun is another.
    """
    begun = read_plan(folder.path.parent)
    if begun is None:
        begun = replace(wanted, rescaled=rival())
    else:
        own, other = ((p.epochs, list(p.candidates), p.start, p.margin) for p in (wanted, begun))
        if own != other:
            raise UserError(
                f"a proof of {begun.epochs} epochs of the trials {list(begun.candidates)} from {begun.start} with a"
                f" margin of {begun.margin:g} was begun: give the same --epochs, --top, --from and --margin (--seeds"
                " may grow), or delete the folder",
                got=own,
                file=folder.path,
            )
        if begun.seeds and wanted.seeds > begun.seeds[-1:]:
            seen = begun.seeds if any(r.state == "complete" for r in read_lines(folder.journal)) else ()
            begun = replace(begun, seeds=(*seen, *wanted.seeds))
    write_whole(folder.plan, yaml.safe_dump(begun.to_dict(), sort_keys=False))
    return begun


def _architectures(names: Mapping[str, str], plan: Plan, records: list[TrialRecord]) -> dict[str, Architecture]:
    """What each contestant is."""
    known = [Architecture(r.architecture) for r in records]
    known += [Architecture(plan.rescaled)] if plan.rescaled else []
    return {names[a.id]: a for a in known if a.id in names}


def _rescaled_rival(
    run: Path, winner: TrialRecord, settings: Settings, o: Options, start: str
) -> Mapping[str, Value] | None:
    """The reference rescaled to a winner's cost; in a replacement search the form of the parent that it measured."""
    if not (o.replaces and start == "weights"):
        return _rescale(winner, settings, o.cost)
    for rival in rivals(run, winners(run, read_journal(run), o), o):
        if rival.kind == "scale" and rival.winner.record and rival.winner.record.number == winner.number:
            return dict(rival.architecture)
    print("no rival of other widths: the search measured none (--rivals none)")
    return None


def _rescale(winner: TrialRecord, settings: Settings, cost: str) -> dict[str, float] | None:
    """The multiples at which stock YOLOv5 costs what the winner does, by bisection.

    Its widths are rounded, so that it seldom costs exactly that: then rather a little more, to be no easy rival.
    """
    wanted = winner.metrics.get(cost)
    if not wanted:
        return None
    say(f"stock rescaled: measuring the widths at which its {cost} is that of trial {winner.number}")
    base = float(settings.model["width_multiple"])
    low, high = math.log(base / 4), math.log(base * 4)
    costs: dict[float, float] = {}
    for _ in range(STEPS):
        width = round(math.exp((low + high) / 2), 4)
        scaled = rescaled(settings, depth_of(width, settings), width)
        found = measure_architecture(scaled.space.default(), scaled)
        if cost not in found.metrics:
            raise UserError(f"{cost} of the reference can't be measured", got=found.conditions.get("error"))
        costs[width] = found.metrics[cost]
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
    run: Path,
    race: Race,
    plan: Plan,
    architectures: Mapping[str, Architecture],
    names: Mapping[str, str],
    settings: Settings,
    o: Options,
    engine: Engine,
) -> None:
    """Train with one seed after the other, those of whom something is open."""
    folder, count = RunFolder(run).proof, race.seeds * len(architectures)
    begun = [record.seed for _, record in sorted(latest(read_lines(folder.journal)).items())]
    of_search = [seed for seed in begun if seed in plan.search_seeds]
    if of_search:
        say(f"{left_out(of_search)} Trainings with other seeds take their place.")
    uncounted = len(of_search)
    _announce(run, plan, len(begun) - uncounted, count, list(architectures), race.seeds, engine.slots)

    def listeners(journal: Journal) -> list[Listener]:
        def tell(record: TrialRecord) -> None:
            done = sum(r.done for r in journal.trials.values()) - uncounted
            score = f"mAP50-95 {record.reward:.4f}" if record.state == "complete" else f"{record.state}: {record.error}"
            who, took = f"{names[record.id]}, seed {record.seed}", f"{record.seconds:.0f} s"
            print(f"[{done} of at most {count}] {who}: {score}, {took}", flush=True)

        return [tell]

    rounds = Rounds(race, architectures, names, o.cost, plan.search_seeds, begun)
    stage: dict[str, Any] = {"listeners": listeners, "seed": lambda number: rounds.seeds[number]}
    try:
        run_stage(folder, prove_trial, settings, rounds, lambda: engine, accuracy, count + uncounted, **stage)
    finally:
        engine.close()


def _announce(
    run: Path, plan: Plan, begun: int, count: int, contestants: Sequence[str], seeds: int, slots: int
) -> None:
    """Say what will be trained, and how long that takes by the search's trials.

    Args:
        begun: trainings that the journal has and that count.
        count: trainings at most.
        slots: trainings at a time.
    """
    say(
        f"at most {count} trainings of {plan.epochs} epochs: {len(contestants)} networks ({', '.join(contestants)})"
        f" with up to {seeds} seeds each" + (f"; {begun} were begun before" if begun else "")
    )
    trials = [r for r in read_journal(run) if r.state == "complete" and r.seconds and r.budget.get("epochs")]
    if trials and begun < count:
        each = plan.epochs * statistics.median((r.seconds or 0.0) / r.budget["epochs"] for r in trials)
        whole = -(-(count - begun) // slots) * each
        say(f"about {duration(each)} each by the search's trials, {duration(whole)} in all at most ({slots} at a time)")
