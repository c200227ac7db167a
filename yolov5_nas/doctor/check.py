"""What was found of one thing that a search may use, and its line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ..errors import UserError

OK, ABSENT, BROKEN = "✓", "-", "✗"
PLAIN = {OK: "ok", BROKEN: "!!"}  # for terminals that have no such characters


@dataclass(frozen=True)
class Check:
    """What was found of one thing.

    Args:
        mark: `OK`, `ABSENT` (a search runs without it) or `BROKEN`.
        fix: what to do about it; of a thing that is `OK`, what to do where trying it fails.
        attempt: tries the thing, and returns the check with what came of it.
    """

    name: str
    mark: str
    text: str
    fix: str = ""
    attempt: Callable[[Check], Check] | None = None

    def tried(self) -> Check:
        """The check after its attempt, if it has one."""
        try:
            return self.attempt(self) if self.attempt else self
        except UserError as e:
            return replace(self, mark=BROKEN, text=str(e))
        except (Exception, SystemExit) as e:  # a broken installation can raise anything
            return replace(self, mark=BROKEN, text=first_line(e))


def lines(check: Check, encoding: str | None) -> list[str]:
    """A check as lines of text, in characters that the terminal has."""
    encoding = encoding or "ascii"
    try:
        mark = check.mark.encode(encoding).decode(encoding)
    except (UnicodeEncodeError, LookupError):
        mark, encoding = PLAIN[check.mark], "ascii"
    text = [f"{mark:<2} {check.name:<25} {check.text}"]
    if check.fix and check.mark != OK:
        text.append(f"{'':<28} -> {check.fix}")
    return [line.encode(encoding, "backslashreplace").decode(encoding) for line in text]


def first_line(e: BaseException) -> str:
    return f"{type(e).__name__}: {e}".splitlines()[0][:300]
