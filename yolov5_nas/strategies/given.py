"""A strategy that proposes given architectures."""

from __future__ import annotations

from collections.abc import Sequence

from ..records.journal import TrialRecord
from ..space.architecture import Architecture
from .strategy import SpaceExhausted


class GivenArchitectures:
    """An ask/tell that goes through a list, and ignores what it is told."""

    def __init__(self, architectures: Sequence[Architecture]):
        self.waiting = iter(architectures)

    def ask(self) -> Architecture:
        """The next one.

        Raises:
            SpaceExhausted: there is none.
        """
        try:
            return next(self.waiting)
        except StopIteration:
            raise SpaceExhausted("everything is trained") from None

    def tell(self, record: TrialRecord) -> None:
        """Nothing to learn."""
