"""Engines: where trials run. The contract is small, so that a search is the same on each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..architecture import Value
from ..journal import TrialResult

# (architecture, settings, seed, folder) -> result; raises TrialError. Importable by name, since processes pickle it.
Trial = Callable[[Mapping[str, Value], Any, int, Path], TrialResult]


@dataclass(frozen=True)
class Job:
    """One trial to run."""

    number: int
    architecture: Mapping[str, Value]
    seed: int


@dataclass(frozen=True)
class Outcome:
    """How a job ended: with a result, or with an error `{"reason": ..., "message": ...}`."""

    number: int
    seconds: float
    result: TrialResult | None = None
    error: Mapping[str, str] | None = None


class Engine(Protocol):
    """Runs jobs side by side, at most one in each slot.

    `start` comes once and before all else. `submit` takes a job while fewer than `slots` are running. `wait` returns
    what has ended since the last call, [] after `timeout` seconds without news. A job that is submitted always ends in
    exactly one outcome, whatever happens to its process. `close` stops what still runs; it may come at any time, twice
    too.
    """

    slots: int

    def start(self, trial: Trial, settings: Any, folder: Path) -> None: ...

    def submit(self, job: Job) -> None: ...

    def wait(self, timeout: float | None = None) -> list[Outcome]: ...

    def close(self) -> None: ...


def trial_folder(run: Path, number: int) -> Path:
    """Where a trial's files go."""
    return run / "trials" / str(number)
