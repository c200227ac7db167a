"""A warm process that starts trials: it has imported all that a trial needs, and forks one for each.

It talks to the search over a pipe. When the search was killed it takes no more jobs and ends after those that run,
whose outcomes are in their folders (`outcome.json`), where a resumed search finds them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ..errors import TrialError
from ..records.run_folder import RunFolder, TrialFolder
from .contract import Job, Outcome, Trial, call_trial, ignore_terminal, outcome_from_json, outcome_to_json, pin

UNWRITTEN = os.EX_IOERR  # exit code of a trial's process that could not write its outcome
PROCESSES = "processes.txt"  # in the engine's folder: a line `pid start kind` for each process of a run


def serve(search: Connection, threads: int, folder: Path) -> None:
    """The warm process: takes `(job, slot, device)`, a number to kill, or `None` to kill all and end.

    It answers `(number, exit code)`, without an exit code where the trial started. The first answer says whether trials
    are forked.
    """
    ignore_terminal()
    pin(0, os.environ.get("CUDA_VISIBLE_DEVICES"), threads)  # the threads, before torch is imported
    trial, settings = search.recv()
    if hasattr(settings, "preload"):
        settings.preload()
    method = os.environ.get("YOLOV5_NAS_START") or ("fork" if is_forkable() else "spawn")  # the variable is for tests
    context: Any = multiprocessing.get_context(method)
    running: dict[int, BaseProcess] = {}
    try:
        search.send(method)
        while (command := _next_command(search, running)) is not None:
            if isinstance(command, int):
                _kill(running.get(command))
                continue
            job, slot, device = command
            args = (search, trial, settings, folder, job, slot, device, threads)
            running[job.number] = context.Process(target=_run, args=args, name=f"trial {job.number}")
            running[job.number].start()
            search.send((job.number, None))
        for process in running.values():
            _kill(process)
    except (EOFError, OSError):  # the search is gone
        for process in running.values():
            process.join()


def _next_command(search: Connection, running: dict[int, BaseProcess]) -> Any:
    """What the search says next; until then it is told which trials ended."""
    while True:
        ready = wait([search, *(process.sentinel for process in running.values())])
        for number, process in list(running.items()):
            if process.sentinel in ready:
                process.join()
                search.send((number, running.pop(number).exitcode))
        if search in ready:
            return search.recv()


def is_forkable() -> bool:
    """Whether a forked copy of this process can use CUDA and has no lock held by a thread that it lacks."""
    opened = {os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()}
    return threading.active_count() == 1 and "/dev/nvidia-uvm" not in opened  # CUDA opens that when it is initialised


def _kill(process: BaseProcess | None) -> None:
    """Kill a trial with its data loaders. Its parent does it, so that the id can't have gone to another process."""
    if process is not None and process.pid and process.exitcode is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has no group of its own yet
            process.kill()


# In the trial's process -----------------------------------------------------------------------------------------------


def _run(
    search: Connection,
    trial: Trial,
    settings: Any,
    folder: Path,
    job: Job,
    slot: int,
    device: str | None,
    threads: int,
) -> None:
    search.close()
    os.setsid()  # a group of its own, to be killed as one
    note_process(folder, os.getpid(), "trial")
    ignore_terminal()
    pin(slot, device or "", threads)
    start = time.monotonic()
    own = RunFolder(folder.parent).trial(job.number)
    result, error = None, None
    try:
        result = call_trial(trial, job, settings, folder.parent)
    except TrialError as e:
        error = {"reason": e.reason, "message": e.message}
    try:
        write_outcome(own, job, Outcome(job.number, time.monotonic() - start, result, error))
    except OSError:
        os._exit(UNWRITTEN)


# Files ----------------------------------------------------------------------------------------------------------------


def write_outcome(folder: TrialFolder, job: Job, outcome: Outcome) -> None:
    """Keep how a trial ended in its folder, so that it isn't lost with the search; whole or not at all."""
    folder.path.mkdir(parents=True, exist_ok=True)
    temporary = folder.outcome.with_suffix(".json.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(outcome_to_json(job, outcome))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder.outcome)


def read_outcome(folder: TrialFolder, job: Job) -> Outcome | None:
    """The outcome that a process of this run left for exactly this job, if any."""
    try:
        return outcome_from_json(folder.outcome.read_text(encoding="utf-8"), job)
    except (OSError, ValueError):
        return None


def note_process(folder: Path, pid: int, kind: str) -> None:
    """Write down a process, so that a resumed run finds it if it is an orphan by then."""
    with (folder / PROCESSES).open("a", encoding="utf-8") as file:
        file.write(f"{pid} {start_of(pid)} {kind}\n")


def stop_orphans(folder: Path, kinds: tuple[str, ...] = ()) -> list[str]:
    """Kill the processes (of some kinds, or all) that are written down in a folder and still run; their kinds."""
    path, found = folder / PROCESSES, []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        number, start, kind = line.split(" ", 2)
        pid = int(number)
        if start == start_of(pid) != "" and (not kinds or kind in kinds):
            found.append(kind)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL) if os.getpgid(pid) == pid else os.kill(pid, signal.SIGKILL)
            _wait_for_end(pid, start)
    if not kinds:
        path.unlink(missing_ok=True)
    return found


def _wait_for_end(pid: int, start: str) -> None:
    for _ in range(1200):  # a minute, since a process with much memory takes its time on a busy machine
        if start_of(pid) != start:
            return
        time.sleep(0.05)


def start_of(pid: int) -> str:
    """When a process started, in clock ticks since the machine did (unique with the pid); "" if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]  # state; starttime, field 22 of proc(5)
