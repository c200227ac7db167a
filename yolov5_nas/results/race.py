"""A proof's contestants as their trainings come in: what can be claimed, and who needs no more seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from .claims import (
    EQUAL,
    FIRST,
    HOPELESS,
    LEVEL,
    Claim,
    Estimate,
    Pair,
    accuracy_p,
    corrected,
    cost_p,
    detectable,
    is_hopeless,
    log_ratio,
    sequential,
    shares,
    variance_of,
)


@dataclass
class Contestant:
    """What was trained with several seeds.

    Args:
        name: `stock` or `parent`, the same with `rescaled` after it, or `trial N`.
        scores: mAP50-95 by seed.
        costs: by seed the metric that costs are compared by, and its standard error as a share of it.
    """

    name: str
    scores: dict[int, float] = field(default_factory=dict)
    costs: dict[int, tuple[float, float]] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Mean mAP50-95."""
        return statistics.fmean(self.scores.values())

    @property
    def spread(self) -> float:
        """Standard deviation over seeds (0 for one seed)."""
        return statistics.stdev(self.scores.values()) if len(self.scores) > 1 else 0.0

    @property
    def cost(self) -> float | None:
        """The median, where there is one."""
        return statistics.median(cost for cost, _ in self.costs.values()) if self.costs else None


@dataclass(frozen=True)
class Comparison:
    """A candidate compared with a rival.

    Args:
        own, other: scores of the seeds that both have.
        ps: of each claim the p value, corrected for looks and for comparisons.
        accuracy: the same of a higher mAP50-95, whatever the costs.
        ratio: the logarithm of own cost / the rival's; None where costs are not known.
    """

    candidate: str
    rival: str
    own: tuple[float, ...]
    other: tuple[float, ...]
    ps: Mapping[Claim, float]
    accuracy: float
    ratio: Estimate | None

    @cached_property
    def gain(self) -> float:
        """Difference of the mean mAP50-95."""
        return statistics.fmean(self.own) - statistics.fmean(self.other)

    @property
    def cost_ratio(self) -> float | None:
        """Own cost / the rival's."""
        return math.exp(self.ratio.value) if self.ratio else None

    @property
    def cost_bound(self) -> float | None:
        """What the ratio of costs is at most (one-sided, 95 %)."""
        return math.exp(self.ratio.value + self.ratio.bound(0.95)) if self.ratio else None

    @property
    def is_dearer(self) -> bool:
        """Whether the candidate seems to cost more, so that this rival, if it is as good, is the better choice."""
        return self.cost_ratio is not None and self.cost_ratio > EQUAL

    def holds(self, claim: Claim) -> bool:
        """Whether the claim is made."""
        return self.ps[claim] <= LEVEL


class Race:
    """The contestants of a proof.

    Args:
        rivals, candidates: names.
        seeds: trainings of each, at most.
        margin: mAP50-95 within which a cheaper one is as good.
        races: end the trainings of those that are decided or hopeless; else all get all seeds, and are looked at once.
    """

    def __init__(self, rivals: Sequence[str], candidates: Sequence[str], seeds: int, margin: float, races: bool = True):
        self.rivals, self.candidates = tuple(rivals), tuple(candidates)
        self.seeds, self.margin, self.races = seeds, margin, races
        self.left_out: list[int] = []  # seeds of trainings that don't count
        self.contestants = {name: Contestant(name) for name in (*rivals, *candidates)}

    def add(self, name: str, seed: int, score: float, cost: float | None = None, error: float = 0.0) -> None:
        """A training's mAP50-95, its cost, and that cost's standard error as a share of it."""
        contestant = self.contestants[name]
        contestant.scores[seed] = score
        if cost is not None:
            contestant.costs[seed] = cost, error

    def left(self) -> list[str]:
        """Those that the next seed is trained for: candidates of which something is open, and the rivals that they are
        compared with."""
        if not self.races:
            return list(self.contestants)
        found = self.comparisons()
        compared = {(c.candidate, c.rival) for c in found}
        missing = {(c, r) for c in self.candidates for r in self.rivals} - compared
        open_pairs = missing | {(c.candidate, c.rival) for c in found if self._is_open(c)}
        names = {name for pair in open_pairs for name in pair}
        return [name for name in self.contestants if name in names]

    def comparisons(self) -> list[Comparison]:
        """Every candidate with every rival, as far as both have two seeds."""
        pairs = [(c, r) for c in self.candidates for r in self.rivals if len(self._common(c, r)) >= FIRST]
        accuracy = corrected({pair: self._p(pair) for pair in pairs})
        ps = {claim: corrected({pair: self._p(pair, claim) for pair in pairs}) for claim in Claim}
        return [
            Comparison(*pair, *self._paired(*pair), {claim: ps[claim][pair] for claim in Claim}, accuracy[pair], ratio)
            for pair in pairs
            for ratio in [self._ratio(*pair)]
        ]

    def detectable(self) -> float | None:
        """Return the difference of mean mAP50-95 that the seeds used could have shown; see `claims.detectable`.

        By the mean variance of all contestants, at the level of the first of all candidates that is tested (Holm) and
        at the last look; None where there is no spread.
        """
        variances = [variance_of([*c.scores.values()]) for c in self.contestants.values() if len(c.scores) >= FIRST]
        seeds = max([len(self._common(c, r)) for c in self.candidates for r in self.rivals], default=0)
        if seeds < FIRST or not any(variances):
            return None
        share = shares(self.seeds).get(seeds, 1.0) if self.races else 1.0
        return detectable(math.sqrt(statistics.fmean(variances)), seeds, LEVEL * share / len(self.candidates))

    def _p(self, pair: Pair, claim: Claim | None = None) -> float:
        """P value of a claim, or of a higher mAP50-95 alone: of all looks, or of the last if it is the only one.

        Accuracy and cost must both hold (Berger 1982).
        """
        own, other = self._paired(*pair)
        looks = range(FIRST, len(own) + 1) if self.races else [len(own)]
        margin, ps = claim.margin(self.margin) if claim else 0.0, {}
        for look in looks:
            ps[look] = accuracy_p(own[:look], other[:look], margin)
            if claim:
                ps[look] = max(ps[look], cost_p(self._ratio(*pair, look), claim.cost))
        return sequential(ps, self.seeds) if self.races else ps[len(own)]

    def _is_open(self, c: Comparison) -> bool:
        """Whether further seeds may bring a claim that is not made yet.

        Being better than a cheaper rival is no claim, but others are made only where it holds.
        """
        if c.accuracy > LEVEL and not is_hopeless(c.own, c.other, 0.0, self.seeds):
            return True
        left = [claim for claim in Claim if c.ps[claim] > LEVEL and self._may_cost(c, claim)]
        return any(not is_hopeless(c.own, c.other, claim.margin(self.margin), self.seeds) for claim in left)

    def _may_cost(self, c: Comparison, claim: Claim) -> bool:
        """Whether the costs, as they are now, may be shown to be what a claim says at the last look."""
        if c.ratio is None:
            return False
        last = replace(c.ratio, error=c.ratio.error * math.sqrt(len(c.own) / self.seeds))
        return cost_p(last, claim.cost) <= HOPELESS

    def _common(self, candidate: str, rival: str) -> list[int]:
        """The seeds that both have."""
        own, other = (self.contestants[name].scores for name in (candidate, rival))
        return sorted(own.keys() & other.keys())

    def _paired(self, candidate: str, rival: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        own, other = (self.contestants[name].scores for name in (candidate, rival))
        seeds = self._common(candidate, rival)
        return tuple(own[seed] for seed in seeds), tuple(other[seed] for seed in seeds)

    def _ratio(self, candidate: str, rival: str, look: int | None = None) -> Estimate | None:
        """Of costs, of the first seeds that both have, or of all."""
        seeds = self._common(candidate, rival)[:look]
        own, other = (self.contestants[name].costs for name in (candidate, rival))
        return log_ratio(*({seed: costs[seed] for seed in seeds if seed in costs} for costs in (own, other)))
