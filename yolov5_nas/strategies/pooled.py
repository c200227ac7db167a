"""The costs of a network by all measurements of it: those that agree count, by their errors."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

from ..records.journal import TrialRecord
from ..records.metrics import ERROR_BOUND, LATENCIES, NORMAL_95

AGREE = 3.0  # standard errors of their difference, within which two measurements are of the same cost
LEAST = 0.002  # standard error of a measurement as a share of it: two are seldom nearer to each other
UNSURE = 0.01  # half the 95 % interval of a measured share, where it is not known
AGAIN = 3  # measurements beside the first, at most, of a network whose cost can't be right


def measured_error(record: TrialRecord) -> float:
    """Return the standard error of a measured share."""
    return record.metrics.get("latency_error", UNSURE) / NORMAL_95


def pooled(records: Sequence[TrialRecord], metrics: Iterable[str]) -> TrialRecord:
    """Return the first of a network's records with the costs that all of them show together.

    The largest group of measurements that agree gives the mean, weighted by their errors. Where that is not more than
    half of all, the network's cost is not known: it is the middle one, with half of their range as its error.

    Returns:
        The record. Its conditions have `measurements`, how many agree; `disagree`, the metrics that are not known; and
        `trusted`, whether the latency is known within `ERROR_BOUND`. A single record is returned as it is.
    """
    first, found = records[0], dict[str, float]()
    conditions: dict[str, Any] = {**first.conditions, "disagree": []}
    for metric in metrics:
        having = [r for r in records if r.state == "complete" and metric in r.metrics]
        if not having or having == [first]:
            continue
        value, error, group = _mean([(r.metrics[metric], measured_error(r)) for r in having])
        found[metric] = value
        conditions["measurements"] = len(group)
        if not group:
            conditions["disagree"].append(metric)
        if metric in LATENCIES:
            found["latency_error"] = NORMAL_95 * error
            is_sure = any(having[i].conditions.get("trusted", True) for i in group)
            conditions["trusted"] = bool(group) and (is_sure or NORMAL_95 * error <= ERROR_BOUND)
    return replace(first, metrics={**first.metrics, **found}, conditions=conditions) if found else first


def with_repeats(
    records: Iterable[TrialRecord], repeats: Sequence[TrialRecord], metrics: Sequence[str]
) -> list[TrialRecord]:
    """Return records, each pooled with the further measurements of its network."""
    return [pooled([r, *(x for x in repeats if x.id == r.id)], metrics) for r in records]


def _mean(measured: Sequence[tuple[float, float]]) -> tuple[float, float, list[int]]:
    """Return the cost, its error as a share of it, and which measurements agree on it ([]: too few).

    Args:
        measured: values with their standard errors as shares of them.
    """
    values = [value for value, _ in measured]
    errors = [abs(value) * max(error, LEAST) for value, error in measured]
    every = range(len(measured))

    def agreeing(i: int) -> list[int]:
        return [j for j in every if abs(values[i] - values[j]) <= AGREE * math.hypot(errors[i], errors[j])]

    best = max(map(agreeing, every), key=lambda group: (len(group), sum(errors[i] ** -2 for i in group)))
    if 2 * len(best) <= len(measured):
        middle = sorted(values)[len(values) // 2]
        return middle, (max(values) - min(values)) / 2 / abs(middle), []
    weights = [errors[i] ** -2 for i in best]
    mean = sum(w * values[i] for w, i in zip(weights, best)) / sum(weights)
    return mean, sum(weights) ** -0.5 / abs(mean), best


def is_noisy(record: TrialRecord, metrics: Collection[str]) -> bool:
    """Return whether one of some costs of a network is not known well enough to decide anything by it."""
    is_timed = any(metric in LATENCIES for metric in metrics)
    doubtful = record.conditions.get("disagree", ())
    return (is_timed and not record.conditions.get("trusted", True)) or any(metric in doubtful for metric in metrics)
