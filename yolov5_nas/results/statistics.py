"""How well a proxy ranks architectures compared with full training: Kendall's tau with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..records.metrics import NORMAL_95

MIN_PAIRS = 5  # pairs below which there is no interval


@dataclass(frozen=True)
class Tau:
    """Kendall's tau-b of `count` pairs, and its 95 % interval (-1 to 1 where there are too few)."""

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def tau_b(scores: Sequence[float], truth: Sequence[float]) -> float:
    """Kendall's tau-b of two lists of equal length; NaN where all of one are equal."""
    from scipy.stats import kendalltau  # takes a moment

    return float(kendalltau(scores, truth).statistic)


def tau_with_interval(scores: Sequence[float], truth: Sequence[float]) -> Tau:
    """Kendall's tau-b of two lists of equal length.

    The interval is that of Fieller, Hartley and Pearson (1957): atanh(tau) has a variance of 0.437 / (n - 4).

    >>> str(tau_with_interval([1, 2, 3, 4, 5, 6, 8, 7], [1, 2, 3, 4, 5, 6, 7, 8]))
    '0.93 (0.76 to 0.98)'
    """
    count = len(scores)
    value = tau_b(scores, truth) if count > 1 else math.nan
    if math.isnan(value):  # all scores are equal
        value = 0.0
    if count < MIN_PAIRS:
        return Tau(value, -1.0, 1.0, count)
    most = 1 - 2 / (count * (count - 1))  # half a discordant pair: no sample says that there is none
    z, error = math.atanh(max(-most, min(most, value))), NORMAL_95 * math.sqrt(0.437 / (count - 4))
    return Tau(value, min(value, math.tanh(z - error)), max(value, math.tanh(z + error)), count)
