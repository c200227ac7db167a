"""What each choice does to a metric: a main-effects model of a run's trials, with the uncertainty that they leave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from ..records.journal import TrialRecord
from ..records.metrics import is_maximised
from ..space.architecture import Value

MIN_TRIALS = 8  # trials below which nothing is said
NORMAL_95 = 1.96  # half of a 95 % interval, in standard deviations
# What is held of the noise beforehand, as weak as two trials: a fifth of the metric's spread. Without it a model with
# more options than trials can fit them exactly, take the noise for 0, and be far too sure (see CONTRIBUTING.md).
NOISE = 0.2


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

    Bayesian ridge regression (MacKay 1992) of the metric on one column for each option but the default one; the
    intervals are those of the coefficients' posterior, and where trials are few both keep near 0. Options that always
    occurred together can't be told apart, and share their effect. An accuracy below `fence` counts as if it were there.

    Args:
        default: the option of each label that effects are measured from.
        relative_to: a value of the metric; effects are then shares of it.
    """
    having = [r for r in records if metric in r.metrics]
    tried = {(label, r.architecture[label]): None for r in having for label in default if label in r.architecture}
    columns = [(label, option) for label, option in tried if option != default[label]]
    if len(having) < MIN_TRIALS or not columns:
        return []
    import numpy as np
    from sklearn.linear_model import BayesianRidge

    x = np.array([[r.architecture.get(label) == option for label, option in columns] for r in having], dtype=float)
    y = np.array([r.metrics[metric] for r in having]) / (relative_to or 1.0)
    y = np.maximum(y, fence(list(y))) if is_maximised(metric) else y
    scale = y.std()
    if scale == 0 or not np.isfinite(scale):
        return []
    varied = x.std(axis=0) > 0  # an option that all have is part of the mean
    x, y = x[:, varied] - x[:, varied].mean(axis=0), (y - y.mean()) / scale  # (trials, options), (trials,)
    size = 1.0 / x.var(axis=0).sum()  # an effect's square, if all of them together made the metric's spread of 1
    priors = {"alpha_1": 1.0, "alpha_2": NOISE**2, "lambda_1": 1.0, "lambda_2": size}
    model = BayesianRidge(max_iter=1000, **priors).fit(x, y)
    # Not model.sigma_, which lacks the directions that no trial tells of before scikit-learn 1.6.
    covariance = np.linalg.inv(model.alpha_ * x.T @ x + model.lambda_ * np.eye(x.shape[1]))
    means, halves = model.coef_ * scale, NORMAL_95 * np.sqrt(np.diag(covariance)) * scale
    found = [
        Effect(label, option, default[label], float(mean), float(mean - half), float(mean + half))
        for (label, option), mean, half in zip(
            [column for column, kept in zip(columns, varied) if kept], means, halves, strict=True
        )
    ]
    return sorted(found, key=lambda effect: -abs(effect.mean))


def strongest(metrics: Sequence[Sequence[Effect]], count: int) -> list[tuple[str, Value]]:
    """Label and option of the effects that stand out, of each metric in turn, those that matter first."""
    ranked = [sorted(found, key=lambda e: (not e.matters, -abs(e.mean))) for found in metrics]
    in_turn = (effect for row in zip_longest(*ranked) for effect in row if effect is not None)
    return list(dict.fromkeys((effect.label, effect.option) for effect in in_turn))[:count]


def fence(values: Sequence[float]) -> float:
    """Where values begin that are far below the others: 1.5 times as far below the lower quartile as the best is above.

    A training that broke down tells little of its architecture, and flattens every picture and model that it is in.
    """
    quartile, highest = sorted(values)[len(values) // 4], max(values)
    return quartile - 1.5 * (highest - quartile)
