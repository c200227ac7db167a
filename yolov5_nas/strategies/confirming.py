"""The leading architectures once more: the best of many single trainings is also the luckiest of them."""

from __future__ import annotations

from typing import Protocol

from ..records.journal import TrialRecord, eligible
from ..space.architecture import Architecture
from .strategy import NotYet, SpaceExhausted


class AskTell(Protocol):
    """What chooses the architectures that are confirmed."""

    def ask(self) -> Architecture: ...

    def tell(self, record: TrialRecord) -> None: ...


class Confirming:
    """An ask/tell that asks another for so many trials, and then for the leading ones of them again.

    The loop gives an architecture that is asked for again the next seed.

    Args:
        inner: chooses the trials.
        trials: how many, without those that a constraint refuses.
        leading: how many are trained again, stock YOLOv5 not among them.
    """

    def __init__(self, inner: AskTell, trials: int, leading: int):
        self.inner, self.trials, self.leading = inner, trials, leading
        self.asked: dict[str, int] = {}  # how often, by architecture
        self.refused: set[str] = set()
        self.told: dict[int, TrialRecord] = {}  # by number

    def ask(self) -> Architecture:
        """The next architecture.

        Raises:
            NotYet: which ones lead is not known before all trials have ended.
            SpaceExhausted: all is done.
        """
        if len(self.asked) - len(self.refused) < self.trials:
            return self._noted(self.inner.ask())
        first = [r for number, r in sorted(self.told.items()) if self._is_first(r)]
        if len({r.id for r in first}) < len(self.asked):
            raise NotYet
        others = (r for r in eligible(first) if not r.is_reference)
        order = sorted(others, key=lambda r: (-(r.reward or 0.0), r.number))[: self.leading]
        for record in order:
            if self.asked[record.id] < 2:
                return self._noted(Architecture(record.architecture))
        raise SpaceExhausted(f"all {self.trials} trials are done, and the leading {len(order)} trained again")

    def recall(self, architecture: Architecture) -> Architecture:
        """As a strategy's."""
        if architecture.id in self.asked:
            return self._noted(architecture)
        recall = getattr(self.inner, "recall", None)
        return self._noted(recall(architecture) if recall else self.inner.ask())

    def tell(self, record: TrialRecord) -> None:
        """Learn how a trial ended; what is trained again is for whoever reads the journal."""
        self.told[record.number] = record
        if self._is_first(record):
            if record.state == "infeasible":
                self.refused.add(record.id)
            self.inner.tell(record)

    def _is_first(self, record: TrialRecord) -> bool:
        return record.number == min(n for n, r in self.told.items() if r.id == record.id)

    def _noted(self, architecture: Architecture) -> Architecture:
        self.asked[architecture.id] = self.asked.get(architecture.id, 0) + 1
        return architecture
