"""The reward: accuracy weighted by efficiency, as one number to maximise. Constraints: costs that must be met."""

from __future__ import annotations

import importlib
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ..errors import UserError
from ..files import absolute, given_path, is_file
from .metrics import check_cost

Reward = Callable[[Mapping[str, float]], float]

REWARDS = ("soft", "hard", "map")
EXPONENT = -0.07


@dataclass(frozen=True)
class Target:
    """A cost that should be met: at `value` the reward is the mAP itself.

    Args:
        own: whether the metric may be one that a hook measures.

    Raises:
        UserError: the metric is no cost, or the value is not above 0.
    """

    metric: str
    value: float
    own: bool = False

    def __post_init__(self) -> None:
        check_cost(self.metric, "a target must name a cost", self.own)
        if not (math.isfinite(self.value) and self.value > 0):
            raise UserError(f"the target of {self.metric} must be a number above 0", got=self.value)

    @classmethod
    def parse(cls, text: str, own: bool = False) -> Target:
        """The target of `latency_ratio=0.9`.

        Raises:
            UserError: it is not of that form.
        """
        metric, _, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            raise UserError("a target must be METRIC=NUMBER", got=text, accepted="such as latency_ratio=0.9") from None
        return cls(metric.strip(), number, own)

    def __str__(self) -> str:
        return f"{self.metric}={self.value:g}"


def parse_plans(texts: Sequence[str], own: bool = False) -> tuple[tuple[Target, ...], ...]:
    """The plans that targets ask for: each comma-separated value of one metric gives a plan; other metrics hold in all.

    >>> [[str(target) for target in plan] for plan in parse_plans(["latency_ratio=0.9,0.8", "params=1e6"])]
    [['latency_ratio=0.9', 'params=1e+06'], ['latency_ratio=0.8', 'params=1e+06']]

    Raises:
        UserError: a target can't be read, a ratio is not below 1, or more than one metric has several values.
    """
    parsed = []
    for text in texts:
        metric, _, values = text.partition("=")
        parsed.append([Target.parse(f"{metric}={value}", own) for value in values.split(",")])
    for target in (target for group in parsed for target in group):
        if target.metric == "latency_ratio" and target.value >= 1:
            rule = "a target of latency_ratio must be below 1 with --method replace: 1 is the parent itself"
            raise UserError(rule, got=target.value)
    metrics = [group[0].metric for group in parsed]
    if not parsed or len(set(metrics)) < len(metrics) or sum(len(group) > 1 for group in parsed) > 1:
        accepted = "such as latency_ratio=0.9,0.8,0.7, or latency_ratio=0.9,0.8 params=1e6"
        rule = "--method replace takes each metric once as a target, and one of them with several values"
        raise UserError(rule, got=" ".join(texts) or None, accepted=accepted)
    count = max(map(len, parsed))
    plans = [tuple(group[k if len(group) > 1 else 0] for group in parsed) for k in range(count)]
    return tuple(dict.fromkeys(plans))


@dataclass(frozen=True)
class Constraint:
    """A cost that must be met, or the architecture is not trained.

    Args:
        own: whether the metric may be one that a hook measures.

    Raises:
        UserError: the metric is no cost, or the limit no finite number.
    """

    metric: str
    limit: float
    at_most: bool = True  # else at least
    own: bool = False

    def __post_init__(self) -> None:
        check_cost(self.metric, "a constraint must name a cost that is known before training", self.own)
        if not math.isfinite(self.limit):
            raise UserError(f"the limit of {self.metric} must be a finite number", got=self.limit)

    @classmethod
    def parse(cls, text: str, own: bool = False) -> Constraint:
        """The constraint of `latency_ratio<=0.9` or `params>=1e6`.

        Raises:
            UserError: it is not of that form.
        """
        found = re.fullmatch(r"\s*(\w+)\s*([<>]=)\s*(\S+)\s*", text)
        try:
            metric, relation, limit = found.groups()  # type: ignore[union-attr]
            return cls(metric, float(limit), relation == "<=", own)
        except (AttributeError, ValueError) as e:
            if isinstance(e, UserError):
                raise
            accepted = 'METRIC<=NUMBER or METRIC>=NUMBER, in quotes, such as "latency_ratio<=0.9"'
            raise UserError("a constraint can't be read", got=text, accepted=accepted) from None

    def excess(self, metrics: Mapping[str, float]) -> float:
        """By how much it is broken, as a share of the limit (absolute where that is 0); 0 or less where it is met.

        Raises:
            KeyError: the metric was not measured.
        """
        over = metrics[self.metric] - self.limit
        return (over if self.at_most else -over) / (abs(self.limit) or 1.0)

    def __str__(self) -> str:
        return f"{self.metric}{'<=' if self.at_most else '>='}{self.limit:g}"


def broken(constraints: Iterable[Constraint], metrics: Mapping[str, float]) -> str | None:
    """The first constraint that the costs measured so far break, in words."""
    for constraint in constraints:
        if constraint.metric in metrics and constraint.excess(metrics) > 0:
            return f"{constraint.metric} is {metrics[constraint.metric]:.6g}, which breaks {constraint}"
    return None


class SoftReward:
    """mAP50-95 times (cost / target) ** w for every target (Tan et al. 2019, MnasNet, eq. 2 with alpha = beta = w).

    With w = -0.07 twice the target's cost is worth 5 % of the mAP.

    >>> reward = SoftReward([Target("latency_ratio", 1.0)])
    >>> round(reward({"map50_95": 0.5, "latency_ratio": 2.0}), 4)  # 0.5 * 2 ** -0.07
    0.4763
    >>> round(reward({"map50_95": 0.5, "latency_ratio": 0.5}), 4)  # 0.5 * 0.5 ** -0.07
    0.5249
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


class HardReward:
    """mAP50-95 where the target is met, times target / cost where it is not; several targets multiply.

    MnasNet's eq. 2 with alpha = 0 and beta = -1 (figure 3, top): a cheaper architecture than asked for wins nothing.

    >>> reward = HardReward([Target("latency_ratio", 1.0)])
    >>> reward({"map50_95": 0.5, "latency_ratio": 0.7}), reward({"map50_95": 0.5, "latency_ratio": 1.25})
    (0.5, 0.4)
    """

    def __init__(self, targets: Sequence[Target]):
        self.targets = tuple(targets)

    def __call__(self, metrics: Mapping[str, float]) -> float:
        """As `SoftReward`'s."""
        reward = metrics["map50_95"]
        for target in self.targets:
            cost = metrics[target.metric]  # a hook's may be 0
            reward *= 1.0 if cost <= target.value else target.value / cost
        return reward


def accuracy(metrics: Mapping[str, float]) -> float:
    """mAP50-95 alone: the reward `map`.

    Raises:
        KeyError: it was not measured.
    """
    return metrics["map50_95"]


def make_reward(name: str, targets: Sequence[Target] = (), exponent: float = EXPONENT) -> Reward:
    """The reward of a name: `soft`, `hard`, `map`, or a function of your own as `module:function` or
    `file.py:function`, which takes `{metric: value}` and returns a number to maximise.

    Raises:
        UserError: there is no such reward or function.
    """
    if name == "soft":
        return SoftReward(targets, exponent)
    if name == "hard":
        return HardReward(targets)
    if name == "map":
        return accuracy
    return OwnReward(name)


class OwnReward:
    """A user's function. It travels to other processes and machines by its name, with the source if it is in a file.

    Args:
        source: of the file, where it is known; by default it is read.

    Raises:
        UserError: there is no such function.
    """

    def __init__(self, name: str, source: str | None = None):
        self.name, path = name, given_path(name.rpartition(":")[0])
        if source is None and path.suffix == ".py" and is_file(path):
            source = _read(path)
        self.source, self.function = source, _function(name, source)

    def __call__(self, metrics: Mapping[str, float]) -> float:
        """Whatever it returns."""
        return self.function(metrics)

    def __reduce__(self) -> tuple[type[OwnReward], tuple[str, str | None]]:
        return OwnReward, (self.name, self.source)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"the reward's file can't be read ({e})", file=path) from None


def _function(name: str, source: str | None) -> Reward:
    module_name, _, function_name = name.rpartition(":")
    if not module_name or not function_name.isidentifier():
        accepted = (*REWARDS, "module:function", "file.py:function")
        raise UserError("unknown reward", got=name, accepted=accepted)
    try:
        function = getattr(_module(module_name, source), function_name)
    except AttributeError:
        raise UserError(f"{module_name} has no function {function_name}", got=name) from None
    except Exception as e:  # a user's module can raise anything
        raise UserError(f"the module of the reward can't be imported ({type(e).__name__}: {e})", got=name) from None
    if not callable(function):
        raise UserError("a reward must be a function", got=name)
    return function  # type: ignore[no-any-return]


def _module(name: str, source: str | None) -> object:
    if not name.endswith(".py"):
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))  # as `python -m` would; a console script has its own folder there
        return importlib.import_module(name)
    if source is None:
        raise FileNotFoundError(f"no such file: {name}")
    path = absolute(name)
    module = ModuleType(f"reward_{path.stem}")
    module.__file__ = str(path)
    exec(compile(source, path, "exec"), module.__dict__)
    return module
