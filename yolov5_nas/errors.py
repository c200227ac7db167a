"""Errors that meet a user: which rule was broken, what was got, what is accepted, where."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


class UserError(ValueError):
    """Something the user gave can't be taken; the command line prints it as one line and exits with code 2.

    Args:
        rule: what must hold.
        got: what was found instead (shown with repr), if anything.
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
            text += f", got {got!r}"
        if accepted is not None:
            text += "; accepted: " + (accepted if isinstance(accepted, str) else ", ".join(map(str, accepted)))
        super().__init__(text)
        self.rule, self.got, self.file, self.line = rule, got, file, line


class TrialError(RuntimeError):
    """A trial ended without a result; `reason` is one of `journal.REASONS`."""

    def __init__(self, reason: str, message: str):
        super().__init__(reason, message)  # both, so that it survives pickling between processes
        self.reason, self.message = reason, message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"
