"""The journal: one append-only JSON-lines file that holds every trial of a run, and is the only truth about it.

A trial writes a `started` line when it is handed out and one more line when it ends. The last line of a number counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .architecture import Architecture, Value
from .errors import UserError

VERSION = 1
STATES = ("started", "complete", "failed", "infeasible", "pruned")
REASONS = ("oom", "nan", "crash", "killed", "timeout", "data")


@dataclass(frozen=True)
class TrialResult:
    """What a trial returns: metrics by name, and one `{"epoch": ..., metric: ...}` for each validation."""

    metrics: Mapping[str, float]
    curve: tuple[Mapping[str, float], ...] = ()


@dataclass(frozen=True)
class TrialRecord:
    """What is known of one trial.

    Args:
        number: counted from 0; trial 0 is the default architecture, that is, stock YOLOv5.
        architecture: `{label: value}`.
        state: one of `STATES`.
        reward: the number that the search maximises; None unless complete.
        metrics: by name, the unit in the name (`map50_95`, `gflops`, `latency_ms`); what was not measured is absent.
        curve: one `{"epoch": ..., metric: ...}` for each validation.
        seconds: wall time from start to end.
        seed: of the training.
        attempt: 1, or more where the trial was started again after a kill.
        error: `{"reason": one of REASONS, "message": ...}` where it failed.
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

    @property
    def id(self) -> str:
        """The architecture's id."""
        return Architecture(self.architecture).id

    @property
    def done(self) -> bool:
        """Whether the trial has ended, in whatever way."""
        return self.state != "started"

    def to_json(self) -> str:
        """The journal's line, without the newline."""
        line = {"version": VERSION, "number": self.number, "id": self.id, **asdict(self)}
        return json.dumps(line, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> TrialRecord:
        """The record of a line.

        Raises:
            ValueError: it is no record, or of a version that this program does not know.
        """
        entries = json.loads(line)
        if not isinstance(entries, dict) or "version" not in entries:
            raise ValueError("a journal line must be an object with a version")
        if entries["version"] > VERSION:
            raise ValueError(f"the journal's version is {entries['version']}, this yolov5-nas knows up to {VERSION}")
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
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    records = []
    for i, line in enumerate(lines, 1):
        try:
            records.append(TrialRecord.from_json(line))
        except (ValueError, TypeError, KeyError) as e:
            raise UserError(f"the journal can't be read ({e})", file=path, line=i) from None
    return records


def latest(records: Iterable[TrialRecord]) -> dict[int, TrialRecord]:
    """Each trial's last record, by number."""
    return {record.number: record for record in records}


def read_journal(path: str | Path) -> list[TrialRecord]:
    """The trials of a run, one record each, by number.

    Args:
        path: the run's folder, or its `trials.jsonl`.

    Raises:
        UserError: there is no journal, or a line of it can't be read.
    """
    path = Path(path)
    path = path / "trials.jsonl" if path.is_dir() else path
    if not path.exists():
        raise UserError("no journal (trials.jsonl) there: is it the folder of a run?", file=path)
    return [record for _, record in sorted(latest(read_lines(path)).items())]


def complete(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The trials that have a result."""
    return [record for record in records if record.state == "complete"]


def best(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """The trial with the highest reward (of equal ones the earliest), or None."""
    return max(complete(records), key=lambda r: (_reward(r), -r.number), default=None)


def front(records: Iterable[TrialRecord], cost: str, gain: str = "map50_95") -> list[TrialRecord]:
    """The Pareto front: the complete trials of which none has more gain at less cost, from cheap to dear."""
    having = [r for r in complete(records) if cost in r.metrics and gain in r.metrics]
    found: list[TrialRecord] = []
    for record in sorted(having, key=lambda r: (r.metrics[cost], -r.metrics[gain], r.number)):
        if not found or record.metrics[gain] > found[-1].metrics[gain]:
            found.append(record)
    return found


def _reward(record: TrialRecord) -> float:
    return float("-inf") if record.reward is None else record.reward


def to_dict(record: TrialRecord) -> dict[str, Any]:
    """A flat row for tables: number, state, reward, metrics, choices, error."""
    error = record.error or {}
    row = {"number": record.number, "id": record.id, "state": record.state, "reward": record.reward, **record.metrics}
    row |= {"seconds": record.seconds, "reason": error.get("reason"), "message": error.get("message")}
    return {**row, **record.architecture}
