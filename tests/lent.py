"""An engine that several tests use, one after the other, since some take longer to start than a test does."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_trials

from yolov5_nas.engines.contract import Engine, Job, Outcome

MINUTES = 0.1  # that a trial may take on an engine that is lent


class LentEngine:
    """A started engine as a test sees it: its own trial, and trials that are counted from 0."""

    def __init__(self, engine: Engine, trial: Callable[..., Any], first: int, seed: int):
        self.engine, self.slots = engine, engine.slots
        self.trial, self.first, self.seed = trial.__name__, first, seed

    def submit(self, job: Job) -> None:
        # The seed tells this test's trials from another's, whose outcomes the engine may remember.
        overrides, seed = {**job.overrides, "trial": self.trial}, fake_trials.SEEDS * self.seed + job.seed
        self.engine.submit(replace(job, number=job.number + self.first, seed=seed, overrides=overrides))

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        return [replace(o, number=o.number - self.first) for o in self.engine.wait(timeout)]


class Lender:
    """Lends an engine to one test after the other.

    Args:
        engine: gets started on `folder`, its settings with the space.
    """

    def __init__(self, engine: Engine, folder: Path, space: Any = None):
        self.engine, self.folder, self.count = engine, folder, itertools.count(1)
        engine.start(fake_trials.named, fake_trials.Overridable(space=space), folder)

    def lend(self, trial: Callable[..., Any]) -> LentEngine:
        """The engine, for trials of `fake_trials`."""
        number = next(self.count)
        return LentEngine(self.engine, trial, 1000 * number, number)

    def close(self) -> None:
        """Close the engine while a trial runs, which it has to stop at once."""
        self.lend(fake_trials.sleeps).submit(Job(0, {"a": 1}, 0))
        self.engine.wait(0.2)
        start = time.monotonic()
        self.engine.close()
        self.engine.close()
        assert time.monotonic() - start < 10
