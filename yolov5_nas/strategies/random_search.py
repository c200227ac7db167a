"""Random search: architectures drawn uniformly."""

from __future__ import annotations

from ..space.architecture import Architecture
from .strategy import Strategy


class RandomSearch(Strategy):
    """Architectures drawn uniformly."""

    is_placed = True

    def propose(self) -> Architecture:
        return self.space.sample(self.rng)
