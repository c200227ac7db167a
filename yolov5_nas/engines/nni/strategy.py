"""NNI's own multi-trial strategies (Random, GridSearch, RegularizedEvolution) behind our ask and tell.

So they run on every engine, and resume by playing the journal back, which NNI's own resume does not bring about.
"""

from __future__ import annotations

import queue
import threading
from typing import Any

import nni
from nni.nas.execution import ExecutionEngine
from nni.nas.execution.event import FinalMetricEvent, TrainingEndEvent
from nni.nas.space import ModelStatus
from nni.nas.strategy.base import Strategy

from ...errors import UserError
from ...records.journal import TrialRecord
from ...space.architecture import Architecture
from ...space.space import Space
from ...strategies.strategy import TRIES, SpaceExhausted
from .space import SymbolicSpace, symbolic


class NNIStrategy:
    """An NNI strategy that is asked and told. The default architecture comes first, and none is proposed twice.

    TPE minimises unless it is given `optimize_mode`, and degrades after its first duplicate; PolicyBasedRL needs
    tianshou 0.5.1 and gym 0.26.2. Neither was tried.

    Args:
        strategy: of `nni.nas.strategy`, not yet used; with a seed, so that a resume proposes the same.
        space: what to search.

    Raises:
        UserError: it is no strategy of NNI's.
    """

    def __init__(self, strategy: Any, space: Space):
        if not isinstance(strategy, Strategy):
            raise UserError("a strategy must have ask and tell, or be one of nni.nas.strategy", got=strategy)
        nni.silence_stdout()
        self.space, self.strategy, self.engine = space, strategy, _Asked()
        self.models: dict[str, SymbolicSpace] = {}  # proposed, by architecture id
        self.known: dict[str, TrialRecord | None] = {}
        self.thread: threading.Thread | None = None

    def ask(self) -> Architecture:
        """The next architecture to try.

        Raises:
            SpaceExhausted: the strategy has no other one.
        """
        architecture = self._propose() if self.known else self.space.default()
        self.known[architecture.id] = None
        return architecture

    def tell(self, record: TrialRecord) -> None:
        """Learn how a trial ended."""
        self.known[record.id] = record
        if model := self.models.pop(record.id, None):
            self.engine.end(model, record)

    def _propose(self) -> Architecture:
        for _ in range(TRIES):
            model = self._next_model()
            architecture = self._architecture(model)
            if architecture.id not in self.known:
                self.models[architecture.id] = model
                return architecture
            self.engine.end(model, self.known[architecture.id])  # what is known of it; where it still runs, nothing
        raise SpaceExhausted(f"NNI's strategy proposed nothing new in {TRIES} tries: the space has {self.space.size}")

    def _architecture(self, model: SymbolicSpace) -> Architecture:
        sample = model.sample or {}
        return Architecture({label: sample[label] for label in self.space.choices})  # values in the space's own types

    def _next_model(self) -> SymbolicSpace:
        if self.thread is None:
            self.thread = threading.Thread(target=self._run, daemon=True, name="nni-strategy")
            self.thread.start()
        self.engine.demands.put(None)
        model = self.engine.models.get()
        if isinstance(model, BaseException):
            self.engine.models.put(model)  # for the next who asks
            raise model
        return model

    def _run(self) -> None:
        try:
            self.strategy(symbolic(self.space), self.engine)
            raise SpaceExhausted("NNI's strategy has no other architecture")
        except BaseException as e:
            self.engine.models.put(e)


class _Asked(ExecutionEngine):
    """Poses as an NNI strategy's engine, and makes the strategy wait until a model is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.demands: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.models: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def idle_worker_available(self) -> bool:
        """Return once a model is asked for."""
        self.demands.get()
        return True

    def budget_available(self) -> bool:
        """The search ends by not asking again."""
        return True

    def submit_models(self, *models: SymbolicSpace) -> None:
        """Answer the demand."""
        for model in models:
            self.models.put(model)

    def wait_models(self, *models: SymbolicSpace) -> None:
        """Nothing to wait for: the search tells how each ended."""

    def end(self, model: SymbolicSpace, record: TrialRecord | None) -> None:
        """Tell the strategy how a model ended."""
        trained = record is not None and record.reward is not None
        if trained:
            self.dispatch_model_event(FinalMetricEvent(model, record.reward))  # type: ignore[union-attr]
        status = ModelStatus.Trained if trained else ModelStatus.Failed
        self.dispatch_model_event(TrainingEndEvent(model, status))
