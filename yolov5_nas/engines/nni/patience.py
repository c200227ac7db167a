"""How long the engine waits for a program, whatever else keeps the machine busy."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

MOST = 10  # times as long as on an idle machine


class Patience:
    """A deadline that a busy machine puts off.

    Seconds in which this process or one of those it waits for was ready to run, and no processor was free, don't count.
    So a program that is alive and slow gets its time, and one that hangs does not. At the latest, the deadline passes
    after `MOST` times as many seconds. Where the kernel does not tell such times, all seconds count.

    Args:
        seconds: on an idle machine.
        pids: of the processes that are waited for.
    """

    def __init__(self, seconds: float, *pids: int):
        self.seconds, self.began = seconds, time.monotonic()
        self._before = {pid: run_delay(pid) for pid in (os.getpid(), *pids)}

    def watch(self, pid: int) -> None:
        """Wait for one more process, which has just started; another thread may be asking meanwhile."""
        self._before = {**self._before, pid: 0.0}

    def is_over(self) -> bool:
        """Return whether the deadline has passed."""
        elapsed = time.monotonic() - self.began
        delayed = sum(max(0.0, run_delay(pid) - before) for pid, before in self._before.items())
        return max(elapsed - delayed, elapsed / MOST) > self.seconds

    def wait(self, condition: Callable[[], bool]) -> bool:
        """Wait until a condition holds; return whether it did before the deadline."""
        while not condition():
            if self.is_over():
                return False
            time.sleep(0.05)
        return True


def run_delay(pid: int) -> float:
    """Return for how many seconds the threads of a process have waited for a processor; 0 where that is not told."""
    delay = 0
    with suppress(OSError, ValueError, IndexError):  # the process, or one of its threads, has just ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                delay += int((task / "schedstat").read_text(encoding="ascii").split()[1])  # nanoseconds
    return delay / 1e9
