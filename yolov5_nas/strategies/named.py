"""The strategies that `--strategy` names."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import UserError
from ..records.metrics import is_maximised
from ..records.options import STRATEGIES
from ..records.reward import Constraint
from ..space.space import Space
from .additive import Additive
from .costs import Costs
from .evolution import Evolution
from .grid import GridSearch
from .optuna_samplers import OptunaStrategy
from .random_search import RandomSearch
from .strategy import Strategy

SEVERAL = ("nsga2", "additive", "random", "grid")  # those that search for several objectives


def strategy_named(name: str | None, objectives: Sequence[str]) -> str:
    """The name that `--strategy` has, or its default.

    Raises:
        UserError: it can't search for several objectives, and there are some.
    """
    if objectives and name not in (None, *SEVERAL):
        raise UserError("--objectives need a --strategy that searches for several", got=name, accepted=SEVERAL)
    return name or ("nsga2" if objectives else "additive")


def make_strategy(
    name: str,
    space: Space,
    seed: int = 0,
    population: int = 16,
    objectives: Sequence[str] = (),
    constraints: Sequence[Constraint] = (),
    imgsz: int = 640,
    costs: Sequence[str] = (),
) -> Strategy:
    """The strategy of a name.

    Args:
        population: of evolution and NSGA-II; random ones before TPE begins.
        objectives: what NSGA-II and the additive model make better together.
        constraints: what all but random and grid search keep to as far as they know costs, and NSGA-II and TPE learn to
            meet.
        imgsz: input size in pixels.
        costs: which costs matter besides those of constraints and objectives.

    Raises:
        UserError: there is none of that name.
    """
    if name not in STRATEGIES:
        raise UserError("unknown strategy", got=name, accepted=STRATEGIES)
    if name in ("random", "grid"):
        return {"random": RandomSearch, "grid": GridSearch}[name](space, seed)
    own = [metric for metric in objectives if not is_maximised(metric)]
    known = Costs(space, imgsz, constraints, own or costs)
    if name == "additive":
        return Additive(space, seed, known, objectives)
    if name == "evolution":
        return Evolution(space, seed, population, max(1, population // 4), known)
    if name == "nsga2":
        objectives = objectives or ("map50_95", "latency_ratio")
        return OptunaStrategy(space, seed, name, objectives, constraints, population, known)
    return OptunaStrategy(space, seed, name, (), constraints, population, known)
