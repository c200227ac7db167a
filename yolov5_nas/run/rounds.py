"""A proof's trainings, seed by seed: only contestants with something left to decide get the next seed."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping, Sequence

from ..records.journal import TrialRecord
from ..results.comparison import take
from ..results.race import Race
from ..space.architecture import Architecture
from ..strategies.strategy import NotYet, SpaceExhausted


class Rounds:
    """An ask/tell that goes through the contestants of a race with one seed after the other.

    A round begins when all of the one before have ended, so that it is the same however many are trained at a time. Its
    seed is the smallest that neither the search nor an earlier round had.

    Args:
        architectures: by their contestants' names.
        names: contestants' names by the ids of architectures.
        cost: the metric that costs are compared by.
        search_seeds: of the search. Rounds of earlier versions that had one of them do not count.
        begun: seeds of the trainings that the journal has, by their number.
    """

    def __init__(
        self,
        race: Race,
        architectures: Mapping[str, Architecture],
        names: Mapping[str, str],
        cost: str,
        search_seeds: Sequence[int] = (),
        begun: Sequence[int] = (),
    ):
        self.race, self.architectures, self.names, self.cost = race, architectures, names, cost
        self.search_seeds, self.begun = search_seeds, begun
        self.seeds: list[int] = []  # of each training that was asked for, by its number
        self.rounds, self.waiting, self.told = 0, deque[str](), set[int]()

    def ask(self) -> Architecture:
        """The next contestant.

        Raises:
            NotYet: trainings of this round are running.
            SpaceExhausted: there is none.
        """
        if not self.waiting:
            if self.race.races and len(self.told) < len(self.seeds):
                raise NotYet
            used = {*self.search_seeds, *self.seeds}
            self._begin(next(seed for seed in itertools.count() if seed not in used))
            if not self.waiting:
                raise SpaceExhausted("all is decided, or has its seeds")
        self.seeds.append(self.seed)
        return self.architectures[self.waiting.popleft()]

    def recall(self, architecture: Architecture) -> Architecture:
        """Repeat an ask of the journal with the seed that it had; an earlier version may have asked for others."""
        seed = self.begun[len(self.seeds)]
        if not self.seeds or seed != self.seed:
            self._begin(seed)
        if (name := self.names[architecture.id]) in self.waiting:
            self.waiting.remove(name)
        self.seeds.append(seed)
        return architecture

    def tell(self, record: TrialRecord) -> None:
        """Take a training's result."""
        self.told.add(record.number)
        take(self.race, record, self.names, self.cost, self.search_seeds)

    def _begin(self, seed: int) -> None:
        """Begin a round."""
        counts = seed not in self.search_seeds and self.rounds < self.race.seeds
        self.seed, self.waiting = seed, deque(self.race.left() if counts else ())
        self.rounds += counts
