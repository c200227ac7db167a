"""The search: a strategy asks, an engine runs, the journal remembers, the strategy is told."""

from __future__ import annotations

import math
import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ..engines.contract import Engine, Job, MachineError, Outcome
from ..errors import machine_fault
from ..records.journal import Journal, TrialRecord
from ..records.metrics import LATENCIES
from ..records.reward import Reward
from ..records.run_folder import RunFolder
from ..space.architecture import Architecture
from ..strategies.early_stopping import Curves, Pruner
from ..strategies.strategy import NotYet, SpaceExhausted

Listener = Callable[[TrialRecord], None]
REFUSED_IN_A_ROW = 100  # architectures that break a constraint, one after the other: then the search gives up


class AskTell(Protocol):
    """What the loop needs of a strategy."""

    def ask(self) -> Architecture: ...

    def tell(self, record: TrialRecord) -> None: ...


@dataclass
class Loop:
    """One search over a journal, which may hold the beginning of it already.

    What is the machine's fault (a full disk, say) ends the search and is no result of the trial. A trial that was
    killed, or whose machine is gone (`Outcome.lost`), is started again, once; the journal shows it as the next attempt.

    Args:
        strategy: proposes architectures; brought to where the journal ends by playing it back.
        engine: started.
        journal: gets a line when a trial starts and one when it ends.
        reward: metrics to the number to maximise.
        trials: how many to train in all, those in the journal included; what a constraint refuses does not count.
        seed: of every trial's training: all see the same random numbers, so that they differ by architecture alone. Or
            of each, by its number.
        has_base: all trials start from the weights of the first; nothing else starts until that is complete.
        reference: what trial 0 is called, where all others are compared with it. As without a base, the search ends at
            once when it has failed.
        curves: with it trials are ended early.
        hours: after this time running trials are stopped (a resume runs them again) and none starts.
        since: when that time began, by `time.monotonic`; by default when the loop does.
        listeners: called with the record of each trial that ended, after it is in the journal.
        on_start: called with the record of each trial that starts, after it is in the journal.
    """

    strategy: AskTell
    engine: Engine
    journal: Journal
    reward: Reward
    trials: int
    seed: int | Callable[[int], int] = 0
    has_base: bool = False
    reference: str = ""
    curves: Curves | None = None
    hours: float | None = None
    since: float | None = None
    listeners: Sequence[Listener] = ()
    on_start: Listener = lambda record: None

    def run(self) -> str:
        """Run until the trials are done, and say why it ended."""
        since = time.monotonic() if self.since is None else self.since
        self.deadline = math.inf if self.hours is None else since + self.hours * 3600
        self.is_out_of_time = self.has_no_reference = False
        self.waiting = deque(replay(self.journal.records, self.strategy))
        self.running: dict[int, TrialRecord] = {}
        self.pruners: dict[int, Pruner | None] = {}
        if self.curves:
            self._replay_curves(self.curves, {r.number for r in self.waiting})
        self.lost: set[int] = set()
        self.taken = sorted(r.seconds for r in self.journal.trials.values() if r.state == "complete" and r.seconds)
        self.counted = sum(r.state != "infeasible" for r in self.journal.trials.values())
        self.ending = ""
        while True:
            if self._reference_has_failed():
                return self.ending
            while len(self.running) < self.engine.slots and (record := self._next()):
                self._start(record)
            if not self.running:
                return self.ending
            if time.monotonic() >= self.deadline:
                return self._out_of_time()
            for outcome in self.engine.wait(min(1.0, max(0.0, self.deadline - time.monotonic()))):
                self._end(outcome)

    def _next(self) -> TrialRecord | None:
        """The next trial to start, or None for now or for ever."""
        if self.ending and not self.waiting:
            return None
        if self.counted >= self.trials and not self.waiting:
            if not self.running:  # one that runs may prove infeasible, and leave room for another
                self.ending = f"all {self.trials} trials are done"
            return None
        if not self._time_for_another():
            return None
        if self.waiting:
            return self.waiting.popleft()
        if self.has_base and not self._base_is_there():
            return None
        number = len(self.journal.trials)
        if number > REFUSED_IN_A_ROW and self._is_refused(range(number - REFUSED_IN_A_ROW, number)):
            self.ending = f"the last {REFUSED_IN_A_ROW} architectures all broke a constraint"
            return None
        try:
            architecture = self.strategy.ask()
        except NotYet:
            return None
        except SpaceExhausted as e:
            self.ending = str(e)
            return None
        self.counted += 1
        parent = 0 if self.has_base and number else None
        seed = self.seed if isinstance(self.seed, int) else self.seed(number)
        return TrialRecord(number, dict(architecture), "started", seed=seed, parent=parent)

    def _replay_curves(self, curves: Curves, cut: Collection[int]) -> None:
        """Learn the curves of the journal. Trials that were cut off get the pruner again that they had."""
        for record in self.journal.records:
            if record.done:
                curves.observe(record)
            elif record.number in cut and record.number:
                self.pruners.setdefault(record.number, curves.pruner())

    def _base_is_there(self) -> bool:
        """Return whether the first trial may start or is complete."""
        first = self.journal.trials.get(0)
        return first is None or first.state == "complete"

    def _reference_has_failed(self) -> bool:
        """Return whether the trial that all others need has failed for good: the search is over then."""
        first = self.journal.trials.get(0)
        if not (self.has_base or self.reference) or first is None or not first.done or first.state == "complete":
            return False
        if any(record.number == 0 for record in self.waiting):  # killed in the search before this one
            return False
        name = f"trial 0, {self.reference}," if self.reference else "trial 0"
        why = "all others start from its weights" if self.has_base else "all others are compared with it"
        self.ending = (
            f"{name} has {first.state} ({(first.error or {}).get('message')}), and {why}: nothing else is trained"
        )
        self.has_no_reference = True
        return True

    def _is_refused(self, numbers: Iterable[int]) -> bool:
        return all(self.journal.trials[number].state == "infeasible" for number in numbers)

    def _start(self, record: TrialRecord) -> None:
        self.journal.append(record)
        self.running[record.number] = record
        self.on_start(record)
        if self.curves and record.number:  # the first is stock YOLOv5, which all are compared with
            self.pruners.setdefault(record.number, self.curves.pruner())
        self.engine.submit(Job(record.number, record.architecture, record.seed, self._overrides(record)))

    def _overrides(self, record: TrialRecord) -> dict[str, Any]:
        """The settings that are this trial's own."""
        overrides: dict[str, Any] = {}
        if record.parent is not None:
            weights = RunFolder(self.journal.path.parent).trial(record.parent).weights
            overrides |= {"weights": str(weights), "base_epochs": None}
        if pruner := self.pruners.get(record.number):
            overrides["pruner"] = pruner
        return overrides

    def _end(self, outcome: Outcome) -> None:
        record = self.running.pop(outcome.number)
        is_cut_off = outcome.lost or (outcome.error or {}).get("reason") == "killed"
        if is_cut_off and record.number not in self.lost:
            self.lost.add(record.number)
            self.waiting.append(record.again())
            return
        if outcome.error and outcome.error["reason"] == "machine":
            # The journal has the trial as started, so a resume tries it again.
            raise MachineError(f"trial {record.number} can't go on: {outcome.error['message']}")
        self.pruners.pop(record.number, None)
        record = judge(record, outcome, self.reward)
        self.journal.append(record)
        self.counted -= record.state == "infeasible"
        if record.state == "complete":
            insort(self.taken, record.seconds or 0.0)
        self.strategy.tell(record)
        if self.curves:
            self.curves.observe(record)
        for listener in self.listeners:
            listener(record)

    def _time_for_another(self) -> bool:
        """Whether a trial as long as the others so far would end before the deadline."""
        if self.hours is None:
            return True
        if time.monotonic() + (self.taken[len(self.taken) // 2] if self.taken else 0.0) < self.deadline:
            return True
        self._out_of_time()
        return False

    def _out_of_time(self) -> str:
        self.ending, self.is_out_of_time = f"{self.hours:g} hours are over", True
        return self.ending


def replay(records: Iterable[TrialRecord], strategy: AskTell) -> list[TrialRecord]:
    """Play a journal back to a fresh strategy, which brings it to the state that it had after the last line.

    Returns:
        The trials that a kill cut off, as records to start again: same number, architecture and seed, next attempt.
        Of one that ended by a kill the strategy is told twice, then.
    """
    latest: dict[int, TrialRecord] = {}
    for record in records:
        if record.done:
            strategy.tell(record)
        elif record.number not in latest:
            recall = getattr(strategy, "recall", None)  # a user's own may only ask and tell
            try:
                asked = recall(Architecture(record.architecture)).id if recall else strategy.ask().id
            except SpaceExhausted:  # it has changed since, and proposed some that are still to come
                asked = ""
            if asked != record.id:
                print(f"trial {record.number}: the strategy now proposes another architecture than the journal holds")
        latest[record.number] = record
    return [r.again() for _, r in sorted(latest.items()) if r.is_tried_again]


def judge(record: TrialRecord, outcome: Outcome, reward: Reward) -> TrialRecord:
    """The record of a trial that ended. One without a finite reward has failed; no reward is ever made up."""
    record = replace(record, seconds=round(outcome.seconds, 3))
    result = outcome.result
    if result is None:
        return replace(record, state="failed", error=outcome.error)
    metrics = _finite(result.metrics)
    record = replace(record, metrics=metrics, curve=tuple(map(_finite, result.curve)))
    record = replace(record, conditions=result.conditions, budget=result.budget, classes=result.classes)
    if result.why:
        reason = "pruned" if result.state == "pruned" else "constraint"
        record = replace(record, error={"reason": reason, "message": result.why})
    if result.state != "complete":
        return replace(record, state=result.state)
    try:
        value = float(reward(metrics))
    except KeyError as e:
        name = e.args[0]
        if name in result.metrics:
            return _failed(record, "nan", f"{name} is {result.metrics[name]}")
        if name in LATENCIES and "error" in result.conditions:
            return _failed(record, "latency", result.conditions["error"])
        return _failed(record, "crash", f"the reward needs {name}, which was not measured")
    except Exception as e:
        if fault := machine_fault(e):
            raise MachineError(f"the reward of trial {record.number} can't be worked out: {fault}") from e
        return _failed(record, "crash", f"the reward raised {type(e).__name__}: {e}")
    if not math.isfinite(value):
        return _failed(record, "nan", f"the reward is {value}")
    return replace(record, state="complete", reward=value)


def _failed(record: TrialRecord, reason: str, message: str) -> TrialRecord:
    return replace(record, state="failed", error={"reason": reason, "message": message})


def _finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as plain numbers; those that are none are left out."""
    plain = {name: value.item() if hasattr(value, "item") else value for name, value in metrics.items()}
    return {n: v for n, v in plain.items() if isinstance(v, int | float) and math.isfinite(v)}
