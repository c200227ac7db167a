"""Grid search: all architectures of a space in their order."""

from __future__ import annotations

from ..space.architecture import Architecture
from ..space.space import Space
from .strategy import SpaceExhausted, Strategy


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
