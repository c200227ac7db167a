"""Errors that meet a user: which rule was broken, what was got, what is accepted, where."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path

# A machine's fault, whatever was tried on it: a full or broken disk or too many open files; and no permission, or a
# network disk that is gone.
_DISK = ("ENOSPC", "EDQUOT", "EROFS", "EIO", "EMFILE", "ENFILE", "EFBIG")
_OTHERS = ("EACCES", "EPERM", "ENOMEM", "ESTALE", "ENOTCONN", "ETIMEDOUT", "ENOLCK", "EREMOTEIO", "EHOSTDOWN", "ENODEV")
DISK_FAULTS = {getattr(errno, name) for name in _DISK if hasattr(errno, name)}
_FAULTS = DISK_FAULTS | {getattr(errno, name) for name in _OTHERS if hasattr(errno, name)}
_IN_WORDS = {  # what torch says, and what it means
    r"PytorchStreamWriter failed|unexpected pos|iostream error|No space left on device": (
        "a file can't be written whole: the disk is full or was taken away"
    ),
    r"Too many open files|ancdata": "too many files are open: ulimit -n 4096 allows more, --workers 0 needs fewer",
    r"unable to (open shared memory|mmap)": "shared memory (/dev/shm) is full: --workers 0 needs none",
    r"DataLoader worker \(pid.*(exited unexpectedly|killed by signal)": (
        "a process that loads images was killed, as where memory or /dev/shm is full: --workers 0 needs none"
    ),
}
SHOWN = 500  # characters of what was got


class UserError(ValueError):
    """Something the user gave can't be taken; the command line prints it as one line and exits with code 2.

    Args:
        rule: what must hold.
        got: what was found instead (shown with repr, a long one in part), if anything.
        accepted: what would be taken, if it can be listed.
        file: the file it was found in.
        line: the line in that file, counted from 1.
    """

    def __init__(
        self,
        rule: str,
        *,
        got: object = None,
        accepted: Iterable[object] | str | None = None,
        file: str | Path | None = None,
        line: int | None = None,
    ):
        where = f"{file}:{line}: " if file and line else f"{file}: " if file else ""
        text = where + rule
        if got is not None:
            text += f", got {_short(repr(got))}"
        if accepted is not None:
            text += "; accepted: " + (accepted if isinstance(accepted, str) else ", ".join(map(str, accepted)))
        super().__init__(text)
        self.rule, self.got, self.file, self.line = rule, got, file, line


def _short(shown: str) -> str:
    return shown if len(shown) <= SHOWN else f"{shown[: SHOWN - 20]} ... {shown[-15:]}"


class TrialError(RuntimeError):
    """A trial ended without a result; `reason` is one of `journal.REASONS`."""

    def __init__(self, reason: str, message: str):
        super().__init__(reason, message)  # both, so that it survives pickling between processes
        self.reason, self.message = reason, message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


def machine_fault(error: BaseException) -> str | None:
    """What is wrong with the machine, where an error is its fault and not that of what was tried; else None."""
    text = str(error)
    if isinstance(error, OSError):
        said = re.search(r"\[Errno (\d+)\]", text)  # one of a loader's process has its number in words alone
        number = error.errno or (int(said[1]) if said else None)
        if number is not None and number in _FAULTS:
            return os.strerror(number) + (f": {error.filename}" if error.filename else "")
    if isinstance(error, RuntimeError):
        for pattern, meaning in _IN_WORDS.items():
            if found := re.search(pattern, text):
                line = next((line for line in text.splitlines() if found[0] in line), found[0])
                return f"{meaning} ({line.strip()[:300]})"
    return None
