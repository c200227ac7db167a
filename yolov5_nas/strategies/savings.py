"""What the items of a table save of costs that are measured, and how its sums agree with whole networks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..records.journal import TrialRecord
from ..records.metrics import LATENCIES, NORMAL_95, is_own
from ..records.options import Options
from ..records.reward import Constraint, Target
from ..space.architecture import Value
from ..space.choices import size_of
from .pooled import AGREE, is_noisy, measured_error
from .regression import posterior
from .replacement import ADDITIVE, Item, Table

if TYPE_CHECKING:
    import numpy as np

SHARE_OFF = 0.5  # prior: how far an option's saving is from that of the GFLOPs it saves, as a share of it
ACT_SAVES = 0.005  # prior: of the parent's cost, by one activation
MISFITS = (0.0, 0.002, 0.005, 0.01, 0.02, 0.04)  # of sums of savings, as shares of the parent's cost
SUM_OFF = 0.01  # standard error of a sum of savings, at least: plans take what seems to save most
RISE_OFF = 0.5  # prior: how far an option's share of a whole rise is from its own, as a share of it


# What options save ----------------------------------------------------------------------------------------------------


def ratio_of(metric: str) -> str:
    """The metric that is measured for a target: milliseconds of two moments can't be compared, ratios can."""
    return "latency_ratio" if metric == "latency_ms" else metric


def measured_costs(o: Options) -> list[str]:
    """The costs of a replacement search's targets and constraints that have to be measured."""
    limits: list[Target | Constraint] = [*itertools.chain(*o.plans), *o.constraints]
    names = (ratio_of(limit.metric) for limit in limits)
    return list(dict.fromkeys(name for name in names if name not in ADDITIVE))


def needed_costs(o: Options) -> tuple[str, ...]:
    """Those of `measured_costs` without which a trial fails."""
    return tuple(name for name in measured_costs(o) if name in LATENCIES or is_own(name))


def share(record: TrialRecord, metric: str, parent: TrialRecord) -> float:
    """A cost as a share of the parent's."""
    return record.metrics[metric] / (1.0 if metric == "latency_ratio" else parent.metrics[metric])


def fitted(table: Table, measured: Iterable[TrialRecord], metrics: Iterable[str], parent: TrialRecord) -> Table:
    """A table that knows what its items save of some costs that were measured of joint architectures of its form.

    Raises:
        KeyError: no architecture has one of them.
    """
    done = [r for r in measured if r.state == "complete" and table.has(r.architecture)]
    zero = next((r for r in done if r.id == table.parent.id and r.id != parent.id), None)
    done = [r for r in done if r.id != table.parent.id]
    for metric in metrics:
        having = [r for r in done if metric in r.metrics]
        if not having and table.items and not (zero and metric in zero.metrics):
            raise KeyError(metric)
        unsure = 0.0
        if zero and metric in zero.metrics:
            table = replace(table, costs={**table.costs, metric: share(zero, metric, parent)})
            unsure = measured_error(zero)
        known = [(r.architecture, share(r, metric, parent), measured_error(r)) for r in having]
        table = with_savings(table, metric, known, unsure)
    return table


def with_savings(
    table: Table,
    metric: str,
    measured: Sequence[tuple[Mapping[str, Value], float, float]],
    unsure: float = 0.0,
) -> Table:
    """A table that knows what its items save of a cost that is measured, such as latency.

    Savings of single options are smaller than the error of a measurement, so they are fitted to joint architectures: a
    Bayesian linear model in which an option saves about as much as it saves of the GFLOPs, and an activation little.

    Args:
        measured: architectures with their cost and its standard error, as shares of the parent's cost.
        unsure: the standard error of what the parent costs in the table's form.
    """
    import numpy as np

    items = [item for group in table.items.values() for item in group]
    names = ["all", "form", *dict.fromkeys(name for item in items for name, _ in _parts(item))]
    column = {name: j for j, name in enumerate(names)}

    def features(own: Iterable[Item]) -> np.ndarray:
        row = np.zeros(len(names))
        for item in own:
            for name, size in _parts(item):
                row[column[name]] += size
            row[0] += item.saves["gflops"]
        return row

    prior = np.array([1.0, unsure, *(ACT_SAVES if name[1] == "act" else SHARE_OFF for name in names[2:])])
    mean = np.zeros(len(names))
    mean[0] = 0.7  # of a share of the GFLOPs that is saved, about this much is saved of latencies
    x = np.array([features(table.of(architecture)) for architecture, _, _ in measured]).reshape(-1, len(names))
    x[:, 1] = 1.0  # what the form saves more than its own measurement says
    y = np.array([table.share(metric) - ratio for _, ratio, _ in measured]) - x @ mean
    noise = np.array([error for _, _, error in measured])
    fits = [posterior(x, y, prior, np.sqrt(noise**2 + misfit**2 + 1e-12)) for misfit in MISFITS]
    best = max(range(len(fits)), key=lambda i: fits[i][0])
    _, found, covariance = fits[best]

    def known(item: Item) -> Item:
        row = features([item])
        saves, unsure = row @ (mean + found), np.sqrt(row @ covariance @ row)
        return replace(item, saves={**item.saves, metric: float(saves)}, unsure={**item.unsure, metric: float(unsure)})

    costs = {**table.costs, metric: table.share(metric) - float(found[1])}
    items_by_layer = {i: tuple(map(known, group)) for i, group in table.items.items()}
    return replace(table, items=items_by_layer, costs=costs, misfits={**table.misfits, metric: MISFITS[best]})


def is_expected(table: Table, record: TrialRecord, metric: str, parent: TrialRecord) -> bool:
    """Return whether a network's measured cost is one that a table allows, by their errors."""
    off = share(record, metric, parent) - table.ratio(record.architecture, metric)
    error = math.hypot(measured_error(record), table.ratio_error(record.architecture, metric), SUM_OFF)
    return abs(off) <= AGREE * error


def useless(table: Table, architecture: Mapping[str, Value], metrics: Sequence[str]) -> list[Item]:
    """Return an architecture's items of which no saving of some costs can be told from 0, the smallest savings first.

    GFLOPs and parameters are counted, so that any saving of them can be told.
    """

    def saves(item: Item) -> bool:
        return any(item.saves[metric] > NORMAL_95 * item.unsure.get(metric, 0.0) for metric in metrics)

    return sorted((i for i in table.of(architecture) if not saves(i)), key=lambda i: i.saves[metrics[0]])


def offset(table: Table, metric: str, plans: Iterable[TrialRecord], parent: TrialRecord) -> float:
    """By how much plans cost more than a table says, as a share of the parent's cost: the mean, or 0 if it is less.

    Plans whose costs are noisy say nothing of it.

    The integer programme picks what seems to save most, and so what the table's errors make look good.
    """
    off = [
        share(r, metric, parent) - table.ratio(r.architecture, metric)
        for r in plans
        if r.state == "complete" and metric in r.metrics and table.has(r.architecture) and not is_noisy(r, [metric])
    ]
    return max(0.0, sum(off) / len(off)) if off else 0.0


def _parts(item: Item) -> list[tuple[tuple[object, ...], float]]:
    """The features of an item besides the GFLOPs that it saves: its shape, by these, and its activations."""
    is_act = [size_of(value) is None for _, value in item.change]
    shape = tuple(entry for entry, act in zip(item.change, is_act) if not act)
    parts: list[tuple[tuple[object, ...], float]] = [((e, "act"), 1.0) for e, act in zip(item.change, is_act) if act]
    parts += [(("any", "act", value), 1.0) for (_, value), act in zip(item.change, is_act) if act]
    return [*parts, ((shape, "shape"), item.saves["gflops"])] if shape else parts


# Rises that whole networks show ---------------------------------------------------------------------------------------


def corrected(table: Table, wholes: Sequence[tuple[Mapping[str, Value], float, float]]) -> Table:
    """A table whose rises agree better with those of whole networks: ridge regression with the table as the prior.

    Args:
        wholes: architectures with the rise of their networks above the parent's in their form, and its standard error.
    """
    import numpy as np

    wholes = [whole for whole in wholes if table.has(whole[0])]
    items = [item for group in table.items.values() for item in group]
    taken = [table.of(architecture) for architecture, _, _ in wholes]
    used = [item for item in items if any(item in own for own in taken)]
    if not used:
        return table
    x = np.array([[float(item in own) for item in used] for own in taken])
    rises = np.array([max(item.rise, 0.0) for item in used])
    prior = np.array([RISE_OFF * max(item.rise, 0.0) + item.error for item in used])
    y = np.array([rise for _, rise, _ in wholes]) - x @ rises
    noise = np.array([error for _, _, error in wholes]) + 0.05 * np.abs([rise for _, rise, _ in wholes]) + 1e-9
    _, found, _ = posterior(x, y, prior, noise)
    new = {id(item): replace(item, rise=float(rise)) for item, rise in zip(used, rises + found)}
    return replace(table, items={i: tuple(new.get(id(item), item) for item in g) for i, g in table.items.items()})
