"""Where files lie: the shipped ones, those that a user names, and the folder of a new run."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

from .errors import UserError

NO_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES)  # errors of looking at a name
LITERAL = ("/", "~", f".{os.sep}", f"..{os.sep}")  # how a name begins that is no other file's
PACKAGE = Path(__file__).resolve().parent


def shipped(folder: str) -> Path:
    """The shipped `models`, `data` or `hooks` folder: inside an installed package, beside it in a source checkout."""
    inside = PACKAGE / folder
    return inside if inside.is_dir() else PACKAGE.parent / folder


def at_home(name: str | Path) -> Path:
    """Return the path that a user named, `~` being their home.

    Raises:
        UserError: `~NAME` names no user.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError as e:
        raise UserError(f"no path ({e})", got=str(name)) from None


def given_path(name: str | Path) -> Path:
    """Return the path that a user named, whether or not there is anything.

    Raises:
        UserError: there can't be: the name is too long or has a NUL, its links go round, or it may not be looked at.
    """
    path = at_home(name)
    try:
        os.stat(path)  # noqa: PTH116
    except ValueError as e:  # of a NUL
        raise UserError(f"no path ({e})", got=str(name)) from None
    except OSError as e:
        if e.errno in NO_PATH:
            raise UserError(f"no path ({e.strerror})", got=str(name)) from None
    return path


def check_encoding(path: Path) -> None:
    """Check that a path can be written as UTF-8, which torch, ONNX and TensorBoard do with every path.

    Raises:
        UserError: it has other bytes, or the locale's encoding can't read them.
    """
    try:
        str(path).encode()
        os.fsencode(path)
    except UnicodeEncodeError:
        encoding = sys.getfilesystemencoding()
        accepted = "a name in UTF-8" if encoding == "utf-8" else "a name in that, or the variable PYTHONUTF8=1"
        rule = f"a path must be text in the locale's encoding ({encoding})"
        raise UserError(rule, got=str(path), accepted=accepted) from None


def absolute(name: str | Path) -> Path:
    """The absolute path of what a user named. Links are kept: what lies beside one is meant.

    Raises:
        UserError: as `given_path`.
    """
    return _absolute(given_path(name))


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100  # `resolve` follows links


def find_file(name: str | Path, folders: Sequence[Path], what: str) -> Path:
    """The absolute path of a file named by the user: as given, else below the folders.

    A name without a folder is found anywhere below them; one with a folder (`hub/yolov5n.yaml`, `data/coco128.yaml`)
    only so, since another file of the same last part is another file. One that begins with `./`, `../`, `~` or `/` is
    that file and no other.

    Args:
        what: what the file is, for the message: "model YAML (--cfg)".

    Raises:
        UserError: there is no such file (names like it, and the places that were looked into, are listed).
    """
    path = _absolute(at_home(name))
    if is_file(path):
        return path
    given = Path(name)
    below = [] if str(name).startswith(LITERAL) else list(map(Path, folders))
    for folder in below:
        if len(given.parts) < 2:
            others = sorted(p for p in folder.rglob("*") if p.name == given.name)
        else:
            others = [folder.parent / given] if given.parts[0] == folder.name else []
        for candidate in (folder / given, *others):
            if is_file(candidate):
                return _absolute(candidate)
    if is_folder(path):
        raise UserError(f"{what} must be a file, not a folder", got=str(name))
    near = _near(path, below)
    places = ", ".join(str(place) for place in (path.parent, *below) if is_folder(place))
    accepted = "; ".join(filter(None, [near, f"a file in {places}" if places else "a file"]))
    raise UserError(f"{what} does not exist", got=str(name), accepted=accepted)


def is_file(path: Path) -> bool:
    """Whether it is a file; a name that the system can't have is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """As `is_file`, of a folder."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _near(path: Path, folders: Sequence[Path]) -> str:
    """Files with names like a path's, beside it or below the folders."""
    beside: list[Path] = []
    if is_folder(path.parent):
        with contextlib.suppress(OSError):
            beside = [p for p in path.parent.iterdir() if p.suffix == path.suffix and is_file(p)]
    below = [p for folder in folders for p in folder.rglob(f"*{path.suffix}")] if path.suffix else []
    known = {p.stem: p.name for p in below} | {p.stem: str(p) for p in beside}  # the endings are alike anyway
    return ", ".join(known[stem] for stem in difflib.get_close_matches(path.stem, known))


def write_whole(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all, whoever else writes it. A path in it may have any bytes."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.write_text(text, encoding="utf-8", errors="surrogateescape")
    temporary.replace(path)


def increment_path(path: Path, exist_ok: bool = False) -> Path:
    """`runs/nas/exp`, or where that exists `exp2`, `exp3`, ... as YOLOv5 numbers its runs."""
    if exist_ok or not path.exists():
        return path
    return next(p for n in range(2, 10_000) if not (p := path.with_name(f"{path.name}{n}")).exists())


def make_folder(path: Path) -> Path:
    """Create a folder, and those above it.

    Raises:
        UserError: it can't be written. None is left then that was not there.
    """
    check_encoding(path)
    made = [folder for folder in (path, *path.parents) if not is_folder(folder)]
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".write-test"
        probe.touch()
        probe.unlink()
    except OSError as e:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise UserError(f"the folder can't be written ({e.strerror})", got=str(path)) from None
    return path
