"""Errors that meet a user: which rule was broken, what was got, what is accepted, where."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path

# No space, no permission, a broken disk, too many open files: a machine's, whatever was tried on it.
_MACHINES = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENFILE),
    *(errno.ENOMEM, errno.EFBIG),
}
_WRITING = re.compile(
    "PytorchStreamWriter failed|unexpected pos|iostream error|No space left on device"
)  # torch's words

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
    if isinstance(error, OSError) and error.errno in _MACHINES:
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror or os.strerror(error.errno)}{where}"
    if isinstance(error, RuntimeError) and _WRITING.search(str(error)):
        return f"a file can't be written ({str(error).splitlines()[0][:200]})"
    return None
