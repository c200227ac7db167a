"""A proof's contestants as their trainings come in: what can be claimed, and who needs no more seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from .claims import LEVEL, Claim, cost_ratio, holm, is_allowed, is_hopeless, sequential, welch


@dataclass
class Contestant:
    """What was trained with several seeds.

    Args:
        name: `stock`, `stock rescaled` or `trial N`.
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
    """A candidate beside a rival.

    Args:
        own, other: scores of the seeds that both have.
        ps: of each claim the p value, corrected for looks and for comparisons.
        ratio: of costs, and what it is at most; None where they are not known.
    """

    candidate: str
    rival: str
    own: tuple[float, ...]
    other: tuple[float, ...]
    ps: Mapping[Claim, float]
    ratio: tuple[float, float] | None

    @cached_property
    def gain(self) -> float:
        """Difference of the mean mAP50-95."""
        return statistics.fmean(self.own) - statistics.fmean(self.other)

    def holds(self, claim: Claim) -> bool:
        """Whether the claim is made."""
        return self.ps[claim] <= LEVEL and is_allowed(claim, self.ratio)


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
        """Every candidate beside every rival, as far as both have two seeds."""
        pairs = [(c, r, *self._paired(c, r)) for c in self.candidates for r in self.rivals]
        pairs = [pair for pair in pairs if len(pair[2]) > 1]
        ps = {claim: self._corrected(claim, [pair[2:] for pair in pairs]) for claim in Claim}
        return [
            Comparison(c, r, own, other, {claim: ps[claim][i] for claim in Claim}, self._ratio(c, r))
            for i, (c, r, own, other) in enumerate(pairs)
        ]

    def _corrected(self, claim: Claim, scores: Iterable[tuple[Sequence[float], Sequence[float]]]) -> list[float]:
        margin = claim.margin(self.margin)
        if self.races:
            return holm([sequential(own, other, margin, self.seeds) for own, other in scores])
        return holm([welch(own, other, margin) for own, other in scores])

    def _is_open(self, c: Comparison) -> bool:
        """Whether further seeds may bring a claim that is not made yet, and that costs allow."""
        own = [claim for claim in Claim if is_allowed(claim, c.ratio)]
        if any(c.holds(claim) for claim in own):
            return False
        return any(not is_hopeless(c.own, c.other, claim.margin(self.margin), self.seeds) for claim in own)

    def _paired(self, candidate: str, rival: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        own, other = (self.contestants[name].scores for name in (candidate, rival))
        seeds = sorted(own.keys() & other.keys())
        return tuple(own[seed] for seed in seeds), tuple(other[seed] for seed in seeds)

    def _ratio(self, candidate: str, rival: str) -> tuple[float, float] | None:
        own, other = (self.contestants[name].costs for name in (candidate, rival))
        return cost_ratio(own, other) if own and other else None
