"""What trainings with several seeds show of two networks, looked at after each seed: two claims, their p values, and
whether further seeds could still change anything."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

LEVEL = 0.05  # of each claim, over all comparisons and looks
FIRST = 2  # seeds at the first look: one has no spread
LATE = 4  # looks have shares of the level as this power of their seeds: most is left for the last one
HOPELESS = 0.4  # p at the last look, if the trend so far held, above which further seeds are not worth training
EQUAL = 1.02  # costs within this ratio count as equal: no latency is known better
POWER = 0.8  # how often a difference is found that is called large enough to be found
NO_SPREAD = 1e-20  # a variance that is rounding alone
LEARNT = 4  # margins that a rival's mAP must be above 0, or being within one of it says nothing

Costs = Mapping[int, tuple[float, float]]  # by seed, with the standard error as a share; 0 where it is counted
Pair = tuple[str, str]  # a candidate and a baseline that it is compared with


class Claim(Enum):
    """What may be said of a candidate compared with a rival."""

    BETTER = "better"  # more accurate at no more cost
    AS_GOOD = "as good and cheaper"  # accurate within a margin, at less cost

    def margin(self, margin: float) -> float:
        """mAP50-95 by which the candidate may be below the rival."""
        return margin if self is Claim.AS_GOOD else 0.0

    @property
    def cost(self) -> float:
        """Ratio of costs, the candidate's to the rival's, that the claim says to be undercut."""
        return 1 / EQUAL if self is Claim.AS_GOOD else EQUAL


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error and degrees of freedom."""

    value: float
    error: float
    df: float

    @property
    def p(self) -> float:
        """Of a one-sided test for a value above 0."""
        if self.error == 0:
            return 0.0 if self.value > 0 else 1.0
        return t_above(self.value / self.error, self.df)

    def bound(self, level: float) -> float:
        """How far a one-sided interval of that level reaches on each side."""
        from scipy.special import stdtrit

        return float(stdtrit(min(self.df, 1e6), level)) * self.error


def shares(seeds: int) -> dict[int, float]:
    """Of the level, what is spent at the look after each number of seeds; 1 in all.

    >>> {look: round(share, 2) for look, share in shares(4).items()}
    {2: 0.05, 3: 0.23, 4: 0.73}
    """
    looks = range(FIRST, max(seeds, FIRST) + 1)
    total = sum(look**LATE for look in looks)
    return {look: look**LATE / total for look in looks}


def sequential(ps: Mapping[int, float], seeds: int) -> float:
    """P value of all looks so far: the smallest of each look's divided by its share.

    Where there is nothing to find it is below any level with at most that probability, whatever is seen when: the
    shares add up to 1 (Bonferroni over looks, with weights).

    Args:
        ps: of the looks so far, by their number of seeds.
        seeds: looks are planned up to this number.
    """
    planned = shares(seeds)
    return min([1.0, *(p / planned[look] for look, p in ps.items() if look in planned)])


def difference(own: Sequence[float], other: Sequence[float]) -> Estimate:
    """Of two means, with unequal variances (Welch 1947)."""
    parts = [variance_of(values) / len(values) for values in (own, other)]
    gain, variance = statistics.fmean(own) - statistics.fmean(other), sum(parts)
    if variance == 0:
        return Estimate(gain, 0.0, math.inf)
    df = variance**2 / sum(part**2 / (len(values) - 1) for part, values in zip(parts, (own, other)))
    return Estimate(gain, math.sqrt(variance), df)


def accuracy_p(own: Sequence[float], other: Sequence[float], margin: float) -> float:
    """P value of a one-sided Welch test for own > other - margin.

    It is 1 where scores don't spread, which says nothing, or the rival has hardly learnt to detect.
    """
    found = difference(own, other)
    if found.error == 0 or statistics.fmean(other) < LEARNT * margin:
        return 1.0
    return Estimate(found.value + margin, found.error, found.df).p


def variance_of(values: Sequence[float]) -> float:
    """Of a sample; that of the `statistics` module takes a hundred times as long, and simulations take millions."""
    mean = statistics.fmean(values)
    found = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return found if found > NO_SPREAD else 0.0


def is_hopeless(own: Sequence[float], other: Sequence[float], margin: float, seeds: int) -> bool:
    """Whether the difference, if it stayed as it is, would be far from a claim even at the last look.

    It can only end trainings, and so spends none of the level.
    """
    if len(own) < FIRST:
        return False
    variance = variance_of(own) + variance_of(other)
    gain = statistics.fmean(own) - statistics.fmean(other) + margin
    if variance == 0:
        return gain <= 0
    return t_above(gain / math.sqrt(variance / seeds), 2 * (len(own) - 1)) > HOPELESS


def log_ratio(own: Costs, other: Costs) -> Estimate | None:
    """Logarithm of cost of own / cost of other; None where costs are not known.

    The error is that of the seeds' spread, or of the measurements where that is larger.
    """
    if not own or not other or any(cost <= 0 for cost, _ in (*own.values(), *other.values())):
        return None
    logs = [[math.log(cost) for cost, _ in costs.values()] for costs in (own, other)]
    parts, dfs = [], []
    for values, costs in zip(logs, (own, other)):
        seen = variance_of(values) if len(values) > 1 else 0.0
        known = statistics.fmean(error**2 for _, error in costs.values())
        parts.append(max(seen, known) / len(values))
        dfs.append(len(values) - 1 if seen > known else math.inf)
    variance = sum(parts)
    weights = sum(part**2 / df for part, df in zip(parts, dfs) if df)
    df = variance**2 / weights if weights else math.inf
    return Estimate(statistics.fmean(logs[0]) - statistics.fmean(logs[1]), math.sqrt(variance), df)


def cost_p(ratio: Estimate | None, limit: float) -> float:
    """Return the p value of a one-sided test for a ratio of costs below `limit`; 1 where costs are not known.

    Against 1 / EQUAL it tests for a lower cost, against EQUAL for one that is not higher (non-inferiority).

    Args:
        ratio: its logarithm, as `log_ratio` has it. Counted costs have no error: p is 0 or 1.
    """
    return 1.0 if ratio is None else Estimate(math.log(limit) - ratio.value, ratio.error, ratio.df).p


def hochberg(ps: Sequence[float]) -> list[float]:
    """Correct p values for their number (Hochberg 1988): the largest stays as it is, the smallest is multiplied most.

    >>> hochberg([0.01, 0.04, 0.03])
    [0.03, 0.04, 0.04]
    """
    order = sorted(range(len(ps)), key=lambda i: -ps[i])
    corrected, lowest = [0.0] * len(ps), 1.0
    for rank, i in enumerate(order, 1):
        lowest = min(lowest, rank * ps[i])
        corrected[i] = lowest
    return corrected


def corrected(ps: Mapping[Pair, float]) -> dict[Pair, float]:
    """Correct the p values of all pairs of candidates and rivals.

    A candidate's gain needs all of its rivals beaten, so that each of these tests has the whole level of that candidate
    (intersection-union, Berger 1982), and Holm's correction (1979) is over candidates alone. Where not all rivals are
    beaten, Hochberg's (1988) says which are. A false statement about any pair has a probability of at most the level,
    as long as tests of one candidate are not negatively correlated (Sarkar 1998); they share the candidate's scores.
    """
    rivals: dict[str, list[str]] = {}
    for candidate, rival in ps:
        rivals.setdefault(candidate, []).append(rival)
    left, found = len(rivals), dict[Pair, float]()
    for candidate in sorted(rivals, key=lambda c: max(ps[c, rival] for rival in rivals[c])):
        own = hochberg([ps[candidate, rival] for rival in rivals[candidate]])
        found |= {(candidate, rival): min(1.0, left * p) for rival, p in zip(rivals[candidate], own)}
        left -= int(left * max(own) <= LEVEL)  # only one of which all is shown leaves its share of the level to others
    return found


def detectable(spread: float, seeds: int, level: float) -> float:
    """Return the difference of mean mAP50-95 that a comparison finds with a probability of `POWER`.

    The power of a t-test of two groups by the noncentral t distribution (Cohen 1988, ch. 2; the minimum detectable
    effect of Bloom 1995), solved for the difference: nc * spread * sqrt(2 / seeds), where
    P(T(df, nc) > t(1 - level, df)) is `POWER` with df = 2 * (seeds - 1).

    Args:
        spread: standard deviation of mAP50-95 over seeds, of either.
        seeds: trainings of either, at least 2.
        level: of the one-sided test.
    """
    from scipy.special import nctdtrinc, stdtrit

    df = 2 * (seeds - 1)
    return float(nctdtrinc(df, 1 - POWER, stdtrit(df, 1 - level))) * spread * math.sqrt(2 / seeds)


def t_above(t: float, df: float) -> float:
    """P(T > t) of Student's distribution."""
    return _t_above(float(t), min(float(df), 1e6))


@lru_cache(maxsize=10_000)
def _t_above(t: float, df: float) -> float:
    from scipy.special import stdtr  # scipy.stats takes a second to import

    return float(stdtr(df, -t))
