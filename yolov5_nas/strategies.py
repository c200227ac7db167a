"""Search strategies behind one ask/tell: which architecture next, given what is known.

A strategy never trains and never stores. It is a function of its seed and of the calls made to it, so that the
journal's lines, played back in their order, bring it to where it was.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator

from .architecture import Architecture
from .errors import UserError
from .journal import TrialRecord
from .space import Space

TRIES = 1000
SCANNED = 100_000  # spaces up to this size are searched to the last architecture


class SpaceExhausted(Exception):
    """No new architecture is left to propose."""


class Strategy:
    """What all strategies share: the default architecture comes first, and none is proposed twice.

    A strategy of one's own overrides `propose` and, if it learns, `observe`.

    Args:
        space: what to search.
        seed: of the strategy's own random numbers.
    """

    def __init__(self, space: Space, seed: int = 0):
        self.space, self.rng = space, random.Random(seed)
        self.seen: set[str] = set()

    def ask(self) -> Architecture:
        """The next architecture to try.

        Raises:
            SpaceExhausted: every architecture was proposed, or no new one was found in 1000 tries.
        """
        architecture = self._new() if self.seen else self.space.default()
        self.seen.add(architecture.id)
        return architecture

    def tell(self, record: TrialRecord) -> None:
        """Learn how a trial ended."""
        self.seen.add(record.id)
        self.observe(record)

    def propose(self) -> Architecture:
        """A candidate; one that was proposed before is passed over."""
        raise NotImplementedError

    def observe(self, record: TrialRecord) -> None:
        """Called once for every trial that ended."""

    def _new(self) -> Architecture:
        for _ in range(TRIES):
            if (architecture := self.propose()).id not in self.seen:
                return architecture
        for architecture in self._scan():
            if architecture.id not in self.seen:
                return architecture
        raise SpaceExhausted(
            f"no new architecture in {TRIES} tries: the space has {self.space.size}, {len(self.seen)} were proposed"
        )

    def _scan(self) -> Iterator[Architecture]:
        """All architectures of a small space, from a random one on."""
        size = self.space.size
        if size <= SCANNED:
            start = self.rng.randrange(size)
            yield from (self.space.at((start + i) % size) for i in range(size))


class RandomSearch(Strategy):
    """Architectures drawn uniformly."""

    def propose(self) -> Architecture:
        return self.space.sample(self.rng)


class GridSearch(Strategy):
    """All architectures in the space's order, the last label running fastest."""

    def __init__(self, space: Space, seed: int = 0):
        super().__init__(space, seed)
        self.next = 0

    def propose(self) -> Architecture:
        if self.next >= self.space.size:
            raise SpaceExhausted(f"all {self.space.size} architectures of the space were proposed")
        self.next += 1
        return self.space.at(self.next - 1)


class Evolution(Strategy):
    """Regularized (aging) evolution (Real et al. 2019, algorithm 1).

    The population is the last `population` complete trials. A proposal is the best of `sample` of them, drawn at
    random, with one label changed. Until the population is full, proposals are random.
    """

    def __init__(self, space: Space, seed: int = 0, population: int = 16, sample: int = 4):
        super().__init__(space, seed)
        if not 1 <= sample <= population:
            raise UserError("1 <= sample <= population must hold", got=(sample, population))
        self.population: deque[TrialRecord] = deque(maxlen=population)
        self.sample = sample

    def propose(self) -> Architecture:
        if len(self.population) < (self.population.maxlen or 0):
            return self.space.sample(self.rng)
        drawn = self.rng.sample(list(self.population), self.sample)
        parent = max(drawn, key=lambda record: record.reward or 0.0)
        return self.space.mutate(Architecture(parent.architecture), self.rng)

    def observe(self, record: TrialRecord) -> None:
        if record.state == "complete":
            self.population.append(record)


STRATEGIES: dict[str, type[Strategy]] = {"evolution": Evolution, "random": RandomSearch, "grid": GridSearch}


def make_strategy(name: str, space: Space, seed: int = 0, population: int = 16) -> Strategy:
    """The strategy of a name; `population` is evolution's.

    Raises:
        UserError: there is none of that name.
    """
    if name not in STRATEGIES:
        raise UserError("unknown strategy", got=name, accepted=STRATEGIES)
    if name == "evolution":
        return Evolution(space, seed, population, sample=max(1, population // 4))
    return STRATEGIES[name](space, seed)
