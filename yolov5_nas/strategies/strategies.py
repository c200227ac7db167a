"""Search strategies behind one ask/tell: which architecture next, given what is known.

A strategy never trains and never stores. It is a function of its seed and of the calls made to it, so that the
journal's lines, played back in their order, bring it to where it was.
"""

from __future__ import annotations

import random
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import UserError
from ..records.journal import TrialRecord
from ..records.metrics import is_maximised
from ..records.reward import Constraint
from ..space.architecture import Architecture
from ..space.space import Space

TRIES = 1000
CAUTION = 3  # of 1, 3, 6 and 12 the best for evolution, TPE and NSGA-II on a toy problem with a tight constraint
REPEATS = 20  # known architectures in a row, after which Optuna is given random ones
SCANNED = 100_000  # spaces up to this size are searched to the last architecture


class SpaceExhausted(Exception):
    """No new architecture is left to propose."""


class Strategy:
    """What all strategies share: the default architecture comes first, and none is proposed twice.

    A strategy of one's own overrides `propose` and, if it learns, `observe`.

    Args:
        space: what to search.
        seed: of the strategy's own random numbers.
    """

    def __init__(self, space: Space, seed: int = 0):
        self.space, self.seed, self.rng = space, seed, random.Random(seed)
        self.seen: set[str] = set()
        self.feasible: list[TrialRecord] = []
        self.refused = 0  # architectures that broke a constraint

    def ask(self) -> Architecture:
        """The next architecture to try.

        Raises:
            SpaceExhausted: every architecture was proposed, or no new one was found in 1000 tries.
        """
        architecture = self._new() if self.seen else self.space.default()
        self.seen.add(architecture.id)
        return architecture

    def tell(self, record: TrialRecord) -> None:
        """Learn how a trial ended."""
        self.seen.add(record.id)
        if record.state == "complete":
            self.feasible.append(record)
        self.refused += record.state == "infeasible"
        self.observe(record)

    def propose(self) -> Architecture:
        """A candidate; one that was proposed before is passed over."""
        raise NotImplementedError

    def observe(self, record: TrialRecord) -> None:
        """Called once for every trial that ended."""

    def draw(self) -> Architecture:
        """An architecture drawn at random; where constraints refuse many, nearer to one that they did not refuse.

        Each label is a feasible architecture's (the default one's, until there is another) with a probability of the
        share that was refused so far, each refusal counting `CAUTION` times.
        """
        drawn = self.space.sample(self.rng)
        if not self.refused:
            return drawn
        parent = self.rng.choice(self.feasible).architecture if self.feasible else self.space.default()
        refused = CAUTION * self.refused
        share = min(refused / (refused + len(self.feasible) + 1), 1 - 2 / max(2, len(drawn)))  # some two labels change
        return Architecture({k: parent[k] if self.rng.random() < share else value for k, value in drawn.items()})

    def _new(self) -> Architecture:
        for _ in range(TRIES):
            if (architecture := self.propose()).id not in self.seen:
                return architecture
        for architecture in self._scan():
            if architecture.id not in self.seen:
                return architecture
        raise SpaceExhausted(
            f"no new architecture in {TRIES} tries: the space has {self.space.size}, {len(self.seen)} were proposed"
        )

    def _scan(self) -> Iterator[Architecture]:
        """All architectures of a small space, from a random one on."""
        size = self.space.size
        if size <= SCANNED:
            start = self.rng.randrange(size)
            yield from (self.space.at((start + i) % size) for i in range(size))


class RandomSearch(Strategy):
    """Architectures drawn uniformly."""

    def propose(self) -> Architecture:
        return self.space.sample(self.rng)


class GridSearch(Strategy):
    """All architectures in the space's order, the last label running fastest."""

    def __init__(self, space: Space, seed: int = 0):
        super().__init__(space, seed)
        self.next = 0

    def propose(self) -> Architecture:
        if self.next >= self.space.size:
            raise SpaceExhausted(f"all {self.space.size} architectures of the space were proposed")
        self.next += 1
        return self.space.at(self.next - 1)


class Evolution(Strategy):
    """Regularized (aging) evolution (Real et al. 2019, algorithm 1).

    The population is the last `population` complete trials. A proposal is the best of `sample` of them, drawn at
    random, with one label changed. Until the population is full, proposals are random.
    """

    def __init__(self, space: Space, seed: int = 0, population: int = 16, sample: int = 4):
        super().__init__(space, seed)
        if not 1 <= sample <= population:
            raise UserError("1 <= sample <= population must hold", got=(sample, population))
        self.population: deque[TrialRecord] = deque(maxlen=population)
        self.sample = sample

    def propose(self) -> Architecture:
        if len(self.population) < (self.population.maxlen or 0):
            return self.draw()
        drawn = self.rng.sample(list(self.population), self.sample)
        parent = max(drawn, key=lambda record: record.reward or 0.0)
        return self.space.mutate(Architecture(parent.architecture), self.rng)

    def observe(self, record: TrialRecord) -> None:
        if record.state == "complete":
            self.population.append(record)


class OptunaStrategy(Strategy):
    """Optuna's samplers: `tpe` for the reward, `nsga2` for the Pareto front of several objectives.

    An architecture that breaks a constraint is told with the share by which it does; NSGA-II and TPE rank such ones
    behind all others and by that share (their other values, which nobody knows, don't count then).

    Args:
        sampler: "tpe" (Watanabe 2023, multivariate) or "nsga2" (Deb et al. 2002).
        objectives: metrics; by default the reward alone.
        constraints: of the search.
        population: of NSGA-II; for TPE, how many are drawn at random before it begins.
    """

    def __init__(
        self,
        space: Space,
        seed: int = 0,
        sampler: str = "tpe",
        objectives: Sequence[str] = (),
        constraints: Sequence[Constraint] = (),
        population: int = 16,
    ):
        super().__init__(space, seed)
        import optuna  # takes a second

        self.optuna, self.population = optuna, population
        self.objectives, self.constraints = tuple(objectives), tuple(constraints)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        more = [is_maximised(metric) for metric in self.objectives] or [True]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            warnings.simplefilter("ignore", FutureWarning)  # `constraints_func` stays until Optuna 7
            self.study = optuna.create_study(
                directions=["maximize" if m else "minimize" for m in more], sampler=self._sampler(sampler, population)
            )
        self.distributions: dict[str, Any] = {
            c.label: optuna.distributions.CategoricalDistribution(c.options) for c in space.choices.values()
        }
        self.asked: dict[str, Any] = {}  # Optuna's trials, by architecture id
        self.ended: dict[str, TrialRecord] = {}
        self.repeats = 0
        self.last_refused = False

    def propose(self) -> Architecture:
        # It has converged, or not begun, or leads where constraints refuse.
        if self.repeats > REPEATS or len(self.feasible) < self.population or self.last_refused:
            self.study.enqueue_trial(dict(self.draw()))
        trial = self.study.ask(self.distributions)
        architecture = Architecture({label: trial.params[label] for label in self.space.choices})
        if architecture.id not in self.seen:
            self.repeats = 0
            self.asked[architecture.id] = trial
        else:
            self.repeats += 1
            self._tell(trial, self.ended.get(architecture.id))
        return architecture

    def observe(self, record: TrialRecord) -> None:
        trial = self.asked.pop(record.id, None)
        if trial is None:  # the default architecture, which Optuna did not propose
            self.study.enqueue_trial(dict(record.architecture))
            trial = self.study.ask(self.distributions)
        self.ended[record.id] = record
        self.last_refused = record.state == "infeasible"
        self._tell(trial, record)

    def _tell(self, trial: Any, record: TrialRecord | None) -> None:
        if record is None or record.state not in ("complete", "infeasible"):
            self.study.tell(trial, state=self.optuna.trial.TrialState.FAIL)
            return
        excess = [max(0.0, c.excess(record.metrics)) if c.metric in record.metrics else 0.0 for c in self.constraints]
        trial.set_user_attr("excess", excess)
        worst = [0.0 if is_maximised(metric) else 1e12 for metric in self.objectives] or [0.0]
        if record.state == "infeasible":
            values = worst
        elif self.objectives:
            values = [record.metrics.get(metric, bad) for metric, bad in zip(self.objectives, worst)]
        else:
            values = [record.reward or 0.0]
        self.study.tell(trial, values)

    def _sampler(self, name: str, population: int) -> Any:
        samplers = self.optuna.samplers
        excess = (lambda trial: trial.user_attrs["excess"]) if self.constraints else None
        if name == "nsga2":
            return samplers.NSGAIISampler(seed=self.seed, population_size=max(2, population), constraints_func=excess)
        return samplers.TPESampler(
            seed=self.seed, n_startup_trials=population, multivariate=True, constant_liar=True, constraints_func=excess
        )


class Plan:
    """An ask/tell that goes through a list; what it is told it needn't know."""

    def __init__(self, architectures: Sequence[Architecture]):
        self.waiting = iter(architectures)

    def ask(self) -> Architecture:
        """The next one.

        Raises:
            SpaceExhausted: there is none.
        """
        try:
            return next(self.waiting)
        except StopIteration:
            raise SpaceExhausted("everything is trained") from None

    def tell(self, record: TrialRecord) -> None:
        """Nothing to learn."""


STRATEGIES = ("evolution", "random", "grid", "tpe", "nsga2")


def make_strategy(
    name: str,
    space: Space,
    seed: int = 0,
    population: int = 16,
    objectives: Sequence[str] = (),
    constraints: Sequence[Constraint] = (),
) -> Strategy:
    """The strategy of a name.

    Args:
        population: of evolution and NSGA-II; random ones before TPE begins.
        objectives: what NSGA-II makes better together.
        constraints: what NSGA-II and TPE learn to meet; the others just don't propose the same again.

    Raises:
        UserError: there is none of that name, or it can't search for several objectives.
    """
    if name not in STRATEGIES:
        raise UserError("unknown strategy", got=name, accepted=STRATEGIES)
    if name == "evolution":
        return Evolution(space, seed, population, sample=max(1, population // 4))
    if name == "nsga2":
        return OptunaStrategy(space, seed, name, objectives or ("map50_95", "latency_ratio"), constraints, population)
    if name == "tpe":
        return OptunaStrategy(space, seed, name, (), constraints, population)
    return {"random": RandomSearch, "grid": GridSearch}[name](space, seed)
