"""What is to be expected of a search's leading architectures: the best of many single trainings was lucky too.

`--confirm K` trains those that lead once more with another seed. What is expected of an architecture is then its mean
over seeds, drawn towards the mean of all trials by the share of their variance that is the seeds' (Efron and Morris
1975). Half the variance of the differences between first and second trainings is the seeds'; their mean is left out of
it, since what is trained again led. The reference is no draw from the space, so that its mean is taken as it is.
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

LEAST_REAL = 0.1  # of the variance over architectures, what is real at least
ACCURACY = "map50_95"


@dataclass(frozen=True)
class Confirmed:
    """A search's trials, and the second trainings of those that lead.

    Args:
        records: the search's trials.
        again: complete second trainings by architecture; the metrics are of another seed.
        leading: how many were to be trained again, the reference not counted.
    """

    records: tuple[TrialRecord, ...]
    again: dict[str, TrialRecord]
    leading: int

    @property
    def winner(self) -> TrialRecord | None:
        """Of the reference and the trials that led, that of which most is to be expected."""
        expected, reference = self.expected, [r for r in eligible(self.records) if r.is_reference]
        found = [*reference, *leading(self.records, self.leading)]
        return max(found, key=lambda r: (expected[r.id], -r.number), default=None)

    @cached_property
    def expected(self) -> dict[str, float]:
        """The reward to be expected of each architecture."""
        return self._expected("")

    @cached_property
    def accuracy(self) -> dict[str, float]:
        """The mAP50-95 to be expected of each."""
        return self._expected(ACCURACY)

    @property
    def deviation(self) -> float:
        """One standard deviation of mAP50-95 over seeds."""
        return self._noise(ACCURACY) ** 0.5

    def _noise(self, metric: str) -> float:
        by = {r.id: _value(r, metric) for r in complete(self.records)}
        apart = [_value(r, metric) - by[name] for name, r in self.again.items() if name in by]
        return (statistics.variance(apart) if len(apart) > 1 else apart[0] ** 2) / 2

    def _expected(self, metric: str) -> dict[str, float]:
        done = complete(self.records)
        drawn = [_value(r, metric) for r in done if not r.is_reference]
        middle = statistics.mean(drawn) if drawn else 0.0
        variance, noise = statistics.variance(drawn) if len(drawn) > 1 else 0.0, self._noise(metric)
        real = max(variance - noise, LEAST_REAL * variance)
        found = {}
        for record in done:
            own = [_value(record, metric), *(_value(r, metric) for r in [self.again.get(record.id)] if r)]
            share = real / (real + noise / len(own)) if real else 0.0
            mean = statistics.mean(own)
            found[record.id] = mean if record.is_reference else middle + share * (mean - middle)
        return found

    def words(self, winner: TrialRecord) -> str:
        """How sure its mAP50-95 is."""
        count = sum(r.id in self.again for r in leading(self.records, self.leading))
        text = (
            f"{count} of the leading architectures were trained again with another seed, which moved mAP50-95 by"
            f" {self.deviation:.3f} (one standard deviation)."
        )
        for record in (winner, *(r for r in self.records if r.is_reference and r is not winner)):
            name = "The best" if record is winner else "The reference"
            if (other := self.again.get(record.id)) and record.id in self.accuracy:
                first, second = _value(record, ACCURACY), _value(other, ACCURACY)
                text += f" {name} had {first:.3f}, then {second:.3f}; {self.accuracy[record.id]:.3f} is to be expected."
        return text


def leading(records: Iterable[TrialRecord], count: int) -> list[TrialRecord]:
    """The eligible trials with the highest rewards, the reference not among them."""
    found = (r for r in eligible(records) if not r.is_reference)
    return sorted(found, key=lambda r: (-(r.reward or 0.0), r.number))[:count]


def read(run: Path, records: Sequence[TrialRecord], o: Options) -> Confirmed | None:
    """What was confirmed of a run; None where nothing was trained again."""
    known = {r.id for r in complete(records)}
    lines = latest(read_lines(RunFolder(run).confirmed.journal)).values()
    again = {r.id: r for r in lines if r.state == "complete" and r.id in known}
    return Confirmed(tuple(records), again, o.confirm) if again and o.confirm else None


def _value(record: TrialRecord, metric: str) -> float:
    return (record.metrics.get(metric) if metric else record.reward) or 0.0
