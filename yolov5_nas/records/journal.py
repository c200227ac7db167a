"""The journal: one append-only JSON-lines file with every trial of a run, and the single source of truth about it.

A trial writes a `started` line when it is handed out and one more line when it ends. For each number the last line
counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from ..errors import UserError
from ..files import given_path, is_file, is_folder
from ..space.architecture import Architecture, Value
from .metrics import is_maximised
from .run_folder import REFERENCE, RunFolder
from .shape import NUMBERS, check_shape

if TYPE_CHECKING:
    import pandas

VERSION = 2  # version 1 had no budget, and kept a proof's contestant and seed among the labels
STATES = ("started", "complete", "failed", "infeasible", "pruned")
# mAP50-95 by class, with its name, in the order of the data's; None for a class without labels in the images.
ByClass = tuple[tuple[str, float | None], ...]
REASONS = ("oom", "nan", "crash", "killed", "timeout", "latency", "hook", "machine")  # why a trial failed

LINE = {  # the shape of a journal's line
    **{"version": int, "number": int, "architecture": {str: (str, float)}, "state": str, "reward?": (float, None)},
    **{"metrics?": NUMBERS, "curve?": [NUMBERS], "seconds?": (float, None), "seed?": int, "attempt?": int},
    **{"error?": ({"reason": str, "message?": str}, None), "conditions?": {str: object}, "parent?": (int, None)},
    **{"budget?": {str: object}, "classes?": ({str: object}, [[(str, float, None)]])},
}


@dataclass(frozen=True)
class TrialResult:
    """What a trial returns.

    Args:
        metrics: by name.
        curve: one `{"epoch": ..., metric: ...}` for each validation.
        state: "complete", "infeasible" if a constraint refused it before training, or "pruned" if it was ended early.
        conditions: of the latency: runtime and version, device, dtype, batch, image size, runs, whether to be trusted;
            `hooks`: what went wrong in hooks, by their file names.
        why: it is not complete, or which constraint it breaks, in words; a complete trial may break one if it is the
            default architecture, which is trained for comparison.
        classes: see `ByClass`.
        budget: what the metrics cost: `epochs` of training (0 for a score without one), and the file of the `weights`
            that it started from, or None.
    """

    metrics: Mapping[str, float]
    curve: tuple[Mapping[str, float], ...] = ()
    state: str = "complete"
    conditions: Mapping[str, Any] = field(default_factory=dict)
    why: str | None = None
    budget: Mapping[str, Any] = field(default_factory=dict)
    classes: ByClass = ()


@dataclass(frozen=True)
class TrialRecord:
    """What is known of one trial.

    Args:
        number: counted from 0; trial 0 is the default architecture, that is, stock YOLOv5 or the parent.
        architecture: `{label: value}`.
        state: one of `STATES`.
        reward: the number that the search maximises; None unless complete.
        metrics: by name, the unit in the name (`map50_95`, `gflops`, `latency_ms`); what was not measured is absent.
        curve: one `{"epoch": ..., metric: ...}` for each validation.
        seconds: wall time from start to end.
        seed: of the training.
        attempt: 1, or more where the trial was started again after a kill.
        error: `{"reason": one of REASONS, "message": ...}` where it failed; with the reason "constraint" where it
            breaks one, "pruned" where it was ended early.
        conditions: of the latency measurement.
        parent: the number of the trial whose weights it started from, if any.
        classes: see `ByClass`.
        budget: as in `TrialResult`. Together with the architecture's id and the seed it identifies a training.
    """

    number: int
    architecture: Mapping[str, Value]
    state: str
    reward: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[Mapping[str, float], ...] = ()
    seconds: float | None = None
    seed: int = 0
    attempt: int = 1
    error: Mapping[str, str] | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)
    parent: int | None = None
    budget: Mapping[str, Any] = field(default_factory=dict)
    classes: ByClass = ()

    @property
    def id(self) -> str:
        """The architecture's id."""
        return Architecture(self.architecture).id

    @property
    def is_reference(self) -> bool:
        """Whether it is the one that all others are compared with."""
        return self.number == REFERENCE

    @property
    def done(self) -> bool:
        """Whether the trial has ended, in whatever way."""
        return self.state != "started"

    @property
    def counts(self) -> bool:
        """Whether it has ended and counts among `--trials`; what a constraint refused does not."""
        return self.done and self.state != "infeasible"

    @property
    def is_tried_again(self) -> bool:
        """Whether a resume starts it again: it was cut off, or killed, which says nothing of the architecture."""
        return not self.done or (self.state == "failed" and (self.error or {}).get("reason") == "killed")

    def again(self) -> TrialRecord:
        """The start of its next attempt."""
        same = {"number": self.number, "architecture": self.architecture, "seed": self.seed, "parent": self.parent}
        return TrialRecord(**same, state="started", attempt=self.attempt + 1)  # type: ignore[arg-type]

    def to_json(self) -> str:
        """The journal's line, without the newline."""
        line = {"version": VERSION, "number": self.number, "id": self.id, **asdict(self)}
        for name in ("conditions", "budget", "classes"):
            if not line[name]:
                del line[name]
        if self.parent is None:
            del line["parent"]
        return json.dumps(line, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> TrialRecord:
        """The record of a line.

        Raises:
            ValueError: it is no record, or of a version that this program does not know.
        """
        entries = json.loads(line)
        check_shape(entries, {"version": int})
        if entries["version"] > VERSION:
            raise ValueError(f"the journal's version is {entries['version']}, this yolov5-nas knows up to {VERSION}")
        check_shape(entries, LINE)
        if entries["number"] < 0:
            raise ValueError(f"a number must be at least 0, got {entries['number']}")
        if entries["version"] == 1 and "contestant" in entries["architecture"]:
            entries["seed"] = entries["architecture"].pop("seed")
            del entries["architecture"]["contestant"]
        if "classes" in entries:
            entries["classes"] = _classes(entries["classes"], entries.get("metrics", {}).get("map50_95"))
        names = cls.__dataclass_fields__
        record = cls(**{name: value for name, value in entries.items() if name in names})
        if record.state not in STATES:
            raise ValueError(f"a state must be one of {', '.join(STATES)}, got {record.state!r}")
        return replace(record, curve=tuple(record.curve))


class Journal:
    """The journal of a run, open for appending.

    `records` holds its lines in order, `trials` each trial's last record by number.

    Raises:
        UserError: a line that is not the last can't be read (file and line given).
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.records = read_lines(self.path)
        self.trials = latest(self.records)
        self._drop_torn_line()

    def append(self, record: TrialRecord) -> None:
        """Write one line; it is on the disk when this returns."""
        with self.path.open("ab") as file:
            file.write(record.to_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.records.append(record)
        self.trials[record.number] = record

    def _drop_torn_line(self) -> None:
        """Cut off what a kill in the middle of a write left after the last newline."""
        if self.path.exists():
            text = self.path.read_bytes()
            if not text.endswith(b"\n"):
                with self.path.open("r+b") as file:
                    file.truncate(text.rfind(b"\n") + 1)


def read_lines(path: Path) -> list[TrialRecord]:
    """All lines of a journal in order; one torn by a kill (no newline at its end) is left out; [] where there is none.

    Raises:
        UserError: a whole line can't be read (file and line given).
    """
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    except OSError as e:
        raise UserError(f"the journal can't be read ({e.strerror or e})", file=path) from None
    records = []
    for i, line in enumerate(lines, 1):
        try:
            records.append(TrialRecord.from_json(line))
        except (ValueError, TypeError, KeyError, RecursionError) as e:
            raise UserError(f"the journal can't be read ({e})", file=path, line=i) from None
    return records


def latest(records: Iterable[TrialRecord]) -> dict[int, TrialRecord]:
    """Each trial's last record, by number."""
    return {record.number: record for record in records}


@overload
def read_journal(path: str | Path, frame: Literal[False] = False) -> list[TrialRecord]: ...


@overload
def read_journal(path: str | Path, frame: Literal[True]) -> pandas.DataFrame: ...


def read_journal(path: str | Path, frame: bool = False) -> list[TrialRecord] | pandas.DataFrame:
    """The trials of a run, finished or still running, by number: as one record (`TrialRecord`) or one row each.

    >>> first = read_journal("runs/nas/exp")[0]
    >>> first.number, first.state, first.metrics["params"]
    (0, 'complete', 1777447)
    >>> frame = read_journal("runs/nas/exp", frame=True)
    >>> frame.loc[0, "state"], int(frame.loc[0, "params"])
    ('complete', 1777447)

    Args:
        path: the run's folder, or its `trials.jsonl`.
        frame: return a pandas frame: the number as index; columns for id, state, reward, seconds, the reason and the
            message of an error, each metric, and each label of the space. What was not measured is NaN.

    Metrics carry their units in their names: `gflops` (2 x multiply-adds / 1e9), `latency_ms`; docs/rewards.md.

    Raises:
        UserError: there is no journal, or a line of it can't be read.
    """
    path = given_path(path)
    path = RunFolder(path).journal if is_folder(path) else path
    if not is_file(path):
        if (run := RunFolder(path.parent)).options.exists():
            goes_on = f"yolov5-nas search --resume {run.path} goes on (after --trials 0 with another --trials)"
            raise UserError(f"no trial of this run has begun; {goes_on}", file=path)
        raise UserError("no journal (trials.jsonl) there: is it the folder of a run?", file=path)
    records = [record for _, record in sorted(latest(read_lines(path)).items())]
    if not frame:
        return records
    import pandas

    return pandas.DataFrame([to_dict(record) for record in records]).set_index("number")


def complete(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The trials that have a result."""
    return [record for record in records if record.state == "complete"]


def reference(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """The trial that all others are compared with, where it is complete."""
    return next((record for record in complete(records) if record.is_reference), None)


def eligible(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The complete trials that break no constraint: the winner is one of them."""
    return [record for record in complete(records) if record.error is None]


def best(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """The eligible trial with the highest reward (of equal ones the earliest), or None."""
    return max(eligible(records), key=lambda r: (_reward(r), -r.number), default=None)


def front(records: Iterable[TrialRecord], *objectives: str) -> list[TrialRecord]:
    """The Pareto front: the eligible trials that no other one matches in every objective and beats in at least one.

    Args:
        objectives: metrics; the front is in the order of the first one, from good to bad. Of equal trials the earliest
            counts. A trial that lacks one of them is left out.
    """
    signs = [1 if is_maximised(metric) else -1 for metric in objectives]
    having = [r for r in eligible(records) if all(metric in r.metrics for metric in objectives)]
    points = {r.number: tuple(s * r.metrics[m] for s, m in zip(signs, objectives)) for r in having}
    found: list[TrialRecord] = []
    # In descending order a point can be dominated only by one that comes before it.
    for record in sorted(having, key=lambda r: (*(-value for value in points[r.number]), r.number)):
        point = points[record.number]
        if not any(all(a >= b for a, b in zip(points[other.number], point)) for other in found):
            found.append(record)
    return found


def _reward(record: TrialRecord) -> float:
    return float("-inf") if record.reward is None else record.reward


def _classes(entry: Any, overall: float | None) -> ByClass:
    """Read a line's classes. Earlier versions kept `{name: mAP50-95}`, with the overall one for a class without labels.

    Args:
        overall: mAP50-95 of all classes.
    """
    if isinstance(entry, Mapping):
        return tuple((name, None if ap and ap == overall else ap) for name, ap in entry.items())
    return tuple((str(name), None if ap is None else float(ap)) for name, ap in entry)


def to_dict(record: TrialRecord) -> dict[str, Any]:
    """A flat row for tables: number, state, reward, metrics, choices, error."""
    error = record.error or {}
    row = {"number": record.number, "id": record.id, "state": record.state, "reward": record.reward, **record.metrics}
    row |= {"seconds": record.seconds, "reason": error.get("reason"), "message": error.get("message")}
    return {**row, **record.architecture}
