"""The strategies that `--strategy` names."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import UserError
from ..records.options import STRATEGIES
from ..records.reward import Constraint
from ..space.space import Space
from .evolution import Evolution
from .grid import GridSearch
from .optuna_samplers import OptunaStrategy
from .random_search import RandomSearch
from .strategy import Strategy

SEVERAL = ("nsga2", "random", "grid")  # those that search for several objectives


def strategy_named(name: str | None, objectives: Sequence[str]) -> str:
    """The name that `--strategy` has, or its default.

    Raises:
        UserError: it can't search for several objectives, and there are some.
    """
    if objectives and name not in (None, *SEVERAL):
        raise UserError("--objectives need a --strategy that searches for several", got=name, accepted=SEVERAL)
    return name or ("nsga2" if objectives else "evolution")


def make_strategy(
    name: str,
    space: Space,
    seed: int = 0,
    population: int = 16,
    objectives: Sequence[str] = (),
    constraints: Sequence[Constraint] = (),
) -> Strategy:
    """The strategy of a name.

    Args:
        population: of evolution and NSGA-II; random ones before TPE begins.
        objectives: what NSGA-II makes better together.
        constraints: what NSGA-II and TPE learn to meet; the others just don't propose the same again.

    Raises:
        UserError: there is none of that name.
    """
    if name not in STRATEGIES:
        raise UserError("unknown strategy", got=name, accepted=STRATEGIES)
    if name == "evolution":
        return Evolution(space, seed, population, sample=max(1, population // 4))
    if name == "nsga2":
        return OptunaStrategy(space, seed, name, objectives or ("map50_95", "latency_ratio"), constraints, population)
    if name == "tpe":
        return OptunaStrategy(space, seed, name, (), constraints, population)
    return {"random": RandomSearch, "grid": GridSearch}[name](space, seed)
