"""The local engine: warm worker processes, one per slot, each with its device and its share of the cores."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import threading
import time
from concurrent.futures import CancelledError, TimeoutError
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool
from tqdm import tqdm

from ..errors import TrialError, UserError
from ..records.journal import TrialResult
from .contract import (
    KILLED,
    Engine,
    Job,
    Outcome,
    Trial,
    call_trial,
    check_slots,
    cores,
    free_slot,
    ignore_terminal,
    pin,
)


class LocalEngine(Engine):
    """Trials in processes of this machine. A process stays warm: YOLOv5 is imported and images are decoded once.

    Args:
        devices: GPU indices as in `CUDA_VISIBLE_DEVICES`; none for the CPU.
        concurrency: trials at a time; by default one for each device.
        trial_minutes: a trial that takes longer is stopped and recorded as `timeout`.
        threads: of each trial; by default its share of the cores.

    Raises:
        UserError: more trials at a time than this machine has cores, or no time for a trial.
    """

    def __init__(
        self,
        devices: tuple[str, ...] = (),
        concurrency: int | None = None,
        trial_minutes: float | None = None,
        threads: int | None = None,
    ):
        self.slots = check_slots(devices, concurrency, trial_minutes)
        self.devices = devices
        self.seconds = trial_minutes * 60 if trial_minutes else None
        self.threads = threads or max(1, cores() // self.slots)
        self._pools: dict[int, ProcessPool] = {}
        self._running: dict[concurrent.futures.Future[TrialResult], tuple[Job, int, float]] = {}

    def start(self, trial: Trial, settings: Any, folder: Path) -> None:
        """Name what jobs run; the processes start with the first jobs."""
        self.trial, self.settings, self.folder = trial, settings, folder

    def submit(self, job: Job) -> None:
        """Run a job in the first free slot."""
        slot = free_slot(self.slots, (slot for _, slot, _ in self._running.values()))
        args = (self.trial, job, self.settings, self.folder)
        future = self._pool(slot).schedule(call_trial, args, timeout=self.seconds)
        self._running[future] = job, slot, time.monotonic()

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        """What ended; see `Engine`."""
        done, _ = concurrent.futures.wait(self._running, timeout, concurrent.futures.FIRST_COMPLETED)
        outcomes = []
        for future in sorted(done, key=lambda f: self._running[f][0].number):
            job, _, start = self._running.pop(future)
            outcomes.append(self._outcome(future, job, time.monotonic() - start))
        return outcomes

    def close(self) -> None:
        """Stop every process."""
        busy = {slot for _, slot, _ in self._running.values()}
        self._running.clear()
        while self._pools:
            slot, pool = self._pools.popitem()
            if slot not in busy:
                pool.close()  # lets it leave in order
            else:
                pool.stop()
            pool.join()

    def _pool(self, slot: int) -> ProcessPool:
        if slot in self._pools and not self._pools[slot].active:  # its process died while it had nothing to do
            self._pools.pop(slot).stop()
        if slot not in self._pools:
            device = self.devices[slot % len(self.devices)] if self.devices else None
            self._pools[slot] = ProcessPool(
                max_workers=1,
                initializer=_start_worker,
                initargs=(slot, device, self.threads, os.getpid()),
                context=multiprocessing.get_context("spawn"),  # a forked process could not use CUDA
            )
        return self._pools[slot]

    def _outcome(self, future: concurrent.futures.Future[TrialResult], job: Job, seconds: float) -> Outcome:
        try:
            return Outcome(job.number, seconds, result=future.result())
        except TrialError as e:
            reason, message = e.reason, e.message
        except TimeoutError:
            reason, message = "timeout", f"took longer than {self.seconds:g} s"
        except ProcessExpired as e:
            killed = e.exitcode in KILLED
            reason, message = "killed" if killed else "crash", f"the process ended with exit code {e.exitcode}"
        except (Exception, CancelledError) as e:  # the pool broke: its process died before it took the job
            reason, message = "killed", f"the process is gone ({type(e).__name__}: {e})"
        return Outcome(job.number, seconds, error={"reason": reason, "message": message})


def device_indices(device: str) -> tuple[str, ...]:
    """What `--device 0,1` means under the `CUDA_VISIBLE_DEVICES` that the user set; () for "cpu" and "mps".

    Raises:
        UserError: an index is no number, or not one of the visible GPUs.
    """
    if device in ("cpu", "mps"):
        return ()
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    known = visible.split(",")[:count] if visible else list(map(str, range(count)))
    indices = [d.strip().removeprefix("cuda:") for d in device.split(",")]
    for index in indices:
        if not index.isdigit() or int(index) >= len(known):
            accepted = ", ".join(["cpu", *map(str, range(len(known)))])
            raise UserError("--device must name devices of this machine", got=device, accepted=accepted)
    return tuple(known[int(index)] for index in indices)


def own_device(device: str) -> str:
    """torch's name for `--device` in a process that sees all GPUs, since no engine has hidden the others from it.

    Raises:
        UserError: as `device_indices`.
    """
    device_indices(device)
    index = device.removeprefix("cuda:")
    return f"cuda:{index}" if index.isdigit() else device


# In the worker process ------------------------------------------------------------------------------------------------


def _start_worker(slot: int, device: str | None, threads: int, parent: int) -> None:
    """Pin the process before torch is imported in it."""
    pin(slot, device or "", threads)
    # A data loader with --workers starts processes of its own, which a daemonic process must not; there is no public
    # way to change that for the process one is in.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    # tqdm's default lock is a named semaphore. Where the pool ends this process before it has cleaned up, Python warns
    # of it at the search's end. Nobody else writes to this process's bars.
    tqdm.set_lock(threading.RLock())
    ignore_terminal()
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()


def end_with(parent: int) -> None:
    """End this process soon after its parent was killed."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
