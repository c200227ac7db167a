"""Engines: where trials run. The contract is small, so that a search is the same on each of them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import TrialError, UserError, machine_fault
from ..records.journal import TrialResult
from ..records.run_folder import RunFolder
from ..space.architecture import Architecture, Value

# (architecture, settings, seed, folder) -> result; raises TrialError. Importable by name, since processes pickle it.
Trial = Callable[[Mapping[str, Value], Any, int, Path], TrialResult]


@dataclass(frozen=True)
class Job:
    """One trial to run.

    Args:
        overrides: settings that are this trial's own, by name: the weights it starts from, what may end it early. They
            replace those of the search where the trial runs.
    """

    number: int
    architecture: Mapping[str, Value]
    seed: int
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How a job ended: with a result, or with an error `{"reason": ..., "message": ...}`.

    `lost` says that the error is none of the trial's: the machine it ran on is gone, and another try is worth it.
    """

    number: int
    seconds: float
    result: TrialResult | None = None
    error: Mapping[str, str] | None = None
    lost: bool = False


class EngineError(RuntimeError):
    """The engine failed; the journal is whole, and the run can be resumed."""


class MachineError(EngineError):
    """The machine is at fault: its disk is full, for instance."""


class Engine:
    """Runs jobs side by side, at most one in each slot. An engine of your own derives from it.

    `start` comes once and before all else. `submit` takes a job while fewer than `slots` are running. `wait` returns
    what has ended since the last call, [] after `timeout` seconds without news. A job that is submitted always ends in
    exactly one outcome, whatever happens to its process. `close` stops what still runs; it may come at any time, twice
    too. By then a trial's files are in its folder (`TrialFolder`).

    Attributes:
        slots: how many jobs at a time.
        reward: metrics to the number that the engine shows of a trial, where it shows any; set before `start`.
        device: the name of the device on which latency is measured, if it is the same on all machines; "" if not known.
        url: where people can look at it, if anywhere.
    """

    slots: int = 1
    reward: Callable[[Mapping[str, float]], float] | None = None
    device: str = ""
    url: str = ""

    def start(self, trial: Trial, settings: Any, folder: Path) -> None:
        """Name what jobs run, and the run's folder."""
        raise NotImplementedError

    def submit(self, job: Job) -> None:
        """Take a job."""
        raise NotImplementedError

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        """What has ended since the last call."""
        raise NotImplementedError

    def fetch(self, number: int) -> None:
        """Bring a trial's heavy files (`TrialFolder.heavy`) where it ran elsewhere; called until the next `wait`."""

    def linger(self) -> None:
        """Keep what `url` shows until Ctrl-C."""

    def close(self) -> None:
        """Stop what still runs."""
        raise NotImplementedError


# What engines share -----------------------------------------------------------------------------------------------


KILLED = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP)  # exit codes of a process that others have ended


def ignore_terminal() -> None:
    """Ignore Ctrl-C and a closed terminal, which reach the whole group: the search ends its processes itself."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_slots(devices: tuple[str, ...], concurrency: int | None, trial_minutes: float | None) -> int:
    """How many trials run at a time.

    Raises:
        UserError: more than this machine has cores, or no time for a trial.
    """
    slots = concurrency or max(len(devices), 1)
    if not 1 <= slots <= cores():
        raise UserError("--concurrency must be at most the number of cores", got=slots, accepted=f"1-{cores()}")
    if trial_minutes is not None and not trial_minutes > 0:
        raise UserError("the minutes of a trial must be above 0", got=trial_minutes)
    return slots


def free_slot(slots: int, taken: Iterable[int]) -> int:
    """Return the first slot that no job has.

    Raises:
        EngineError: each has one.
    """
    for slot in sorted(set(range(slots)).difference(taken)):
        return slot
    raise EngineError(f"all slots are taken: at most {slots} jobs run at a time")


def pin(slot: int, device: str | None, threads: int) -> None:
    """Give this process its device ("": none; None: as it is) and its threads, before torch is imported in it."""
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    os.environ["YOLOV5_NAS_SLOT"] = str(slot)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    # OpenMP's threads spin while they wait, and fight for the cores when these are shared. On two cores, twelve small
    # convolutions took 0.8 s on an idle machine and 36 s on a busy one; with this bound 0.8 s and 7 s.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def call_trial(trial: Trial, job: Job, settings: Any, run: Path) -> TrialResult:
    """Run a trial.

    Raises:
        TrialError: whatever went wrong in it.
    """
    try:
        if job.overrides:
            settings = replace(settings, **job.overrides)
        result = trial(job.architecture, settings, job.seed, RunFolder(run).trial(job.number).path)
    except TrialError:
        raise
    except MemoryError as e:
        raise TrialError("oom", f"MemoryError: {e}") from e
    except Exception as e:
        if fault := machine_fault(e):
            raise TrialError("machine", fault) from e
        raise TrialError("crash", f"{type(e).__name__}: {e}"[:500]) from e
    if not isinstance(result, TrialResult):
        raise TrialError("crash", f"the trial returned no TrialResult but {type(result).__name__}")
    return result


def outcome_to_json(job: Job, outcome: Outcome) -> str:
    """An outcome as JSON, with what tells whose it is."""
    entries = {
        "id": Architecture(job.architecture).id,
        "seed": job.seed,
        "seconds": outcome.seconds,
        "result": asdict(outcome.result) if outcome.result else None,
        "error": outcome.error,
    }
    return json.dumps(entries, default=_plain)


def outcome_from_json(text: str, job: Job) -> Outcome | None:
    """The outcome that `outcome_to_json` wrote of exactly this job; None if it is none or another's."""
    try:
        entries = json.loads(text)
        if (entries["id"], entries["seed"]) != (Architecture(job.architecture).id, job.seed):
            return None
        result = entries["result"]
        if result:
            classes = tuple((name, ap) for name, ap in result["classes"])
            result = TrialResult(**{**result, "curve": tuple(result["curve"]), "classes": classes})
        return Outcome(job.number, entries["seconds"], result, entries["error"])
    except (ValueError, KeyError, TypeError):
        return None


def _plain(value: Any) -> Any:
    """Numbers of numpy and torch, and mappings that are no dict."""
    if hasattr(value, "item"):
        return value.item()
    return dict(value) if isinstance(value, Mapping) else str(value)
