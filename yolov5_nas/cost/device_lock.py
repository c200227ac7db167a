"""Trainings and measurements take turns on a device: while a model is timed, no other work of ours runs there.

Trainings of this machine share a device batch by batch; a measurement has it alone, and afterwards leaves it to the
trainings for longer than it had it itself. The locks are on files in the system's temporary folder. The system releases
them when a process ends, so they hold between all engines and searches of a user.
"""

from __future__ import annotations

import contextlib
import getpass
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import IO, Any

import portalocker
from portalocker import LockFlags

SHARE = 2.0  # trainings get the device for this many times as long as the measurement before took
PRESENT = 5.0  # seconds for which a training counts as there after the start of its last batch
NOTICE = 60.0  # seconds after which whoever waits says so
PATIENCE = 300.0  # seconds after which whoever holds the device counts as stuck
POLL = 0.02  # seconds between two tries to get a lock


class DeviceLock:
    """The lock of one device.

    Args:
        device: "cpu", "mps" or "cuda:0". Which GPU that is, `CUDA_VISIBLE_DEVICES` tells.
        patience: seconds after which a holder that hangs or was stopped is no longer waited for.
        clock, sleep: seconds since the epoch, and waiting for some; tests have their own.
    """

    def __init__(
        self,
        device: str,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ):
        name = physical(device).replace(":", "-").replace("/", "-")
        folder = own_folder(Path(tempfile.gettempdir()))
        # Whoever wants the device alone holds `queue` too, so that trainings can't keep it waiting for ever.
        self.queue, self.device = folder / f"{name}.queue", folder / f"{name}.device"
        # Files whose time of change says until when trainings have the device, and when one was last there.
        self.until, self.seen = folder / f"{name}.until", folder / f"{name}.seen"
        self.name, self.patience, self.clock, self.sleep = device, patience, clock, sleep

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Have the device alone: waits until it is no longer the trainings' turn and no batch is being trained."""
        with contextlib.ExitStack() as stack:
            while True:
                while self._is_for_trainings():
                    self.sleep(POLL)
                stack.enter_context(self._held(self.queue, LockFlags.EXCLUSIVE, self.clock()))
                if not self._is_for_trainings():
                    break
                stack.close()  # another measurement has ended in between
            stack.enter_context(self._held(self.device, LockFlags.EXCLUSIVE, self.clock()))
            start = self.clock()
            self._mark(self.queue, start)
            try:
                yield
            finally:
                end = self.clock()
                self._mark(self.until, end + SHARE * (end - start))

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Share the device with other trainings: waits while a measurement has it or is about to."""
        start = self.clock()
        with self._held(self.queue, LockFlags.SHARED, start):
            pass
        with self._held(self.device, LockFlags.SHARED, start):
            yield

    def _is_for_trainings(self) -> bool:
        """Whether the last measurement has left the device to trainings, and some are there."""
        now = self.clock()
        if not now < _changed(self.until) < now + SHARE * self.patience:  # beyond that the clock was set back
            return False
        if now - _changed(self.seen) < PRESENT:
            return True
        file = _locked(self.device, LockFlags.EXCLUSIVE)
        if file:
            file.close()
        return file is None  # a long batch

    @contextlib.contextmanager
    def _held(self, path: Path, kind: LockFlags, start: float) -> Iterator[None]:
        """A lock on a file, waited for since `start`. The file's time of change is when it was last taken."""
        said = False
        while (file := _locked(path, kind)) is None:
            now = self.clock()
            if kind == LockFlags.SHARED:
                self._mark(self.seen, now)
            if now - start > NOTICE and not said:
                print(f"still waiting for the device {self.name} after {NOTICE:g} s: others measure or train there")
                said = True
            if now - max(start, _changed(path)) > self.patience:
                print(f"the device {self.name} was not given back in {self.patience:g} s: going on without its holder")
                with contextlib.suppress(OSError):
                    path.unlink()  # the holder keeps a file that nobody looks at any more
            self.sleep(POLL)
        try:
            now = self.clock()
            self._mark(path, now)
            if kind == LockFlags.SHARED:
                self._mark(self.seen, now)
            yield
        finally:
            file.close()

    def _mark(self, path: Path, when: float) -> None:
        with contextlib.suppress(OSError):  # another process has set it aside
            path.touch()
            os.utime(path, (when, when))


def physical(device: str) -> str:
    """What a device is called whichever of them a process sees: "cuda:1" is `cuda-3` where it sees GPUs 2 and 3."""
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return device
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    place = int(index or 0)
    return f"cuda-{visible[place] if place < len(visible) else place}"


def own_folder(parent: Path) -> Path:
    """A folder for locks that nobody but this user writes to; the same for all processes of the user."""
    user = str(os.getuid()) if hasattr(os, "getuid") else getpass.getuser()
    for number in itertools.count():
        folder = parent / (f"yolov5-nas-{user}" + (f"-{number}" if number else ""))
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
            is_own = not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()
            if is_own and os.access(folder, os.W_OK | os.X_OK):
                return folder
        if number > 100:
            break
    return Path(tempfile.mkdtemp(prefix="yolov5-nas-"))


def _locked(path: Path, kind: LockFlags) -> IO[str] | None:
    """The file, locked until it is closed; None where it can't be now."""
    try:
        file = path.open("a", encoding="utf-8")
    except PermissionError:  # of another user who shares the folder's one, such as root
        path.unlink(missing_ok=True)
        file = path.open("a", encoding="utf-8")
    try:
        portalocker.lock(file, kind | LockFlags.NON_BLOCKING)
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
    except (portalocker.LockException, FileNotFoundError):  # held, or set aside just now
        pass
    file.close()
    return None


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


class LockedLoader:
    """A data loader whose batches are loaded and used in turns with measurements; else as the loader itself."""

    def __init__(self, loader: Any, lock: DeviceLock):
        self.loader, self.lock = loader, lock
        self.current: Generator[Any, None, None] | None = None

    def __iter__(self) -> Iterator[Any]:
        self.current = self._batches()
        return self.current

    def close(self) -> None:
        """End the turn of a loop that an exception left."""
        if self.current:
            self.current.close()

    def _batches(self) -> Generator[Any, None, None]:
        batches = iter(self.loader)  # worker processes start here, with no lock open that they would inherit
        while True:
            with self.lock.training():
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                yield batch

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)
