"""Early stopping: a trial whose curve can't become interesting any more is ended.

A trial is started with what is known about the trials that have ended, and decides by that alone. So it decides the
same way on every engine and after a resume, and nothing has to be sent to it while it runs.
"""

from __future__ import annotations

import math
import statistics
from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..records.journal import TrialRecord, front
from ..records.metrics import ACCURACIES, is_maximised
from ..records.reward import Reward

MIN_COMPLETE = (
    8  # complete trials before one is ended early; 5 lost twice as much of the front (docs/early_stopping.md)
)
OPTIMISM = 0.9  # quantile of the rises of other curves that an optimistic extrapolation adds

Point = Mapping[str, float]


@dataclass(frozen=True)
class Pruner:
    """Decides whether a trial goes on.

    With one objective, by a median rule: it ends when its best reward so far is below the median of the others' best
    rewards up to the same epoch. (Vizier's rule, Golovin et al. 2017, section 3.2.2, takes the median of running
    averages.) With several, it ends when even an optimistic extrapolation (adding the `OPTIMISM` quantile of the
    others' rises from that epoch on) is dominated by a point on the front.

    Args:
        medians: of the reward by epoch.
        rises: of each accuracy by epoch, until the end.
        front: the points of the front, by metric; empty for one objective.
        objectives: the metrics of the front.
    """

    reward: Reward
    medians: Mapping[int, float]
    rises: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    front: tuple[Point, ...] = ()
    objectives: tuple[str, ...] = ()

    def why(self, curve: Sequence[Point], costs: Point) -> str | None:
        """Why a trial with this curve so far is to end, in words; None if it goes on.

        Args:
            curve: its validations, each with `epoch` and accuracies.
            costs: its costs as metrics.
        """
        epoch, so_far = int(curve[-1]["epoch"]), {**costs, **best_so_far(curve)}
        if not self.objectives:
            reward = _worth(self.reward, so_far)
            if reward is None or epoch not in self.medians or reward >= self.medians[epoch]:
                return None
            return f"its best reward up to epoch {epoch} is {reward:.4f}, the median {self.medians[epoch]:.4f}"
        hoped = {m: so_far[m] + self.rises.get(m, {}).get(epoch, 1.0) * is_maximised(m) for m in self.objectives}
        if not any(_dominates(point, hoped) for point in self.front):
            return None
        shown = ", ".join(f"{m} {hoped[m]:.4g}" for m in self.objectives)
        return f"even an optimistic outlook at epoch {epoch} ({shown}) is dominated"


class Curves:
    """The curves of the trials that ended, kept so that a pruner of them is made at once.

    Args:
        reward: of the search.
        objectives: of the search, if it has several.
        inherits: trials start from weights that only the first, stock YOLOv5, takes whole: its head start says nothing
            about the others.
    """

    def __init__(self, reward: Reward, objectives: Sequence[str] = (), inherits: bool = False):
        self.reward, self.objectives, self.inherits = reward, tuple(objectives), inherits
        self.rewards: dict[int, list[float]] = {}  # by epoch, sorted
        self.rises: dict[str, dict[int, list[float]]] = {m: {} for m in ACCURACIES}
        self.best: list[TrialRecord] = []  # the front, or nothing
        self.count = 0

    def observe(self, record: TrialRecord) -> None:
        """Learn the curve of a trial that ended; only complete ones tell."""
        if record.state != "complete" or not record.curve or (self.inherits and record.is_reference):
            return
        self.count += 1
        if self.objectives:
            self.best = front([*self.best, record], *self.objectives)
        last = best_so_far(record.curve)
        for i, point in enumerate(record.curve, 1):
            epoch, so_far = int(point["epoch"]), best_so_far(record.curve[:i])
            if (reward := _worth(self.reward, {**record.metrics, **so_far})) is not None:
                insort(self.rewards.setdefault(epoch, []), reward)
            for metric in ACCURACIES:
                if metric in so_far and metric in last:
                    insort(self.rises[metric].setdefault(epoch, []), last[metric] - so_far[metric])

    def pruner(self) -> Pruner | None:
        """What goes with a trial that starts now; None while too little is known."""
        if self.count < MIN_COMPLETE:
            return None
        medians = {e: statistics.median(values) for e, values in self.rewards.items() if len(values) >= MIN_COMPLETE}
        rises = {
            metric: {epoch: values[int(OPTIMISM * (len(values) - 1))] for epoch, values in by_epoch.items()}
            for metric, by_epoch in self.rises.items()
            if metric in self.objectives
        }
        points = tuple({m: r.metrics[m] for m in self.objectives} for r in self.best)
        return Pruner(self.reward, medians, rises, points, self.objectives)


def best_so_far(curve: Sequence[Point]) -> dict[str, float]:
    """The accuracies of a curve's best point (by mAP50-95)."""
    point = max(curve, key=lambda p: p["map50_95"])
    return {metric: point[metric] for metric in ACCURACIES if metric in point}


def _worth(reward: Reward, metrics: Point) -> float | None:
    """The reward of metrics so far; None where a function of the user's has none for them, such as a logarithm of 0."""
    try:
        value = float(reward(metrics))
    except Exception:
        return None
    return value if math.isfinite(value) else None


def _dominates(point: Point, other: Point) -> bool:
    """Whether a point is at least as good in every metric."""
    return all(v >= other[m] if is_maximised(m) else v <= other[m] for m, v in point.items())
