"""Optuna's TPE and NSGA-II as strategies."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from ..records.journal import TrialRecord
from ..records.metrics import is_maximised
from ..records.reward import Constraint
from ..space.architecture import Architecture
from ..space.space import Space
from .costs import Costs
from .strategy import Strategy

REPEATS = 20  # known or forbidden architectures in a row, after which Optuna is given random ones


class OptunaStrategy(Strategy):
    """Optuna's samplers: `tpe` for the reward, `nsga2` for the Pareto front of several objectives.

    For an architecture that breaks a constraint, Optuna is told by what share of the limit it does. NSGA-II and TPE
    rank such architectures behind all others, by that share (their unknown objective values don't count then).

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
        costs: Costs | None = None,
    ):
        super().__init__(space, seed, costs)
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
        self.repeats = self.complete = 0
        self.last_refused = False

    def propose(self) -> Architecture:
        # It has converged, or not begun, or leads where constraints refuse.
        if self.repeats > REPEATS or self.complete < self.population or self.last_refused:
            self.study.enqueue_trial(dict(self.draw()))
        trial = self.study.ask(self.distributions)
        architecture = Architecture({label: trial.params[label] for label in self.space.choices})
        if architecture.id not in self.seen and self.allows(architecture):
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
        self.complete += record.state == "complete"
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
