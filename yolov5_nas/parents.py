"""Whose weights a trial starts from: always the first trial's, or those of the nearest one that was evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from .architecture import Value
from .journal import TrialRecord, complete

KEPT = 32  # trials whose weights are kept for others to start from: 120 MB of yolov5n, 450 MB of yolov5s

# (architecture, records) -> the number of the trial to start from, which is complete
Choice = Callable[[Mapping[str, Value], Iterable[TrialRecord]], int]


def base(architecture: Mapping[str, Value], records: Iterable[TrialRecord]) -> int:
    """The first trial, which is stock YOLOv5."""
    return 0


def nearest(architecture: Mapping[str, Value], records: Iterable[TrialRecord]) -> int:
    """The trial with the fewest labels that differ; of equal ones the better, then the earlier."""

    def distance(record: TrialRecord) -> tuple[int, float, int]:
        differing = sum(record.architecture[label] != value for label, value in architecture.items())
        return differing, -(record.reward or 0.0), record.number

    return min(candidates(records), key=distance).number


def candidates(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The trials that others may start from: the first, and the best of the others. The journal alone says which."""
    found = sorted(complete(records), key=lambda r: (r.number != 0, -(r.reward or 0.0), r.number))
    return found[:KEPT]


def needed(records: Iterable[TrialRecord], choice: Choice) -> set[int]:
    """The trials whose weights must be kept: those that may become parents, and the parents of what still runs."""
    records = list(records)
    possible = {0} if choice is base else {r.number for r in candidates(records)}
    return possible | {r.parent for r in records if not r.done and r.parent is not None}


CHOICES = {"base": base, "parent": nearest}
