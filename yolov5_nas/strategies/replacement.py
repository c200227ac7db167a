"""What can be put in the place of a trained network's own layers: a table of what each option costs and saves.

After LANA (Molchanov et al., ECCV 2022, section 3): every replacement is scored by itself, and what replacements of
several layers do is taken to add up.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..records.journal import TrialRecord
from ..space.architecture import Architecture, Value
from ..space.choices import Choice, size_of
from ..space.layers import Layer
from ..space.space import Space

ADDITIVE = ("gflops", "params")  # what options save of them adds up exactly


# What can replace what ------------------------------------------------------------------------------------------------

Change = tuple[tuple[str, Value], ...]  # values by label that differ from the parent's, in the order of the labels


def shapes(layer: Layer, parent: Mapping[str, Value]) -> list[Change]:
    """Joint options of a layer's kernels, width and depth that are nowhere larger than the parent's."""
    choices = [c for c in layer.choices if c.is_sized]
    kept = [[o for o in c.options if _size(o) <= _size(parent[c.label])] for c in choices]
    return [
        tuple((c.label, o) for c, o in zip(choices, options) if o != parent[c.label])
        for options in itertools.product(*kept)
    ]


def acts(layer: Layer, parent: Mapping[str, Value]) -> list[list[Change]]:
    """For each activation of a layer that is a choice, its options."""
    choices = [c for c in layer.choices if not c.is_sized]
    return [[((c.label, o),) if o != parent[c.label] else () for o in c.options] for c in choices]


def _size(option: Value) -> float:
    return size_of(option) or 0.0


def rows(space: Space, frozen: Collection[int] = (), form: Mapping[str, Value] | None = None) -> list[Architecture]:
    """The architectures by which a table is made: the parent's in a form, and there each option of one layer alone.

    Kernels, width and depth of a layer act together and are scored jointly; each activation by itself.

    Args:
        form: of the whole network (see `space.forms`); by default the parent's.
    """
    form = space.forms[0] if form is None else form
    formed = space.in_form(form)
    parent = formed.default()
    changes = []
    for i, layer in formed.layers.items():
        if i not in frozen:
            changes += [c for c in (*shapes(layer, parent), *itertools.chain(*acts(layer, parent))) if c]
    return [space.outer(a, form) for a in (parent, *(changed(parent, change) for change in changes))]


def changed(parent: Architecture, change: Iterable[tuple[str, Value]]) -> Architecture:
    """The parent's architecture with some values."""
    return Architecture({**parent, **dict(change)})


def smallest(space: Space, frozen: Collection[int] = (), act: Value | None = None) -> Architecture:
    """The architecture with the fewest weights, and of the smallest input, that replacements reach.

    Args:
        act: its activation wherever that is a choice; by default the parent's are kept.
    """

    def chosen(c: Choice) -> Value:
        return act if act in c.options and not c.is_sized else c.extreme(min)

    form = {c.label: chosen(c) for c in space.whole}
    formed = space.in_form(form)
    parent, change = formed.default(), {}
    for i, layer in formed.layers.items():
        if i not in frozen:
            for c in layer.choices:
                if c.is_sized:
                    change[c.label] = min((*c.options, parent[c.label]), key=_size)
                elif act in c.options:
                    change[c.label] = act
    return space.outer(changed(parent, change.items()), form)


def activations(space: Space, frozen: Collection[int] = ()) -> list[Value]:
    """All that an activation can be where it is a choice."""
    choices = [*space.whole, *(c for i, layer in space.layers.items() if i not in frozen for c in layer.choices)]
    return list(dict.fromkeys(option for c in choices if not c.is_sized for option in c.options))


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
        """Return the loss increase that a plan counts for it: the measured one, at least half of its standard error.

        An increase below its error is not known to be 0. Counted as free, options with large errors are taken first.
        """
        return max(self.rise, self.error / 2)


@dataclass(frozen=True)
class Table:
    """All items of a parent in a form, by layer.

    Args:
        parent: its architecture, in the form.
        items: of each layer that can be replaced.
        form: of the whole network; empty where nothing of it is a choice.
        costs: of the parent in the form, as shares of the parent's own; where one is missing, 1.
        form_rise: by how much the form alone lifts the loss.
        misfits: standard errors of sums of savings, by metric, besides those of the savings.
    """

    parent: Architecture
    items: Mapping[int, tuple[Item, ...]]
    form: Mapping[str, Value] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    form_rise: float = 0.0
    misfits: Mapping[str, float] = field(default_factory=dict)

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
        """By how much an architecture lifts the loss: its form, and the sum of what its items cost."""
        return self.form_rise + sum(item.cost for item in self.of(architecture))

    def share(self, metric: str) -> float:
        """What the parent costs in the form, as a share of what it costs."""
        return self.costs.get(metric, 1.0)

    def ratio(self, architecture: Mapping[str, Value], metric: str) -> float:
        """An architecture's cost as a share of the parent's, by the sum of what its items save."""
        return self.share(metric) - sum(item.saves[metric] for item in self.of(architecture))

    def ratio_error(self, architecture: Mapping[str, Value], metric: str) -> float:
        """Return the standard error of `ratio`, the errors of savings taken as independent."""
        return math.hypot(self.misfits.get(metric, 0.0), *(i.unsure.get(metric, 0.0) for i in self.of(architecture)))

    def has(self, architecture: Mapping[str, Value]) -> bool:
        """Whether an architecture is of the table's form."""
        return all(architecture[label] == value for label, value in self.form.items())


def make_table(
    space: Space,
    scored: Sequence[TrialRecord],
    frozen: Collection[int] = (),
    form: Mapping[str, Value] | None = None,
) -> Table:
    """The table of the scores of `rows`; what options save of GFLOPs and parameters is in it.

    A layer's items are all combinations of its joint shapes and its activations, whose rises are added.

    Args:
        scored: the parent's first, in its own form.
    """
    form = space.forms[0] if form is None else form
    formed = space.in_form(form)
    inner, parent = formed.default(), space.outer(formed.default(), form)
    scored = [r for r in scored if r.state == "complete"]
    own = {Architecture(r.architecture).id: r for r in scored}
    own_costs, zero = scored[0].metrics, own[parent.id].metrics

    def named(change: Change) -> Change:
        """A change by the labels and values of the whole space."""
        values = space.outer(changed(inner, change), form)
        return tuple((label, values[label]) for label, _ in change)

    def record(change: Change) -> TrialRecord | None:
        return own.get(changed(parent, named(change)).id)

    items = {}
    for i, layer in formed.layers.items():
        if i in frozen:
            continue
        parts = [[c for c in options if not c or record(c)] for options in (shapes(layer, inner), *acts(layer, inner))]
        found = []
        for combination in itertools.product(*parts):
            singles = [r.metrics for change in combination if change and (r := record(change))]
            if singles:
                found.append(_item(i, layer, named(sum(combination, ())), singles, zero, own_costs))
        items[i] = tuple(found)
    costs = {m: zero[m] / own_costs[m] for m in ADDITIVE}
    return Table(parent, items, form, costs, zero.get("form_rise", 0.0))


def _item(
    i: int,
    layer: Layer,
    change: Change,
    own: Sequence[Mapping[str, float]],
    zero: Mapping[str, float],
    costs: Mapping[str, float],
) -> Item:
    order = {choice.label: place for place, choice in enumerate(layer.choices)}
    saves = {m: sum((zero[m] - metrics[m]) / costs[m] for metrics in own) for m in ADDITIVE}
    rise = sum(metrics["rise"] for metrics in own)
    error = math.sqrt(sum(metrics["rise_error"] ** 2 for metrics in own))
    return Item(i, tuple(sorted(change, key=lambda entry: order[entry[0]])), rise, error, saves)


def total_rise(record: TrialRecord) -> float:
    """By how much a network lifts the loss, its form included."""
    return record.metrics["rise"] + record.metrics.get("form_rise", 0.0)
