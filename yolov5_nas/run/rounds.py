"""A proof's trainings, seed by seed: only contestants with something left to decide get the next seed."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from ..records.journal import TrialRecord
from ..results.comparison import take
from ..results.race import Race
from ..space.architecture import Architecture
from ..strategies.strategy import NotYet, SpaceExhausted


class Rounds:
    """An ask/tell that goes through the contestants of a race with one seed after the other.

    A round begins when all of the one before have ended, so that it is the same however many are trained at a time.

    Args:
        architectures: by their contestants' names.
        names: contestants' names by the ids of architectures.
        cost: the metric that costs are compared by.
    """

    def __init__(self, race: Race, architectures: Mapping[str, Architecture], names: Mapping[str, str], cost: str):
        self.race, self.architectures, self.names, self.cost = race, architectures, names, cost
        self.seeds: list[int] = []  # of each training that was asked for, by its number
        self.round, self.waiting, self.told = -1, deque[str](), set[int]()

    def ask(self) -> Architecture:
        """The next contestant.

        Raises:
            NotYet: trainings of this round are running.
            SpaceExhausted: there is none.
        """
        if not self.waiting:
            if self.race.races and len(self.told) < len(self.seeds):
                raise NotYet
            self.round += 1
            self.waiting.extend(self.race.left() if self.round < self.race.seeds else ())
            if not self.waiting:
                raise SpaceExhausted("all is decided, or has its seeds")
        self.seeds.append(self.round)
        return self.architectures[self.waiting.popleft()]

    def tell(self, record: TrialRecord) -> None:
        """Take a training's result."""
        self.told.add(record.number)
        take(self.race, record, self.names, self.cost)
