"""What each choice does to a metric: a main-effects model of a run's trials, with the uncertainty that they leave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from ..records.journal import TrialRecord
from ..records.metrics import NORMAL_95, is_maximised
from ..space.architecture import Value
from ..strategies.regression import fence, fit

MIN_TRIALS = 8  # trials below which nothing is said


@dataclass(frozen=True)
class Effect:
    """What an option does to a metric where it stands instead of the default one, all other choices equal.

    Args:
        mean: in the metric's unit, or as a share of the stock architecture's value.
        low, high: the ends of the 95 % interval.
    """

    label: str
    option: Value
    default: Value
    mean: float
    low: float
    high: float

    @property
    def matters(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low > 0 or self.high < 0

    @property
    def name(self) -> str:
        """The label with the option that is left and the one that is taken."""
        return f"{self.label}: {self.default} → {self.option}"


def effects(
    records: Iterable[TrialRecord], metric: str, default: Mapping[str, Value], relative_to: float | None = None
) -> list[Effect]:
    """The effect of each option that was tried, strongest first; [] where fewer than `MIN_TRIALS` have the metric.

    By the Bayesian linear model that `--strategy additive` searches with (`strategies.regression`): where trials are
    few, effects and intervals keep near 0. Options that always occurred together can't be told apart, and share their
    effect. An accuracy below `fence` counts as if it were there.

    Args:
        default: the option of each label that effects are measured from.
        relative_to: a value of the metric; effects are then shares of it.
    """
    having = [r for r in records if metric in r.metrics]
    tried = {(label, r.architecture[label]): None for r in having for label in default if label in r.architecture}
    others = [(label, option) for label, option in tried if option != default[label]]
    if len(having) < MIN_TRIALS or not others:
        return []
    import numpy as np

    column = {entry: j for j, entry in enumerate(tried)}
    x = np.array([[r.architecture.get(label) == option for label, option in column] for r in having], dtype=float)
    y = np.array([r.metrics[metric] for r in having]) / (relative_to or 1.0)
    y = np.maximum(y, fence(y.tolist())) if is_maximised(metric) else y
    if y.std() == 0 or not np.isfinite(y.std()):
        return []
    varied = [entry for entry in others if 0 < x[:, column[entry]].sum() < len(x)]  # what all have is part of the mean
    rows = np.zeros((len(varied), len(column)))
    for row, (label, option) in zip(rows, varied):
        row[column[label, option]] = 1.0
        if (label, default[label]) in column:
            row[column[label, default[label]]] = -1.0
    means, errors = fit(x, y).of(rows)
    found = [
        Effect(label, option, default[label], float(m), float(m - NORMAL_95 * e), float(m + NORMAL_95 * e))
        for (label, option), m, e in zip(varied, means, errors)
    ]
    return sorted(found, key=lambda effect: -abs(effect.mean))


def strongest(metrics: Sequence[Sequence[Effect]], count: int) -> list[tuple[str, Value]]:
    """Label and option of the effects that stand out, of each metric in turn, those that matter first."""
    ranked = [sorted(found, key=lambda e: (not e.matters, -abs(e.mean))) for found in metrics]
    in_turn = (effect for row in zip_longest(*ranked) for effect in row if effect is not None)
    return list(dict.fromkeys((effect.label, effect.option) for effect in in_turn))[:count]
