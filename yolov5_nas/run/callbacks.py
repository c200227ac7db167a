"""What listens to a search's trials: the keeper of files, and the bar in the terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from ..records.journal import Journal, TrialRecord, best, complete
from ..records.metrics import is_own
from ..records.options import Options
from ..records.run_folder import RunFolder
from ..results.export import keep_weights, write_trial
from ..results.page import COMPARED


class Checkpoints:
    """Keeps `best/` at the best trial so far, and weights only of trials on the front and of those to inherit from.

    Args:
        has_base: the others start from trial 0.
        fetch: brings the weights of a trial that ran elsewhere.
        choose: which of all trials is the best; with it the weights of all are kept.
        leading: of how many of those that lead weights are kept too.
    """

    def __init__(
        self,
        folder: Path,
        journal: Journal,
        objectives: tuple[str, ...],
        has_base: bool = False,
        fetch: Callable[[int], None] | None = None,
        choose: Callable[[list[TrialRecord]], TrialRecord | None] | None = None,
        leading: int = 0,
    ):
        self.choose, self.leading = choose, leading
        self.folder, self.journal, self.objectives = folder, journal, objectives
        self.others, self.fetch = {0} if has_base else set(), fetch  # those that more may start from
        self.kept: list[TrialRecord] = []
        self.written: int | None = None  # the trial in `best/`, once this process has put one there
        self._take(list(journal.trials.values()))

    def __call__(self, record: TrialRecord) -> None:
        if record.state == "complete":
            self._take([record])

    def _take(self, records: list[TrialRecord]) -> None:
        """A trial that is off the front stays off: only those that are on it are looked at again."""
        if self.choose:
            self.kept += records
        else:
            found = [*self.kept, *records]
            self.kept = keep_weights(self.folder, found, self.objectives, self.others, self.leading)
        for record in records:
            if self.fetch and record in self.kept:
                self.fetch(record.number)
        if (winner := (self.choose or best)(self.kept)) is not None and winner.number != self.written:
            write_trial(self.folder, winner, RunFolder(self.folder).best)
            self.written = winner.number


class Estimate:
    """After the first complete trial of a search, says how long the others will take, and how much disk.

    Args:
        slots: trials at a time.
        write: prints a line.
    """

    def __init__(self, folder: Path, journal: Journal, o: Options, slots: int, write: Callable[[str], None]):
        self.folder, self.journal, self.o, self.slots, self.write = folder, journal, o, slots, write

    def __call__(self, record: TrialRecord) -> None:
        trials = self.journal.trials.values()
        left = (self.o.trials or 0) - len(_ended(self.journal))
        if record.state != "complete" or len(complete(trials)) > 1 or left < 1:
            return
        seconds = record.seconds or 0.0
        if record.is_reference and self.o.base_epochs:  # which the others don't train
            seconds *= self.o.epochs / self.o.base_epochs
        files = [f for f in RunFolder(self.folder).trial(record.number).path.rglob("*") if f.is_file()]
        most, free = left * sum(f.stat().st_size for f in files), shutil.disk_usage(self.folder).free
        took = duration(-(-left // self.slots) * seconds)
        text = f"estimate for {left} more: about {took} ({min(self.slots, left)} at a time)"
        self.write(f"{text}, at most {most / 1e6:.0f} MB in {self.folder} ({free / 1e9:.1f} GB free)")
        if most > free:
            self.write("the disk may become full; of the weights, those of the best and of the front are kept")


def _ended(journal: Journal) -> set[int]:
    """Return the numbers of the trials that count and are not started again: a killed one is by a resume."""
    return {r.number for r in journal.trials.values() if r.counts and not r.is_tried_again}


def say(text: str) -> None:
    """A line for people, at once."""
    print(text, flush=True)


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(42), duration(600), duration(9000), duration(200_000)
    ('42 s', '10 min', '2.5 h', '2.3 days')
    """
    for unit, size, form in (("days", 86400, ".1f"), ("h", 3600, ".1f"), ("min", 60, ".0f")):
        if seconds >= 2 * size or (unit == "h" and seconds >= size):
            return f"{seconds / size:{form}} {unit}"
    return f"{seconds:.0f} s"


class Steps:
    """A stage of many short trials: a bar in a terminal, where it has a name, else a line for each.

    Args:
        count: of the trials.
        line: says what came of one, of how many; those that failed have a line beside a bar too.
        name: of the bar.
    """

    def __init__(self, journal: Journal, count: int, line: Callable[[TrialRecord, int], str], name: str | None):
        done = len(_ended(journal))
        off = None if name else True  # None: where there is no terminal
        self.bar = tqdm(total=count, initial=done, desc=name, disable=off, file=sys.stderr)
        self.count, self.line = count, line

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def __call__(self, record: TrialRecord) -> None:
        self.bar.update()
        if self.bar.disable or record.state != "complete":
            self.bar.write(self.line(record, self.count), file=sys.stdout)
            sys.stdout.flush()


class Progress:
    """A bar over all trials with the time left, and a line for each that ended.

    Args:
        reference: what trial 0 is called.
    """

    def __init__(
        self, trials: int, journal: Journal, name: str = "search", only_best: bool = False, reference: str = "stock"
    ):
        self.reference = reference
        self.ended = _ended(journal)
        self.winner = best(journal.trials.values())
        self.bar = tqdm(total=trials, initial=len(self.ended), desc=name, unit="trial", disable=None, file=sys.stderr)
        self.trials, self.only_best = trials, only_best

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def __call__(self, record: TrialRecord) -> None:
        self.winner = best([*filter(None, [self.winner]), record])
        self.ended |= {record.number} if record.counts else set()
        self.bar.update(len(self.ended) - self.bar.n)
        if not self.only_best or self.winner is record:
            self.write(self._line(record))

    def started(self, record: TrialRecord) -> None:
        """A line for each trial that starts, where there is no bar to see that something happens."""
        if self.bar.disable and not self.only_best:
            again = f", attempt {record.attempt}" if record.attempt > 1 else ""
            self.write(f"trial {record.number} has started{again}")

    def write(self, text: str) -> None:
        """A line above the bar."""
        self.bar.write(text, file=sys.stdout)
        sys.stdout.flush()

    def _line(self, record: TrialRecord) -> str:
        start = f"[{len(self.ended)}/{self.trials}] trial {record.number}"
        if record.state != "complete":
            error = record.error or {}
            return f"{start}  {record.state} ({error.get('reason')}): {error.get('message')}"
        m, mark = record.metrics, "  best so far" if self.winner is record else ""
        if record.error:
            mark += f"  breaks a constraint: {record.error['message']}"
        if "error" in record.conditions:
            mark += f"  {record.conditions['error']}"
        elif not record.conditions.get("trusted", True):
            mark += f"  latency not to be trusted (x {self.reference} +-{m['latency_error']:.0%})"
        name = self.reference if record.is_reference else record.id
        figures = [
            f"{heading.replace('stock', self.reference)} {form.format(m[key])}"
            for key, heading, form in COMPARED
            if key in m
        ]
        figures += [f"{metric} {value:.4g}" for metric, value in m.items() if is_own(metric)]
        shown = "  ".join(figures)
        return f"{start}  {name:<10}  reward {record.reward:.4f}  {shown}  {record.seconds:.0f} s{mark}"
