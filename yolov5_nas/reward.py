"""The reward: accuracy weighted by efficiency, as one number to maximise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .errors import UserError

COSTS = ("latency_ratio", "latency_ms", "gflops", "params")
EXPONENT = -0.07


@dataclass(frozen=True)
class Target:
    """A cost that should be met: at `value` the reward is the mAP itself.

    Raises:
        UserError: the metric is no cost, or the value is not above 0.
    """

    metric: str
    value: float

    def __post_init__(self) -> None:
        if self.metric not in COSTS:
            raise UserError("a target must name a cost", got=self.metric, accepted=COSTS)
        if not (math.isfinite(self.value) and self.value > 0):
            raise UserError(f"the target of {self.metric} must be a number above 0", got=self.value)

    @classmethod
    def parse(cls, text: str) -> Target:
        """The target of `latency_ratio=0.9`.

        Raises:
            UserError: it is not of that form.
        """
        metric, _, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            raise UserError("a target must be METRIC=NUMBER", got=text, accepted="such as latency_ratio=0.9") from None
        return cls(metric.strip(), number)

    def __str__(self) -> str:
        return f"{self.metric}={self.value:g}"


class SoftReward:
    """mAP50-95 times (cost / target) ** w for every target (Tan et al. 2019, MnasNet, eq. 2 with alpha = beta = w).

    With w = -0.07 twice the target's cost is worth 5 % of the mAP.

    >>> reward = SoftReward([Target("latency_ratio", 1.0)])
    >>> round(reward({"map50_95": 0.5, "latency_ratio": 2.0}), 4)  # 0.5 * 2 ** -0.07
    0.4763
    """

    def __init__(self, targets: Sequence[Target], exponent: float = EXPONENT):
        if not (math.isfinite(exponent) and exponent <= 0):
            raise UserError("the exponent must be a number of at most 0 (a higher cost is never better)", got=exponent)
        self.targets, self.exponent = tuple(targets), exponent

    def __call__(self, metrics: Mapping[str, float]) -> float:
        """The reward of a trial's metrics.

        Raises:
            KeyError: a metric that it needs was not measured.
        """
        reward = metrics["map50_95"]
        for target in self.targets:
            reward *= (metrics[target.metric] / target.value) ** self.exponent
        return reward
