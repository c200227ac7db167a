"""What trainings with several seeds show of two networks, looked at after each seed: two claims, their p values, and
whether further seeds could still change anything."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import lru_cache

LEVEL = 0.05  # of each claim, over all comparisons and looks
FIRST = 2  # seeds at the first look: one has no spread
LATE = 4  # looks have shares of the level as this power of their seeds: most is left for the last one
HOPELESS = 0.4  # p at the last look, if the trend so far held, above which further seeds are not worth training
EQUAL = 1.02  # costs within this ratio count as equal: no latency is known better
ONE_SIDED = 1.645  # standard errors, 95 %


class Claim(Enum):
    """What may be said of a candidate beside a rival."""

    BETTER = "better"  # more accurate at no more cost
    AS_GOOD = "as good and cheaper"  # accurate within a margin, at less cost

    def margin(self, margin: float) -> float:
        """mAP50-95 by which the candidate may be below the rival."""
        return margin if self is Claim.AS_GOOD else 0.0


def shares(seeds: int) -> dict[int, float]:
    """Of the level, what is spent at the look after each number of seeds; 1 in all.

    >>> {look: round(share, 2) for look, share in shares(4).items()}
    {2: 0.05, 3: 0.23, 4: 0.73}
    """
    looks = range(FIRST, max(seeds, FIRST) + 1)
    total = sum(look**LATE for look in looks)
    return {look: look**LATE / total for look in looks}


def welch(own: Sequence[float], other: Sequence[float], margin: float = 0.0) -> float:
    """P value of a one-sided test for own > other - margin, with unequal variances (Welch 1947)."""
    gain = statistics.fmean(own) - statistics.fmean(other) + margin
    parts = [statistics.variance(scores) / len(scores) for scores in (own, other)]
    if (variance := sum(parts)) == 0:  # no spread at all
        return 0.0 if gain > 0 else 1.0
    df = variance**2 / sum(part**2 / (len(scores) - 1) for part, scores in zip(parts, (own, other)))
    return t_above(gain / math.sqrt(variance), df)


def sequential(own: Sequence[float], other: Sequence[float], margin: float, seeds: int) -> float:
    """P value of all looks so far: the smallest of each look's divided by its share.

    Whatever is seen when, it is below any level with at most that probability where the difference is -margin: the
    shares add up to 1 (Bonferroni over looks, with weights).

    Args:
        seeds: looks are planned up to this number.
    """
    planned, count = shares(seeds), min(len(own), len(other))
    looks = [look for look in planned if look <= count]
    ps = [welch(own[:look], other[:look], margin) / planned[look] for look in looks]
    return min([1.0, *ps])


def is_hopeless(own: Sequence[float], other: Sequence[float], margin: float, seeds: int) -> bool:
    """Whether the difference, if it stayed as it is, would be no claim at the last look either, by far.

    It only ever ends trainings, so that it costs no level.
    """
    count = min(len(own), len(other))
    if count < FIRST:
        return False
    gain = statistics.fmean(own[:count]) - statistics.fmean(other[:count]) + margin
    variance = statistics.variance(own[:count]) + statistics.variance(other[:count])
    if variance == 0:
        return gain <= 0
    return t_above(gain / math.sqrt(variance / seeds), 2 * (count - 1)) > HOPELESS


def holm(ps: Sequence[float]) -> list[float]:
    """P values corrected for their number (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    corrected, highest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = highest
    return corrected


def cost_ratio(own: Mapping[int, tuple[float, float]], other: Mapping[int, tuple[float, float]]) -> tuple[float, float]:
    """Cost of own / cost of other: the ratio, and what it is at most (one-sided 95 %).

    Args:
        own, other: of each seed the cost, and its standard error as a share of it; 0 where it is counted.
    """
    logs = [[math.log(cost) for cost, _ in costs.values()] for costs in (own, other)]
    middle = statistics.fmean(logs[0]) - statistics.fmean(logs[1])
    variance = 0.0
    for values, costs in zip(logs, (own, other)):
        seen = statistics.variance(values) if len(values) > 1 else 0.0
        known = statistics.fmean(error**2 for _, error in costs.values())
        variance += max(seen, known) / len(values)
    return math.exp(middle), math.exp(middle + ONE_SIDED * math.sqrt(variance))


def is_allowed(claim: Claim, ratio: tuple[float, float] | None) -> bool:
    """Whether costs are such that a claim may be made."""
    if ratio is None:
        return False
    return ratio[1] < 1 if claim is Claim.AS_GOOD else ratio[0] <= EQUAL


def t_above(t: float, df: float) -> float:
    """P(T > t) of Student's distribution."""
    return _t_above(float(t), float(df))


@lru_cache(maxsize=10_000)
def _t_above(t: float, df: float) -> float:
    from scipy.special import stdtr  # scipy.stats takes a second to import

    return float(stdtr(df, -t))
