"""The best combination of replacements for a budget, by an integer programme.

A multiple-choice knapsack, as in LANA (Molchanov et al., ECCV 2022, eq. 3) and HALP (Shen et al. 2022), solved exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..space.architecture import Architecture, Value
from .replacement import Item, Table, changed

TIE = 1e-6  # what a whole saving is worth among options whose rises can't be told apart
LEAST = 1e-9  # what a change costs that saves nothing: none is made without a reason
APART = 3  # layers in which the next best plan differs


@dataclass(frozen=True)
class Limit:
    """What a cost may be at most (or at least), as a share of the parent's."""

    metric: str
    share: float
    at_most: bool = True


def plan(table: Table, limits: Sequence[Limit], before: Sequence[Mapping[str, Value]] = ()) -> Architecture | None:
    """The architecture whose summed rise is least within the limits, or None where there is none.

    Args:
        before: earlier plans, from each of which it differs in `APART` layers.
    """
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp

    items = [item for group in table.items.values() for item in group]
    if not items:
        return None
    x = np.array([[float(item.layer == i) for item in items] for i in table.items])
    constraints = [LinearConstraint(x, -np.inf, 1)]  # one option for a layer
    for limit in limits:
        saves = np.array([item.saves[limit.metric] for item in items])
        low, high = (1 - limit.share, np.inf) if limit.at_most else (-np.inf, 1 - limit.share)
        constraints.append(LinearConstraint(saves, low, high))
    for earlier in before:
        constraints.append(_differs(table, items, earlier))
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


def _differs(table: Table, items: Sequence[Item], earlier: Mapping[str, Value]) -> object:
    """The constraint that a plan differs from an earlier one in `APART` layers at least.

    A layer is equal where the earlier plan's item is taken, or none where it has none: at most all but `APART` are.
    """
    import numpy as np
    from scipy.optimize import LinearConstraint

    own = {item.layer: item for item in table.of(earlier)}
    # equal layers = sum of x over own items + sum over other layers of (1 - sum of x of the layer)
    row = np.array([1.0 if own.get(item.layer) == item else 0.0 if item.layer in own else -1.0 for item in items])
    bare = len(table.items) - len(own)
    return LinearConstraint(row, -np.inf, max(len(table.items) - APART, 0) - bare)
