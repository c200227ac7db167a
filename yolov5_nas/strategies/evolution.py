"""Regularized evolution (Real et al. 2019)."""

from __future__ import annotations

from collections import deque

from ..errors import UserError
from ..records.journal import TrialRecord
from ..space.architecture import Architecture
from ..space.space import Space
from .costs import Costs
from .strategy import Strategy


class Evolution(Strategy):
    """Regularized (aging) evolution (Real et al. 2019, algorithm 1).

    The population is the last `population` complete trials. A proposal is the best of `sample` of them, drawn at
    random, with one label changed. Until the population is full, proposals are random.
    """

    is_placed = True

    def __init__(self, space: Space, seed: int = 0, population: int = 16, sample: int = 4, costs: Costs | None = None):
        super().__init__(space, seed, costs)
        if not 1 <= sample <= population:
            raise UserError("1 <= sample <= population must hold", got=(sample, population))
        self.population: deque[TrialRecord] = deque(maxlen=population)
        self.sample = sample

    def propose(self) -> Architecture:
        if len(self.population) < (self.population.maxlen or 0):
            return self.draw()
        drawn = self.rng.sample(list(self.population), self.sample)
        parent = max(drawn, key=lambda record: record.reward or 0.0)
        return self.space.mutate(Architecture(parent.architecture), self.rng)

    def observe(self, record: TrialRecord) -> None:
        if record.state == "complete":
            self.population.append(record)
