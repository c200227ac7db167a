"""A replacement search, from the user's checkpoint to a few architectures to train: parent, table, latencies, plans.

Each is a stage with a journal of its own, which any engine runs and a resume goes on with. What is planned depends on
the journals alone.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..engines.contract import Engine, Trial
from ..records.journal import Journal, TrialRecord, read_journal, read_lines
from ..records.metrics import LEARNT
from ..records.options import Options
from ..records.reward import accuracy
from ..records.run_folder import RunFolder
from ..results.replacement import changes, costs_of
from ..space.architecture import Architecture
from ..space.layers import C3Layer, Layer
from ..strategies.given import GivenArchitectures
from ..strategies.knapsack import promising
from ..strategies.pooled import AGAIN, is_noisy, with_repeats
from ..strategies.replacement import ADDITIVE, Table, changed, make_table, rows, total_rise
from ..strategies.savings import fitted, is_expected, measured_costs, needed_costs, share
from ..training.parent import FEW
from ..training.replacement import RECONSTRUCTION, score_replacement, validate_parent
from ..training.settings import Settings
from ..training.trial import measure_trial, run_trial
from .again import measure_again
from .callbacks import Steps, duration, say
from .planning import ROUNDS, Planned, Planner, limits
from .stages import StageError, asked_before, run_stage, with_earlier

MEASURED = 40  # joint architectures by which savings of latency are fitted
MEASURED_MORE = 12  # in each further form of the network
DOUBTFUL = 0.1  # share of latencies that can't be trusted, above which the savings fitted to them can't be either


class Replacement:
    """The stages before the trials.

    Args:
        o: the run's options, resolved.
        settings: of the run's trials.
        engine: a fresh engine for options.
        stage: as `run_stage` takes it: `seed`, `hours`, `since`.
    """

    def __init__(self, folder: Path, o: Options, settings: Settings, engine: Callable[[Options], Engine], stage: Any):
        self.files, self.options, self.engine, self.stage = RunFolder(folder), o, engine, stage
        self.settings = replace(settings, base_epochs=None)
        self.space, self.frozen = settings.space, settings.freeze

    def run(self) -> tuple[Options, Settings, list[Planned]]:
        """Go through them: what trials start from, and the plans.

        Raises:
            StageError: a stage gave nothing to go on with, or the time is over.
        """
        self.parent = self._parent()
        say(self._to_come())
        self._set_aside_old()
        tables = self._tables()
        say(f"plans: made, measured and corrected, {ROUNDS} times at most, in {self.files.plans.path}")
        planner = Planner(tables, self.options, self.parent, self._refitted, self._wholes, self._again)
        found = planner.run(asked_before(self.files.plans))
        say("\n".join(self._said(found)))
        return self.options, self.settings, found

    def _set_aside_old(self) -> None:
        """Set aside what an earlier version scored, whose reconstruction was another: it is measured again."""
        for files in (self.files.replacements, self.files.plans):
            done = [r for r in read_lines(files.journal) if r.state == "complete"]
            if any(r.budget.get("reconstruction") != RECONSTRUCTION for r in done):
                old = files.journal.with_suffix(".old.jsonl")
                files.journal.replace(old)
                say(f"{old}: scores of an earlier version, whose reconstruction was another; they are measured again")

    def _tables(self) -> list[Table]:
        """The parent's table, and those of other forms in which a plan may be better."""
        space, frozen, seed = self.space, self.frozen, self.options.seed
        zeros = [space.outer(space.in_form(form).default(), form) for form in space.forms[1:]]
        asked = [*rows(space, frozen), *zeros]
        if unsolved := [i for i, layer in space.layers.items() if i not in frozen and not _is_solvable(layer)]:
            say(f"warning: layers {', '.join(map(str, unsolved))} have groups or dilation, and are not refitted")
        scored = self._scores(asked)
        if (images := scored[0].metrics["scored_images"]) < FEW:
            say(f"warning: scores are of {images:.0f} training images only, so that small differences can't be told")
        own = make_table(space, scored, frozen)
        joints = [space.default(), *joint(own, MEASURED, seed), *zeros]
        measured = self._latencies(joints)
        own = self._robustly_fitted(own, measured)
        others = self._others(own, zeros, scored, measured)
        if not others:
            return [own]
        asked += [a for table in others for a in rows(space, frozen, table.form)[1:]]
        scored = self._scores(asked)
        others = [make_table(space, scored, frozen, table.form) for table in others]
        measured = self._latencies([*joints, *(a for table in others for a in joint(table, MEASURED_MORE, seed))])
        return [own, *(self._robustly_fitted(table, measured) for table in others)]

    def _others(
        self,
        own: Table,
        zeros: Sequence[Architecture],
        scored: Sequence[TrialRecord],
        measured: Sequence[TrialRecord],
    ) -> list[Table]:
        """The tables, still without items, of those other forms whose options are worth scoring."""

        def has_costs(zero: Architecture) -> bool:
            found = [[r for r in those if r.id == zero.id and r.state == "complete"] for those in (scored, measured)]
            names = {name for records in found for r in records for name in r.metrics}
            return bool(found[0]) and {*ADDITIVE, *self._measured} <= names

        forms = [self.space.form_of(zero) for zero in zeros if has_costs(zero)]
        tables = [self._fitted(make_table(self.space, scored, self.frozen, form), measured) for form in forms]
        goals = [limits(targets, self.options, self.parent) for targets in self.options.plans]
        chosen = promising(own, tables, goals)
        if zeros:
            names = "; ".join(", ".join(f"{k} {v}" for k, v in table.form.items()) for table in chosen)
            say(f"forms: {len(zeros)} of the parent, of which these are looked at further: {names or 'none'}")
        return chosen

    # The parent -----------------------------------------------------------------------------------------------------

    def _parent(self) -> TrialRecord:
        """The record of the network that is replaced; from here on it is what trials start from."""
        o, files = self.options, self.files.parent
        default = self.space.default()
        if o.base_epochs:
            say(f"parent: {o.weights} is fine-tuned for {o.base_epochs} epochs, in {files.path}")
            trained = replace(self.settings, base_epochs=o.base_epochs).of_base()
            record = self._one(run_trial, trained, default)
            weights = str(files.trial(0).weights)
            self.options, self.settings = replace(o, weights=weights), replace(self.settings, weights=weights)
        else:
            say(f"parent: {o.weights} as it is")
            record = self._one(validate_parent, self.settings, default)
        self.settings = replace(self.settings, replaces=True)
        figures = [f"mAP50-95 {record.metrics['map50_95']:.3f}", f"GFLOPs {record.metrics['gflops']:.3f}"]
        if "latency_ms" in record.metrics:
            figures.append(f"{record.metrics['latency_ms']:.2f} ms")
        say(f"parent: {', '.join(figures)}")
        if record.metrics["map50_95"] < LEARNT:
            say("warning: the parent has hardly learnt to detect, so there is nothing to keep: train it further first")
        return record

    def _to_come(self) -> str:
        """What the search will do, and how long the trainings of it take."""
        plans, epochs, trials = len(self.options.plans), self.options.epochs, self.options.trials
        sizes = len({form.get("imgsz") for form in self.space.forms})  # each may have a plan of its own for a target
        with_rivals = self.options.rivals != "none"
        count = (1 + plans * sizes if trials is None else trials) + 2 * plans * with_rivals
        table = "to come: the table, latencies and plans (some minutes: options are scored, not trained)"
        if trials == 0:
            return f"{table}; --trials 0 trains none"
        most = "at most " if trials is None and sizes > 1 else ""
        text = f"{table}, then {most}{count} trainings of {epochs} epochs"
        if "epoch_seconds" in self.parent.metrics:
            text += f", about {duration(count * epochs * self.parent.metrics['epoch_seconds'])} one after the other"
        rivals = "two rivals of each winner included (--rivals none: no); " if with_rivals else ""
        return f"{text}; {rivals}fewer --epochs or targets make it shorter"

    def _one(self, trial: Trial, settings: Settings, architecture: Architecture) -> TrialRecord:
        settings = replace(settings, constraints=())
        (record,) = self._run(self.files.parent, trial, settings, [architecture], accuracy)
        if record.state != "complete":
            raise StageError(f"the parent has {record.state}: {(record.error or {}).get('message')}")
        return record

    # The table ------------------------------------------------------------------------------------------------------

    def _scores(self, asked: Sequence[Architecture]) -> list[TrialRecord]:
        """Each option alone."""
        say(f"table: {len(asked) - 1} options are scored in the parent, in {self.files.replacements.path}")
        default = self.space.default()

        def line(record: TrialRecord, count: int) -> str:
            change, m = changes(default, record.architecture) or "the parent", record.metrics
            start = f"[table {record.number + 1}/{count}] {change}"
            if record.state != "complete":
                return f"{start}: {record.state} ({_message(record)})"
            shown = f"loss {total_rise(record):+.4f} +- {m['rise_error']:.4f}, GFLOPs {m['gflops']:.3f}"
            return f"{start}: {shown}  {record.seconds:.0f} s"

        alone = replace(self.settings, constraints=(), needed=(), hooks=())
        found = self._run(self.files.replacements, score_replacement, alone, asked, _falling, line, "table")
        if found[0].state != "complete":
            raise StageError(f"the parent can't be scored: {_message(found[0])}")
        if all(record.state != "complete" for record in found[1:]):
            raise StageError(
                "no option of the model YAML could be scored" + (f": {_message(found[-1])}" if found[1:] else "")
            )
        return found

    # What options save ----------------------------------------------------------------------------------------------

    @cached_property
    def _measured(self) -> list[str]:
        return measured_costs(self.options)

    def _latencies(self, asked: Sequence[Architecture]) -> list[TrialRecord]:
        """Costs of joint architectures that are drawn at random."""
        if not self._measured:
            return []
        backend = self.settings.latency_backend
        say(f"latencies: {len(asked) - 1} joint architectures on {backend}, in {self.files.latencies.path}")

        def line(record: TrialRecord, count: int) -> str:
            shown = ", ".join(f"{name} {record.metrics[name]:.3f}" for name in self._measured if name in record.metrics)
            return f"[latency {record.number + 1}/{count}] {shown or _message(record)}  {record.seconds:.0f} s"

        settings = replace(self.settings, constraints=(), needed=needed_costs(self.options), hasty=True)
        found = self._run(self.files.latencies, measure_trial, settings, asked, _falling, line, "latencies")
        doubtful = sum(not r.conditions.get("trusted", True) for r in found)
        if doubtful > DOUBTFUL * len(found):
            again = f"delete {self.files.latencies.path} and {self.files.plans.path}, and --resume on an idle machine"
            say(f"warning: {doubtful} of {len(found)} latencies can't be trusted, plans follow their noise: {again}")
        return found

    def _fitted(self, table: Table, measured: Iterable[TrialRecord]) -> Table:
        """The table with what its items save of the costs that are measured."""
        try:
            return fitted(table, measured, self._measured, self.parent)
        except KeyError as e:
            raise StageError(f"{e.args[0]} could not be measured") from None

    def _robustly_fitted(self, table: Table, measured: Sequence[TrialRecord]) -> Table:
        """Return the fitted table; what a first fit does not allow is measured once more."""
        first = self._fitted(table, measured)
        own = [r for r in measured if r.state == "complete" and table.has(r.architecture) and r.id != table.parent.id]
        odd = [
            Architecture(r.architecture)
            for r in own
            if not all(is_expected(first, r, m, self.parent) for m in self._measured if m in r.metrics)
        ]
        again = self._again(odd, self.files.latencies)
        return self._fitted(table, with_repeats(measured, again, self._measured)) if odd else first

    def _refitted(self, table: Table, wholes: Iterable[TrialRecord]) -> Table:
        """The table by the latencies that it was fitted to, and those of whole plans."""
        latencies = self.files.latencies
        first, again = ([r for r in read_lines(f.journal) if r.done] for f in (latencies, latencies.again))
        return self._fitted(table, [*with_repeats(first, again, self._measured), *wholes])

    # Plans ----------------------------------------------------------------------------------------------------------

    def _wholes(self, asked: Sequence[Architecture]) -> dict[str, TrialRecord]:
        """Score and measure architectures whole."""

        def line(record: TrialRecord, _: int) -> str:  # how many follow is not known
            m = record.metrics
            shown = [f"loss {total_rise(record):+.4f}"] if "rise" in m else [_message(record)]
            shown += [f"{name} {m[name]:.3f}" for name in (*self._measured, "gflops") if name in m]
            return f"[plan {record.number + 1}] {', '.join(shown)}  {record.seconds:.0f} s"

        settings = replace(self.settings, constraints=(), needed=needed_costs(self.options))
        found = self._run(self.files.plans, score_replacement, settings, asked, _falling, line)
        return {record.id: record for record in found}

    def _again(self, asked: Sequence[Architecture], files: RunFolder | None = None) -> list[TrialRecord]:
        """Measure architectures once more whose costs can't be right, by default plans."""
        settings = replace(self.settings, constraints=(), needed=needed_costs(self.options))
        o = without_portal(self.options)
        return measure_again(
            files or self.files.plans, asked, settings, lambda: self.engine(o), self._measured, self.stage
        )

    def measure_trained(self) -> None:
        """Measure trained networks once more, `AGAIN` times at most, whose costs are too noisy to decide by."""
        files = self.files.plans.again
        for _ in range(AGAIN):
            costs = costs_of(self.files.path, read_journal(self.files.path), self.options).values()
            times = Counter(a.id for a in asked_before(files))
            noisy = [r for r in costs if not r.is_reference and is_noisy(r, self._measured) and times[r.id] < 2 * AGAIN]
            if not noisy:
                return
            self._again([*asked_before(files), *(Architecture(r.architecture) for r in noisy)])

    # ----------------------------------------------------------------------------------------------------------------

    def _said(self, found: Sequence[Planned]) -> list[str]:
        """The plans in words, with what training them would take."""
        scored = read_lines(self.files.replacements.journal)
        loss = next(r.metrics["loss"] for r in scored if r.is_reference and r.state == "complete")
        lines = ["", f"plans (the parent's loss on training images is {loss:.4f}; rises are before fine-tuning)"]
        for one in found:
            name = " ".join(map(str, one.targets)) + (f" at {one.imgsz} px" if one.imgsz else "")
            if one.record is None:
                lines.append(f"  {name}: missed, none keeps to it")
                continue
            m, rise = one.record.metrics, total_rise(one.record)
            costs = ", ".join(
                f"{metric} {share(one.record, metric, self.parent):.3f}" for metric in (*self._measured, "gflops")
            )
            if is_noisy(one.record, self._measured):
                costs += " (noisy: measured again after training)"
            change = changes(self.space.default(), one.record.architecture)
            lines.append(f"  {name}: loss {rise:+.4f} +- {m['rise_error']:.4f} ({rise / loss:+.1%}), {costs}: {change}")
        return lines

    def _run(
        self,
        files: RunFolder,
        trial: Trial,
        settings: Settings,
        architectures: Sequence[Architecture],
        reward: Callable[[Mapping[str, float]], float],
        line: Callable[[TrialRecord, int], str] | None = None,
        bar: str | None = None,
    ) -> list[TrialRecord]:
        """Run a stage.

        Args:
            line: says what came of an architecture, of how many in the journal.
            bar: the name of a bar, which in a terminal stands for the lines.
        """
        o, every = without_portal(self.options), with_earlier(files, architectures)
        count = len(every)
        with contextlib.ExitStack() as stack:

            def listeners(journal: Journal) -> list[Steps]:
                return [stack.enter_context(Steps(journal, count, line, bar))] if line else []

            given = GivenArchitectures(every)
            rest = {"engine": lambda: self.engine(o), "listeners": listeners, **self.stage}
            found = run_stage(files, trial, settings, given, reward=reward, count=count, **rest)
        asked = {a.id for a in architectures}  # the journal may have more, of other targets or a later step
        return [record for record in found if record.id in asked]


def without_portal(o: Options) -> Options:
    """The options of a stage of many short scores: a trial of NNI's takes seconds longer."""
    return replace(o, engine="local") if o.engine == "nni" else o


def joint(table: Table, count: int, seed: int) -> list[Architecture]:
    """Architectures drawn at random in which each layer is replaced or not."""
    rng = random.Random(seed)
    found: dict[str, Architecture] = {}
    for _ in range(50 * count):
        share = rng.uniform(0.2, 0.8)
        taken = [rng.choice(items) for items in table.items.values() if items and rng.random() < share]
        if taken:
            architecture = changed(table.parent, (entry for item in taken for entry in item.change))
            found.setdefault(architecture.id, architecture)
        if len(found) == count:
            break
    return list(found.values())


def to_train(
    found: Sequence[Planned], parent: Architecture, count: int | None, before: Iterable[Architecture]
) -> list[Architecture]:
    """The parent and the planned architectures that are trained, after those that a journal has.

    Args:
        count: how many in all; by default the parent and one for each plan.
    """
    firsts = [one.record for one in found if one.record]
    others = [r for group in itertools.zip_longest(*(one.others for one in found)) for r in group if r]
    order = {a.id: a for a in [*before, parent, *(Architecture(r.architecture) for r in firsts)]}
    rest = {a.id: a for r in others if (a := Architecture(r.architecture)).id not in order}
    every = [*order.values(), *rest.values()]
    return every[: len(order) if count is None else count]


def _is_solvable(layer: Layer) -> bool:
    """Whether the convolution that writes a layer's output is refitted."""
    return isinstance(layer, C3Layer) or (layer.g, layer.d) == (1, 1)


def _falling(metrics: Mapping[str, float]) -> float:
    """A stage's reward: the less, the better."""
    return -metrics.get("rise", metrics.get("latency_ratio", metrics["gflops"]))


def _message(record: TrialRecord) -> str:
    return str((record.error or {}).get("message") or record.state)
