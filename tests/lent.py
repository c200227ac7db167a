"""An engine that several tests use, one after the other, since some take longer to start than a test does."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_trials
from processes import LONG

from yolov5_nas.engines.contract import Engine, EngineError, Job, Outcome

MINUTES = 20.0  # that a trial may take on an engine that is lent: more than any, on the busiest machine


class LentEngine:
    """A started engine as a test sees it: its own trial, and trials that are counted from 0."""

    def __init__(self, engine: Engine, trial: Callable[..., Any], first: int, seed: int):
        self.engine, self.slots = engine, engine.slots
        self.trial, self.first, self.seed = trial.__name__, first, seed
        self.running = 0

    def submit(self, job: Job) -> None:
        # The seed tells this test's trials from another's, whose outcomes the engine may remember.
        overrides, seed = {**job.overrides, "trial": self.trial}, fake_trials.SEEDS * self.seed + job.seed
        self.engine.submit(replace(job, number=job.number + self.first, seed=seed, overrides=overrides))
        self.running += 1

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        outcomes = [replace(o, number=o.number - self.first) for o in self.engine.wait(timeout)]
        self.running -= len(outcomes)
        return outcomes


class Lender:
    """Lends an engine to one test after the other.

    Args:
        make: makes the engine, which is started on `folder`, its settings with the space.
    """

    def __init__(self, make: Callable[[], Engine], folder: Path, space: Any = None):
        self.make, self.folder, self.space, self.count = make, folder, space, itertools.count(1)
        self._start()

    def _start(self) -> None:
        self.engine, self.lent = self.make(), None
        self.engine.start(fake_trials.named, fake_trials.Overridable(space=self.space), self.folder)

    def ready(self) -> Engine:
        """The engine, without jobs: a test that failed fails alone, whatever it left."""
        try:
            while self.lent and self.lent.running:
                self.lent.wait()
        except EngineError:
            self.engine.close()
            self._start()
        return self.engine

    def lend(self, trial: Callable[..., Any]) -> LentEngine:
        """The engine, for trials of `fake_trials`."""
        number = next(self.count)
        self.lent = LentEngine(self.ready(), trial, 1000 * number, number)
        return self.lent

    def close(self) -> None:
        """Close the engine while a trial runs, which it has to stop at once."""
        self.lend(fake_trials.sleeps).submit(Job(0, {"a": 1}, 0))
        self.engine.wait(0.2)
        start = time.monotonic()
        self.engine.close()
        self.engine.close()
        assert time.monotonic() - start < LONG
