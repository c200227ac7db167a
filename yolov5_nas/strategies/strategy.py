"""What all strategies share: ask and tell, duplicates, constraints, an exhausted space."""

from __future__ import annotations

import random
from collections.abc import Iterator

from ..records.journal import TrialRecord
from ..space.architecture import Architecture
from ..space.space import Space

TRIES = 1000
CAUTION = 3  # of 1, 3, 6 and 12 the best for evolution, TPE and NSGA-II on a toy problem with a tight constraint
SCANNED = 100_000  # spaces up to this size are searched to the last architecture


class SpaceExhausted(Exception):
    """No new architecture is left to propose."""


class NotYet(Exception):
    """What comes next depends on trials that are running."""


class Strategy:
    """What all strategies share: the default architecture comes first, and none is proposed twice.

    A strategy of your own overrides `propose` and, if it learns, `observe`.

    Args:
        space: what to search.
        seed: of the strategy's own random numbers.
    """

    def __init__(self, space: Space, seed: int = 0):
        self.space, self.seed, self.rng = space, seed, random.Random(seed)
        self.seen: set[str] = set()
        self.feasible: list[TrialRecord] = []
        self.refused = 0  # architectures that broke a constraint

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
        if record.state == "complete":
            self.feasible.append(record)
        self.refused += record.state == "infeasible"
        self.observe(record)

    def propose(self) -> Architecture:
        """A candidate; one that was proposed before is passed over."""
        raise NotImplementedError

    def observe(self, record: TrialRecord) -> None:
        """Called once for every trial that ended."""

    def draw(self) -> Architecture:
        """An architecture drawn at random; where constraints refuse many, nearer to one that they did not refuse.

        Each label is a feasible architecture's (the default one's, until there is another) with a probability of the
        share that was refused so far, each refusal counting `CAUTION` times.
        """
        drawn = self.space.sample(self.rng)
        if not self.refused:
            return drawn
        parent = self.rng.choice(self.feasible).architecture if self.feasible else self.space.default()
        refused = CAUTION * self.refused
        share = min(refused / (refused + len(self.feasible) + 1), 1 - 2 / max(2, len(drawn)))  # some two labels change
        return Architecture({k: parent[k] if self.rng.random() < share else value for k, value in drawn.items()})

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
