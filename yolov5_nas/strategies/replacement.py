"""What can be put in the place of a trained network's own layers: a table of what each option costs and saves.

After LANA (Molchanov et al., ECCV 2022, section 3): every replacement is scored by itself, and what replacements of
several layers do is taken to add up.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..records.journal import TrialRecord
from ..records.options import Options
from ..records.reward import Constraint, Target
from ..space.architecture import Architecture, Value
from ..space.arithmetic import parse_kernel
from ..space.choices import Layer
from ..space.space import Space

if TYPE_CHECKING:
    import numpy as np

ADDITIVE = ("gflops", "params")  # what options save of them adds up exactly
SHARE_OFF = 0.5  # prior: how far an option's saving is from that of the GFLOPs it saves, as a share of it
ACT_SAVES = 0.005  # prior: of the parent's cost, by one activation
MISFITS = (0.0, 0.002, 0.005, 0.01, 0.02, 0.04)  # of sums of savings, as shares of the parent's cost
UNSURE = 0.01  # half the 95 % interval of a measured share, where it is not known
NORMAL_95 = 1.96  # half of a 95 % interval, in standard deviations
RISE_OFF = 0.5  # prior: how far an option's share of a whole rise is from its own, as a share of it


# What can replace what ------------------------------------------------------------------------------------------------

Change = tuple[tuple[str, Value], ...]  # values by label that differ from the parent's, in the order of the labels


def shapes(layer: Layer, parent: Mapping[str, Value]) -> list[Change]:
    """Joint options of a layer's kernels, width and depth that are nowhere larger than the parent's."""
    choices = [c for c in layer.choices if c.kind != "act"]
    kept = [[o for o in c.options if _size(c.kind, o) <= _size(c.kind, parent[c.label])] for c in choices]
    return [
        tuple((c.label, o) for c, o in zip(choices, options) if o != parent[c.label])
        for options in itertools.product(*kept)
    ]


def acts(layer: Layer, parent: Mapping[str, Value]) -> list[list[Change]]:
    """For each activation of a layer that is a choice, its options."""
    choices = [c for c in layer.choices if c.kind == "act"]
    return [[((c.label, o),) if o != parent[c.label] else () for o in c.options] for c in choices]


def _size(kind: str, option: Value) -> float:
    return parse_kernel(option)[0] if kind == "kernel" else float(option)


def rows(space: Space, frozen: Collection[int] = ()) -> list[Architecture]:
    """The architectures by which a table is made: the parent's, and each option of one layer alone.

    Kernels, width and depth of a layer act together and are scored jointly; each activation by itself.
    """
    parent = space.default()
    changes = []
    for i, layer in space.layers.items():
        if i not in frozen:
            changes += [c for c in (*shapes(layer, parent), *itertools.chain(*acts(layer, parent))) if c]
    return [parent, *(changed(parent, change) for change in changes)]


def changed(parent: Architecture, change: Iterable[tuple[str, Value]]) -> Architecture:
    """The parent's architecture with some values."""
    return Architecture({**parent, **dict(change)})


def smallest(space: Space, frozen: Collection[int] = ()) -> Architecture:
    """The architecture with the fewest weights that replacements reach; activations are the parent's."""
    parent, change = space.default(), {}
    for i, layer in space.layers.items():
        if i not in frozen:
            for c in layer.choices:
                if c.kind != "act":
                    change[c.label] = min((*c.options, parent[c.label]), key=lambda o: _size(c.kind, o))
    return changed(parent, change.items())


# The table ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """What one layer can be instead of the parent's.

    Args:
        rise: of the loss; `error`: its standard error.
        saves: shares of the parent's costs by metric; `unsure`: their standard errors.
    """

    layer: int
    change: Change
    rise: float
    error: float
    saves: Mapping[str, float]
    unsure: Mapping[str, float] = field(default_factory=dict)

    @property
    def cost(self) -> float:
        """Of taking it: a fall of the loss is no reward, and a rise within its error is none."""
        return self.rise if self.rise > self.error else 0.0


@dataclass(frozen=True)
class Table:
    """All items of a parent, by layer.

    Args:
        parent: its architecture.
        items: of each layer that can be replaced.
    """

    parent: Architecture
    items: Mapping[int, tuple[Item, ...]]

    def of(self, architecture: Mapping[str, Value]) -> list[Item]:
        """The items that an architecture consists of.

        Raises:
            KeyError: one is not in the table.
        """
        left = {label: value for label, value in architecture.items() if value != self.parent[label]}
        found = []
        for items in self.items.values():
            labels = {label for item in items for label, _ in item.change}
            own = {label: value for label, value in left.items() if label in labels}
            if own:
                found.append(next(item for item in items if dict(item.change) == own))
                left = {label: value for label, value in left.items() if label not in own}
        if left:
            raise KeyError(next(iter(left)))
        return found

    def rise(self, architecture: Mapping[str, Value]) -> float:
        """The sum of what an architecture's items cost."""
        return sum(item.cost for item in self.of(architecture))

    def ratio(self, architecture: Mapping[str, Value], metric: str) -> float:
        """An architecture's cost as a share of the parent's, by the sum of what its items save."""
        return 1.0 - sum(item.saves[metric] for item in self.of(architecture))


def make_table(space: Space, scored: Iterable[TrialRecord], frozen: Collection[int] = ()) -> Table:
    """The table of the scores of `rows`; what options save of GFLOPs and parameters is in it.

    A layer's items are all combinations of its joint shapes and its activations, whose rises are added.
    """
    parent = space.default()
    by_change = {
        tuple((label, v) for label, v in r.architecture.items() if v != parent[label]): r
        for r in scored
        if r.state == "complete"
    }
    whole = by_change[()].metrics
    items = {}
    for i, layer in space.layers.items():
        if i in frozen:
            continue
        parts = [
            [c for c in options if not c or c in by_change] for options in (shapes(layer, parent), *acts(layer, parent))
        ]
        found = []
        for combination in itertools.product(*parts):
            own = [by_change[change].metrics for change in combination if change]
            if own:
                found.append(_item(i, layer, sum(combination, ()), own, whole))
        items[i] = tuple(found)
    return Table(parent, items)


def _item(i: int, layer: Layer, change: Change, own: Sequence[Mapping[str, float]], whole: Mapping[str, float]) -> Item:
    order = {choice.label: place for place, choice in enumerate(layer.choices)}
    saves = {m: sum(1.0 - metrics[m] / whole[m] for metrics in own) for m in ADDITIVE}
    rise = sum(metrics["rise"] for metrics in own)
    error = math.sqrt(sum(metrics["rise_error"] ** 2 for metrics in own))
    return Item(i, tuple(sorted(change, key=lambda entry: order[entry[0]])), rise, error, saves)


# What options save ----------------------------------------------------------------------------------------------------


def ratio_of(metric: str) -> str:
    """The metric that is measured for a target: milliseconds of two moments can't be compared, ratios can."""
    return "latency_ratio" if metric == "latency_ms" else metric


def measured_costs(o: Options) -> list[str]:
    """The costs of a replacement search's targets and constraints that have to be measured."""
    limits: list[Target | Constraint] = [*itertools.chain(*o.plans), *o.constraints]
    names = (ratio_of(limit.metric) for limit in limits)
    return list(dict.fromkeys(name for name in names if name not in ADDITIVE))


def share(record: TrialRecord, metric: str, parent: TrialRecord) -> float:
    """A cost as a share of the parent's."""
    return record.metrics[metric] / (1.0 if metric == "latency_ratio" else parent.metrics[metric])


def fitted(table: Table, measured: Iterable[TrialRecord], metrics: Iterable[str], parent: TrialRecord) -> Table:
    """A table that knows what its items save of some costs that were measured of joint architectures.

    Raises:
        KeyError: no architecture has one of them.
    """
    done = [r for r in measured if r.state == "complete" and r.id != Architecture(parent.architecture).id]
    for metric in metrics:
        having = [r for r in done if metric in r.metrics]
        if not having:
            raise KeyError(metric)
        errors = (r.metrics.get("latency_error", UNSURE) / NORMAL_95 for r in having)
        known = [(r.architecture, share(r, metric, parent), error) for r, error in zip(having, errors)]
        table = with_savings(table, metric, known)
    return table


def with_savings(table: Table, metric: str, measured: Sequence[tuple[Mapping[str, Value], float, float]]) -> Table:
    """A table that knows what its items save of a cost that is measured, such as latency.

    Savings of single options are smaller than the error of a measurement, so they are fitted to joint architectures: a
    Bayesian linear model in which an option saves about as much as it saves of the GFLOPs, and an activation little.

    Args:
        measured: architectures with their cost and its standard error, as shares of the parent's cost.
    """
    import numpy as np

    items = [item for group in table.items.values() for item in group]
    names = ["all", *dict.fromkeys(name for item in items for name, _ in _parts(item))]
    column = {name: j for j, name in enumerate(names)}

    def features(own: Iterable[Item]) -> np.ndarray:
        row = np.zeros(len(names))
        for item in own:
            for name, size in _parts(item):
                row[column[name]] += size
            row[0] += item.saves["gflops"]
        return row

    prior = np.array([1.0, *(ACT_SAVES if name[1] == "act" else SHARE_OFF for name in names[1:])])
    mean = np.zeros(len(names))
    mean[0] = 0.7  # of a share of the GFLOPs that is saved, about this much is saved of latencies
    x = np.array([features(table.of(architecture)) for architecture, _, _ in measured])
    y = np.array([1.0 - ratio for _, ratio, _ in measured]) - x @ mean
    noise = np.array([error for _, _, error in measured])
    fits = [_posterior(x, y, prior, np.sqrt(noise**2 + misfit**2 + 1e-12)) for misfit in MISFITS]
    _, found, covariance = max(fits, key=lambda fit: fit[0])

    def known(item: Item) -> Item:
        row = features([item])
        saves, unsure = row @ (mean + found), np.sqrt(row @ covariance @ row)
        return replace(item, saves={**item.saves, metric: float(saves)}, unsure={**item.unsure, metric: float(unsure)})

    return Table(table.parent, {i: tuple(map(known, group)) for i, group in table.items.items()})


def _parts(item: Item) -> list[tuple[tuple[object, ...], float]]:
    """The features of an item besides the GFLOPs that it saves: its shape, by these, and its activations."""
    is_act = [label.endswith("_act") for label, _ in item.change]
    shape = tuple(entry for entry, act in zip(item.change, is_act) if not act)
    parts: list[tuple[tuple[object, ...], float]] = [((e, "act"), 1.0) for e, act in zip(item.change, is_act) if act]
    parts += [(("any", "act", value), 1.0) for (_, value), act in zip(item.change, is_act) if act]
    return [*parts, ((shape, "shape"), item.saves["gflops"])] if shape else parts


def _posterior(
    x: np.ndarray, y: np.ndarray, prior: np.ndarray, noise: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Bayesian linear regression: log evidence, mean and covariance of the coefficients (Bishop 2006, section 3.3).

    Args:
        x: (n, d); y: (n,).
        prior: (d,), standard deviations about 0; noise: (n,).
    """
    import numpy as np

    variance = prior**2
    evidence = (x * variance) @ x.T + np.diag(noise**2)  # (n, n), of y
    gain = (x * variance).T @ np.linalg.inv(evidence)  # (d, n)
    _, logdet = np.linalg.slogdet(evidence)
    log = -0.5 * (y @ np.linalg.solve(evidence, y) + logdet)
    return float(log), gain @ y, np.diag(variance) - gain @ (x * variance)


# Rises that whole networks show ---------------------------------------------------------------------------------------


def corrected(table: Table, wholes: Sequence[tuple[Mapping[str, Value], float, float]]) -> Table:
    """A table whose rises agree better with those of whole networks: ridge regression with the table as the prior.

    Args:
        wholes: architectures with the rise of their networks and its standard error.
    """
    import numpy as np

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
    _, found, _ = _posterior(x, y, prior, noise)
    new = {id(item): replace(item, rise=float(rise)) for item, rise in zip(used, rises + found)}
    return Table(table.parent, {i: tuple(new.get(id(item), item) for item in g) for i, g in table.items.items()})
