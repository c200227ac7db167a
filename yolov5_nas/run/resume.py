"""A run that goes on: which options may change, and who holds its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import UserError
from ..files import absolute, is_file
from ..host.dataset import find_data
from ..host.locate import PACKAGE, find
from ..records.hooks import split
from ..records.option_rules import PARENT
from ..records.options import MAY_CHANGE, Options, load_options
from ..records.run_folder import REFERENCE, RunFolder
from .inputs import check_same_files, read_inputs
from .prepare import check_onnx

MOVABLE = ("data", "weights", "distill", "yolov5")  # files that may lie elsewhere now


def resumed_options(folder: Path, given: Mapping[str, Any]) -> Options:
    """The options of a run that goes on, with what may change taken from the user.

    Raises:
        UserError: the folder is no run, an option is given that differs and may not, or a file is not what it was.
    """
    if not is_file(RunFolder(folder).options):
        raise UserError("--resume must name the folder of a run (with its search.yaml)", got=str(folder))
    old = Options().with_given(load_options(RunFolder(folder).options))
    new = old.with_given(given)
    may_change = (*MAY_CHANGE, "target") if old.replaces else MAY_CHANGE  # a finished table is planned again
    known = read_inputs(folder) or {}
    movable = [name for name in MOVABLE if _is_gone(getattr(old, name)) or name in known]
    for name, value in given.items():
        if name not in (*may_change, *movable) and not _same(name, getattr(old, name), getattr(new, name)):
            raise UserError(
                f"a resumed run keeps its options: {name} is {getattr(old, name)!r} in {folder}/search.yaml",
                got=value,
                accepted="changes of " + ", ".join(may_change),
            )
    host = given.get("yolov5") or old.yolov5
    moved: dict[str, Any] = {name: _place(name, given[name], host) for name in movable if given.get(name)}
    resumed = replace(old, **{name: getattr(new, name) for name in may_change}, **moved)
    check_onnx(resumed)
    copied = [name for name in ("cfg", "hyp", "inherit_hyp") if name in given]  # the run has copies of these
    check_same_files(folder, resumed, [*_checkpoints(folder, resumed), "reward", *copied])
    return resumed


def _place(name: str, given: str, host: str | None) -> str:
    """Where a file lies that a user named, as a run's options have it."""
    if name == "data":
        return str(find_data(given, find(host).root))
    return given if given in (PARENT, PACKAGE) else str(absolute(given))


def _is_gone(file: str | None) -> bool:
    """Whether a file of the run's options does not lie any more where it did."""
    return bool(file) and file not in (PARENT, PACKAGE) and not Path(str(file)).exists()


def _checkpoints(folder: Path, o: Options) -> list[str]:
    """Return the options whose checkpoints trials start or learn from.

    Raises:
        UserError: one of them is gone, so that all further trials would fail.
    """
    files = RunFolder(folder)
    base = (files.parent if o.replaces else files).trial(REFERENCE).weights
    shared = files.supernet.trial(REFERENCE).weights
    has_own = (o.base_epochs and base.is_file()) or (o.one_shot and shared.is_file())  # from which trials start
    needed = {"weights": None if has_own else o.weights, "distill": o.distill}
    for name, file in needed.items():
        if _is_gone(file):
            accepted = f"--{name} with the place where it lies now"
            raise UserError("what the run's trials start from is gone", got=file, accepted=accepted)
    return [name for name, file in needed.items() if file]


def _same(name: str, old: Any, new: Any) -> bool:
    """Whether two values of an option mean the same; a file named bare is the one that was found by that name."""
    if name == "hook":
        return len(old) == len(new) and all(map(_same_hook, old, new))
    if name in ("cfg", "data", "hyp", "inherit_hyp", "weights", "distill", "yolov5") and old and new:
        return Path(old) == absolute(new) or Path(old).resolve() == absolute(new).resolve() or Path(old).name == new
    return bool(old == new)


def _same_hook(old: str, new: str) -> bool:
    (file, *settings), (new_file, *new_settings) = split(old), split(new)
    same = _same("cfg", file, new_file) or Path(file).name == f"{new_file}.py"
    return same and list(map(_setting, settings)) == list(map(_setting, new_settings))


def _setting(text: str) -> tuple[str, str | float]:
    """A hook's `NAME=value`, numbers as such: 5 is 5.0."""
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        return name, value


def hold(folder: Path) -> FileLock:
    """Holds the run's folder against a second process.

    Raises:
        UserError: another search is writing to it.
    """
    lock = FileLock(RunFolder(folder).lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError("another search is running in this folder", file=folder) from None
    return lock
