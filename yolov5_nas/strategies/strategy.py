"""What all strategies share: ask and tell, duplicates, constraints, an exhausted space."""

from __future__ import annotations

import random
from collections.abc import Iterator

from ..records.journal import TrialRecord
from ..space.architecture import Architecture
from ..space.space import Space
from .costs import Costs

TRIES = 1000
HOPELESS = 10  # candidates in a row already known, or known to break a constraint, after which a random draw is taken
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
        costs: what architectures cost, as far as that matters; what is known to break a constraint is not proposed.
    Attributes:
        is_placed: what is proposed depends on the seed, on how often it was asked, and on what it was told, and on
            nothing else. A journal is then played back without proposing anything.
    """

    is_placed = False

    def __init__(self, space: Space, seed: int = 0, costs: Costs | None = None):
        self.space, self.seed, self.rng, self.costs = space, seed, random.Random(seed), costs
        self.seen: set[str] = set()
        self.place = 0

    def ask(self) -> Architecture:
        """The next architecture to try.

        Raises:
            SpaceExhausted: every architecture was proposed, or no new one was found in 1000 tries.
        """
        if self.is_placed:
            self.rng = random.Random(f"{self.seed} {self.place}")
        self.place += 1
        architecture = self._new() if self.seen else self.space.default()
        self.seen.add(architecture.id)
        return architecture

    def recall(self, architecture: Architecture) -> Architecture:
        """Repeat an ask from before a resume, in the same order; returns what is proposed now."""
        if not self.is_placed:
            return self.ask()
        self.place += 1
        self.seen.add(architecture.id)
        return architecture

    def tell(self, record: TrialRecord) -> None:
        """Learn how a trial ended."""
        self.seen.add(record.id)
        if self.costs:
            self.costs.tell(record)
        self.observe(record)

    def propose(self) -> Architecture:
        """A candidate; one that was proposed before is passed over."""
        raise NotImplementedError

    def observe(self, record: TrialRecord) -> None:
        """Called once for every trial that ended."""

    def draw(self) -> Architecture:
        """An architecture drawn at random; where costs matter, spread over those that are allowed."""
        return self.costs.draw(self.rng) if self.costs else self.space.sample(self.rng)

    def allows(self, architecture: Architecture) -> bool:
        """Whether it may be proposed: the constraints allow it, as far as is known."""
        return not self.costs or self.costs.allows(architecture)

    def _new(self) -> Architecture:
        for tried in range(TRIES):
            hopeless = tried >= HOPELESS
            architecture = self.draw() if hopeless else self.propose()
            # Where no draw is allowed, one is refused all the same: a hundred of them end a search, and say why.
            if architecture.id not in self.seen and (hopeless or self.allows(architecture)):
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
