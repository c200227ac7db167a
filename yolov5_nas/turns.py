"""Trainings and latency measurements take turns on a device: while one is timed, no other work of ours runs there.

Trainings of this machine share a device batch by batch; a measurement has it alone. Both are locks on files (flock) in
the system's temporary folder, which the system releases when a process dies, so they hold between all engines and
searches of a user. Where there is no flock (Windows), nobody waits.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class Turns:
    """The turns on one device.

    Args:
        device: "cpu", "mps" or "cuda:0". Which GPU that is, `CUDA_VISIBLE_DEVICES` tells.
    """

    def __init__(self, device: str):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "") if device.startswith("cuda") else ""
        name = f"{device}-{visible}".replace(":", "-").replace(",", "-").replace("/", "-").rstrip("-")
        self.folder = Path(tempfile.gettempdir(), f"yolov5-nas-{os.getuid() if hasattr(os, 'getuid') else 'user'}")
        self.folder.mkdir(mode=0o700, exist_ok=True)
        # Whoever wants the device alone holds `queue` while waiting, so that trainings can't keep it waiting for ever.
        self.queue, self.device = self.folder / f"{name}.queue", self.folder / f"{name}.device"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Waits until no batch is being trained, and keeps further ones waiting."""
        with _lock(self.queue, shared=False), _lock(self.device, shared=False):
            yield

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Waits while a measurement runs."""
        with _lock(self.queue, shared=True):
            pass
        with _lock(self.device, shared=True):
            yield


class InTurns:
    """A data loader whose batches are loaded and used in turns with measurements; else as the loader itself."""

    def __init__(self, loader: Any, turns: Turns):
        self.loader, self.turns = loader, turns
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
            with self.turns.shared():
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                yield batch

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


@contextlib.contextmanager
def _lock(path: Path, shared: bool) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    file: IO[str]
    with path.open("a") as file:  # closing it releases the lock
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
