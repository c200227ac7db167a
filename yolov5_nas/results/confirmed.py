"""The leading architectures of a search, trained once more: the best of many single trainings was also lucky.

`--confirm K` trains the K trials with the highest rewards, and the reference, with another seed. The winner is the one
with the highest mean reward of its two trainings. Its expected mAP50-95 is the mean of the two, shrunk towards the mean
of all trials by the share of their variance that is due to seeds (Efron and Morris 1975). The variance due to seeds is
half the variance of the differences between first and second trainings; the mean difference is left out, since what is
trained again was picked for leading. The reference is not drawn from the space, so its mean is not shrunk.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..records.journal import TrialRecord, complete, eligible, latest, read_lines
from ..records.options import Options
from ..records.run_folder import RunFolder
from ..strategies.regression import fence

FEW = 8  # trials; below that, what they vary by says little
LEAST_REAL = 0.1  # of the variance over architectures, what is real at least


@dataclass(frozen=True)
class Confirmed:
    """A search's trials, and the second trainings of those that lead.

    Args:
        records: the search's trials.
        again: complete second trainings by architecture.
        leading: of the trials that lead those with a second training.
    """

    records: tuple[TrialRecord, ...]
    again: dict[str, TrialRecord]
    leading: tuple[TrialRecord, ...]

    @property
    def winner(self) -> TrialRecord:
        """Of the reference and the trials that lead, that with the highest mean reward."""
        reference = [r for r in eligible(self.records) if r.is_reference]
        return max([*reference, *self.leading], key=lambda r: (self._mean_reward(r), -r.number))

    def _mean_reward(self, record: TrialRecord) -> float:
        return sum(r.reward or 0.0 for r in self._trainings(record)) / len(self._trainings(record))

    def _trainings(self, record: TrialRecord) -> list[TrialRecord]:
        return [record, *([self.again[record.id]] if record.id in self.again else [])]

    def accuracies(self, record: TrialRecord) -> list[float]:
        """The mAP50-95 of each of its trainings."""
        return [r.metrics.get("map50_95", 0.0) for r in self._trainings(record)]

    @cached_property
    def variance(self) -> float:
        """The variance of mAP50-95 that is due to seeds."""
        pairs = [self.accuracies(r) for r in complete(self.records) if r.id in self.again]
        apart = [second - first for first, second in pairs]
        return (statistics.variance(apart) if len(apart) > 1 else apart[0] ** 2) / 2

    def expected(self, record: TrialRecord) -> float:
        """The mAP50-95 that is to be expected of a trial."""
        own = self.accuracies(record)
        mean = statistics.fmean(own)
        drawn = [r.metrics.get("map50_95", 0.0) for r in complete(self.records) if not r.is_reference]
        if record.is_reference or len(drawn) < FEW:
            return mean
        drawn = [max(value, fence(drawn)) for value in drawn]  # without those that broke down
        middle, variance = statistics.fmean(drawn), statistics.variance(drawn)
        real = max(variance - self.variance, LEAST_REAL * variance)
        return middle + (mean - middle) * real / (real + self.variance / len(own)) if real else mean

    def words(self) -> str:
        """How sure the winner's mAP50-95 is."""
        text = (
            f"{len(self.leading)} of the leading architectures were trained again with another seed, which moved"
            f" mAP50-95 by {self.variance**0.5:.3f} (one standard deviation)."
        )
        winner = self.winner
        for record in (winner, *(r for r in self.records if r.is_reference and r is not winner)):
            if len(own := self.accuracies(record)) > 1:
                name = "The stock architecture" if record.is_reference else "The best"
                text += f" {name} had {own[0]:.3f}, then {own[1]:.3f}; {self.expected(record):.3f} is to be expected."
        return text


def leading(records: Iterable[TrialRecord], count: int) -> list[TrialRecord]:
    """The eligible trials with the highest rewards, the reference not among them."""
    found = (r for r in eligible(records) if not r.is_reference)
    return sorted(found, key=lambda r: (-(r.reward or 0.0), r.number))[:count]


def to_confirm(run: Path, records: Sequence[TrialRecord], o: Options) -> list[TrialRecord]:
    """What is to be trained once more: the reference, unless it is the base of the others, and those that lead and
    whose weights were kept."""
    reference = [r for r in complete(records) if r.is_reference and not o.base_epochs]
    first = leading(records, o.confirm)
    return [*reference, *(r for r in first if RunFolder(run).trial(r.number).weights.exists())]


def is_left(run: Path, records: Sequence[TrialRecord], o: Options) -> bool:
    """Whether there is anything to train once more."""
    done = _done(run)
    return bool(o.confirm) and any(r.id not in done for r in to_confirm(run, records, o))


def _done(run: Path) -> dict[str, TrialRecord]:
    return {r.id: r for r in latest(read_lines(RunFolder(run).confirmed.journal)).values() if r.done}


def read(run: Path, records: Sequence[TrialRecord], o: Options) -> Confirmed | None:
    """What was confirmed of a run; None where nothing was, or not all that leads."""
    if is_left(run, records, o):
        return None
    again = {name: r for name, r in _done(run).items() if r.state == "complete"}
    first = tuple(r for r in leading(records, o.confirm) if r.id in again)
    return Confirmed(tuple(records), again, first) if first else None
