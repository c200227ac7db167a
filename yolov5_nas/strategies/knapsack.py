"""The best combination of replacements for a budget, by an integer programme.

A multiple-choice knapsack, as in LANA (Molchanov et al., ECCV 2022, eq. 3) and HALP (Shen et al. 2022), solved exactly.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..space.architecture import Architecture, Value
from .replacement import Item, Table, changed

if TYPE_CHECKING:
    import numpy as np

TIE = 1e-6  # what saving all of a cost is worth: it decides between plans of equal loss increase
LEAST = 1e-9  # the cost of any change: where no error is known (one batch of images), one that saves nothing is none
APART = 3  # layers in which the next best plan differs
FORMS = 2  # looked at for a goal at an input size
WORSE = 1.5  # times the rise that the best of them is expected to have: others are not looked at


@dataclass(frozen=True)
class Limit:
    """What a cost may be at most (or at least), as a share of the parent's."""

    metric: str
    share: float
    at_most: bool = True


def plan(
    table: Table,
    limits: Sequence[Limit],
    before: Sequence[Mapping[str, Value]] = (),
    but: Sequence[Mapping[str, Value]] = (),
) -> Architecture | None:
    """The architecture whose summed rise is least within the limits, or None where there is none.

    Args:
        before: earlier plans, from each of which it differs in at least `APART` layers.
        but: architectures to exclude.
    """
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp

    items = [item for group in table.items.values() for item in group]
    if not items:
        keeps = all((table.share(m.metric) <= m.share) == m.at_most for m in limits)
        return table.parent if keeps and not before and not but else None
    x = np.array([[float(item.layer == i) for item in items] for i in table.items])
    constraints = [LinearConstraint(x, -np.inf, 1)]  # one option for a layer
    for limit in limits:
        saves = np.array([item.saves[limit.metric] for item in items])
        least = table.share(limit.metric) - limit.share
        low, high = (least, np.inf) if limit.at_most else (-np.inf, least)
        constraints.append(LinearConstraint(saves, low, high))
    for others, apart in ((before, APART), (but, 1)):
        constraints += [_differs(table, items, other, apart) for other in others]
    measured = limits[0].metric if limits else "gflops"
    costs = np.array([item.cost - TIE * item.saves[measured] + LEAST * len(item.change) for item in items])
    found = milp(
        costs / TIE,  # well above the solver's own tolerances
        constraints=constraints,
        integrality=np.ones(len(items)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    if found.x is None:
        return None
    taken = [item for item, value in zip(items, found.x) if value > 0.5]
    return changed(table.parent, (entry for item in taken for entry in item.change))


def best_options(
    values: np.ndarray, starts: Sequence[int], limits: Sequence[tuple[np.ndarray, float]] = ()
) -> list[int] | None:
    """One option of each group, so that the sum of their values is largest within limits; None where there is no such.

    Args:
        values: (options,).
        starts: the first option of each group.
        limits: sums of (options,) that are at most a number.
    """
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp

    bounds = [*starts, len(values)]
    free = [a + int(np.argmax(values[a:b])) for a, b in itertools.pairwise(bounds)]
    if all(adds[free].sum() <= most for adds, most in limits):
        return free
    one = np.zeros((len(starts), len(values)))
    for row, (a, b) in zip(one, itertools.pairwise(bounds)):
        row[a:b] = 1.0
    constraints = [LinearConstraint(one, 1, 1), *(LinearConstraint(adds[None], -np.inf, most) for adds, most in limits)]
    scale = float(np.abs(values).max()) or 1.0
    found = milp(-values / scale, constraints=constraints, integrality=np.ones(len(values)), bounds=Bounds(0, 1))
    return None if found.x is None else [int(place) for place in np.flatnonzero(found.x > 0.5)]


def promising(own: Table, others: Sequence[Table], goals: Sequence[Sequence[Limit]]) -> list[Table]:
    """The tables of other forms that may give the best plan for a goal.

    What a form still has to save is assumed to raise the loss as much as it would in the parent's own form. Forms of
    different input sizes are not compared: their losses are of different images.

    Args:
        others: tables without items, of which only the costs of the form are known.
        goals: the limits of each plan.
    """
    sizes = dict.fromkeys(table.form.get("imgsz") for table in others)
    found: dict[int, Table] = {}
    for limits in goals:
        for size in sizes:
            rated = [(own.rise(best), own) for best in [plan(own, limits)] if best and own.form.get("imgsz") == size]
            for table in others:
                left = [Limit(m.metric, m.share / table.share(m.metric), m.at_most) for m in limits]
                if table.form.get("imgsz") == size and (best := plan(own, left)):
                    rated.append((table.form_rise + own.rise(best), table))
            rated.sort(key=lambda one: one[0])
            least = rated[0][0] if rated else 0.0  # below 0 where a form lowers the loss
            near = [table for rise, table in rated[:FORMS] if rise <= max(WORSE * least, least)]
            found |= {id(table): table for table in near if table is not own}
    return list(found.values())


def _differs(table: Table, items: Sequence[Item], earlier: Mapping[str, Value], apart: int) -> object:
    """The constraint that a plan differs from an earlier one in some layers at least.

    A layer is equal where the earlier plan's item is taken, or none where it has none: at most all but `apart` are.
    """
    import numpy as np
    from scipy.optimize import LinearConstraint

    own = {item.layer: item for item in table.of(earlier)}
    # equal layers = sum of x over own items + sum over other layers of (1 - sum of x of the layer)
    row = np.array([1.0 if own.get(item.layer) == item else 0.0 if item.layer in own else -1.0 for item in items])
    bare = len(table.items) - len(own)
    return LinearConstraint(row, -np.inf, max(len(table.items) - apart, 0) - bare)
