"""Where files lie: the shipped ones, those that a user names, and the folder of a new run."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path

from .errors import UserError

PACKAGE = Path(__file__).resolve().parent


def shipped(folder: str) -> Path:
    """The shipped `models`, `data` or `hooks` folder: inside an installed package, beside it in a source checkout."""
    inside = PACKAGE / folder
    return inside if inside.is_dir() else PACKAGE.parent / folder


def find_file(name: str | Path, folders: Sequence[Path], what: str) -> Path:
    """The absolute path of a file named by the user: as given, else the first of that name below the folders.

    Args:
        what: what the file is, for the message: "model YAML (--cfg)".

    Raises:
        UserError: there is no such file (the places that were looked into are listed).
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path.resolve()
    if not path.is_absolute():
        for folder in folders:
            for candidate in (folder / path, *sorted(folder.rglob(path.name))):
                if candidate.is_file():
                    return candidate.resolve()
    looked = ["the working directory", *map(str, folders)] if not path.is_absolute() else [str(path.parent)]
    raise UserError(f"{what} not found", got=str(name), accepted="a file in " + ", ".join(looked))


def write_whole(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all, whoever else writes it."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def increment_path(path: Path, exist_ok: bool = False) -> Path:
    """`runs/nas/exp`, or where that exists `exp2`, `exp3`, ... as YOLOv5 numbers its runs."""
    if exist_ok or not path.exists():
        return path
    return next(p for n in range(2, 10_000) if not (p := path.with_name(f"{path.name}{n}")).exists())


def make_folder(path: Path) -> Path:
    """Create a folder.

    Raises:
        UserError: it can't be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".write-test"
        probe.touch()
        probe.unlink()
    except OSError as e:
        raise UserError(f"the folder can't be written ({e.strerror})", got=str(path)) from None
    return path
