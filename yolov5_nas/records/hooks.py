"""Hooks: functions of a user's file that run at named points of a search and of its trials.

A hook travels as its text, so that it is the same in every process and on every machine, and after a resume.
"""

from __future__ import annotations

import functools
import inspect
import linecache
import math
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from ..errors import DISK_FAULTS, UserError
from ..files import at_home, find_file, is_file, make_folder, shipped
from .journal import TrialRecord
from .metrics import is_own
from .run_folder import RunFolder

# By point: the arguments that its functions may take. Each function gets those that it names.
POINTS = {
    "on_search_start": ("run", "options"),
    "on_trial_start": ("trial",),
    "on_train_epoch_end": ("epoch", "model", "folder"),
    "on_fit_epoch_end": ("vals", "epoch", "best_fitness", "fi", "model", "folder"),
    "on_trial_end": ("trial",),
    "on_search_end": ("run", "trials"),
    "measure": ("model", "imgsz", "device"),
}


@dataclass(frozen=True)
class Hook:
    """A hook file as it was when the search began.

    Args:
        file: its path.
        text: its contents.
        settings: new values for constants of the file, as (name, value).

    Raises:
        UserError: it can't be run, or has no function of a point or one of an unknown point.
    """

    file: str
    text: str
    settings: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        try:
            found = vars(_module(self))
        except (Exception, SystemExit) as e:  # a user's file can raise anything
            problem = f"a hook file must be importable ({type(e).__name__}: {e})"
            raise UserError(problem, file=self.file, line=_line_of(e, self.file)) from None
        for name, value in found.items():
            if name in POINTS or name.startswith("on_"):
                self._check(name, value)
        if not self.functions:
            raise UserError("a hook file must have a function of a known point", accepted=POINTS, file=self.file)

    @property
    def name(self) -> str:
        """The file's name."""
        return Path(self.file).name

    @property
    def functions(self) -> dict[str, Callable[..., Any]]:
        """Its functions, by point."""
        return {name: value for name, value in vars(_module(self)).items() if name in POINTS}

    def _check(self, name: str, value: Any) -> None:
        """Raise a UserError unless a point has this name, and the function takes what there is to take."""
        line = getattr(getattr(value, "__code__", None), "co_firstlineno", None)
        if name not in POINTS:
            raise UserError("unknown hook", got=name, accepted=POINTS, file=self.file, line=line)
        if not callable(value):
            raise UserError(f"{name} must be a function", got=value, file=self.file)
        for parameter in inspect.signature(value).parameters.values():
            optional = parameter.default is not parameter.empty or parameter.kind in (
                parameter.VAR_KEYWORD,
                parameter.VAR_POSITIONAL,
            )
            if not optional and parameter.name not in POINTS[name]:
                rule = f"{name} can't take such an argument"
                raise UserError(rule, got=parameter.name, accepted=POINTS[name], file=self.file, line=line)


def find_hook(given: str) -> Hook:
    """The hook that `--hook` names: a file, or one of the shipped ones by its name, and settings after it.

    >>> find_hook("energy SECONDS=5").settings
    (('SECONDS', 5.0),)

    Raises:
        UserError: there is no such file, it is no hook file, or a setting names no constant of it.
    """
    name, *settings = split(given)
    names = [name] if name.endswith(".py") else [name, name + ".py"]
    known = [n for n in names if is_file(at_home(n)) or is_file(shipped("hooks") / n)]
    path = find_file(next(iter(known), names[-1]), [shipped("hooks")], "hook file (--hook)")
    return read_hook(path, settings)


def read_hook(path: Path, settings: Iterable[str] = ()) -> Hook:
    """The hook in a file, with settings `NAME=value`.

    Raises:
        UserError: it is no hook file, or a setting names no constant of it.
    """
    try:
        plain = Hook(str(path), path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"the hook file can't be read ({e})", file=path) from None
    constants = {n: v for n, v in vars(_module(plain)).items() if n.isupper() and isinstance(v, str | int | float)}
    return Hook(plain.file, plain.text, tuple(_setting(text, constants, path) for text in settings))


def split(given: str) -> list[str]:
    """The words of a `--hook`: the file, and settings, quoted as in a shell where they hold spaces.

    >>> split("remote_latency HOST=pi@10.0.0.7 'COMMAND=python3 time.py {model}'")
    ['remote_latency', 'HOST=pi@10.0.0.7', 'COMMAND=python3 time.py {model}']
    """
    if is_file(at_home(given)):
        return [given]
    try:
        words = shlex.split(given)
    except ValueError as e:
        raise UserError(f"--hook can't be read ({e})", got=given) from None
    if not words:
        raise UserError("--hook must name a file", got=given)
    return words


def keep_hooks(folder: Path, hooks: Iterable[Hook]) -> None:
    """Copy the hook files into a run's folder."""
    for hook in hooks:
        (make_folder(RunFolder(folder).hooks) / hook.name).write_text(hook.text, encoding="utf-8")


def kept_hooks(folder: Path, given: Iterable[str]) -> tuple[Hook, ...]:
    """The hooks of a run, from its own copies; says where the file of one has changed since.

    Args:
        given: as they stand in `search.yaml`.
    """
    return tuple(_kept(folder, *split(text)) for text in given)


def _kept(folder: Path, file: str, *settings: str) -> Hook:
    copy, original = RunFolder(folder).hooks / Path(file).name, Path(file)
    if original.is_file() and original.read_text(errors="replace", encoding="utf-8") != copy.read_text(
        errors="replace", encoding="utf-8"
    ):
        print(f"{original} has changed since the search began; it goes on with its copy, {copy}")
    return read_hook(copy, settings)


def as_given(hook: Hook) -> str:
    """A hook as `--hook` would name it."""
    return shlex.join([hook.file, *(f"{name}={value}" for name, value in hook.settings)])


class Hooks:
    """Calls hooks. A function that raises is reported once, and the others go on.

    Args:
        log: gets the tracebacks, and the terminal a line; without it they are printed.
    """

    def __init__(self, hooks: Sequence[Hook], log: Path | None = None):
        self.hooks, self.log = hooks, log
        self.problems: dict[str, str] = {}  # what was reported, by file and function: "energy.py measure"

    def call(self, point: str, **given: Any) -> None:
        """Call every function of a point with what it names of the arguments."""
        for hook in self.hooks:
            self._run(hook, point, given)

    def measured(self, model: Any, imgsz: int, device: str) -> dict[str, float]:
        """The numbers that the `measure` functions return, except what is not finite or has the name of one of ours.

        Args:
            model: a YOLOv5 model in eval mode on the device; each function gets a copy.
            imgsz: in pixels.
            device: "cpu", "mps" or "cuda:0".
        """
        metrics: dict[str, float] = {}
        for hook in self.hooks:
            if self._function(hook, "measure"):
                value = self._run(hook, "measure", {"model": deepcopy(model), "imgsz": imgsz, "device": device})
                metrics |= self._numbers(hook, value)
        return metrics

    def started(self, record: TrialRecord) -> None:
        """Called with the record of each trial that starts."""
        self.call("on_trial_start", trial=record)

    def ended(self, record: TrialRecord) -> None:
        """A listener of the search: prints the hook problems that a trial recorded, and calls `on_trial_end`."""
        for name, problem in record.conditions.get("hooks", {}).items():
            if name not in self.problems:
                self.problems[name] = problem
                print(f"hook {name}: {problem} (traceback in the log of trial {record.number})", flush=True)
        self.call("on_trial_end", trial=record)

    def _function(self, hook: Hook, point: str) -> Callable[..., Any] | None:
        try:
            return hook.functions.get(point)
        except (Exception, SystemExit) as e:  # another machine may lack what the file imports
            self._report(hook, "import", f"{type(e).__name__}: {e}", traceback.format_exc())
            return None

    def _run(self, hook: Hook, point: str, given: Mapping[str, Any]) -> Any:
        """What the hook's function of a point returns; None where it has none, or where it raised."""
        if not (function := self._function(hook, point)):
            return None
        try:
            return function(**_named(function, given))
        except (Exception, SystemExit) as e:  # a user's function can raise anything
            if point == "measure" and isinstance(e, OSError) and e.errno in DISK_FAULTS:
                raise
            self._report(hook, point, f"{type(e).__name__}: {e}", traceback.format_exc())
            return None

    def _numbers(self, hook: Hook, value: Any) -> dict[str, float]:
        """The metrics among what `measure` returned."""
        if not isinstance(value, Mapping):
            self._report(hook, "measure", f"it must return a dict of numbers, got {value!r}")
            return {}
        numbers = {str(name): _plain(number) for name, number in value.items()}
        for name, number in list(numbers.items()):
            if not is_own(name):
                self._report(hook, "measure", f"a metric can't be named {name!r}")
                del numbers[name]
            elif number is None:
                self._report(hook, "measure", f"it must return finite numbers, got {name} = {value[name]!r}")
                del numbers[name]
        return numbers  # type: ignore[return-value]

    def _report(self, hook: Hook, point: str, problem: str, details: str = "") -> None:
        name, problem = f"{hook.name} {point}", problem.splitlines()[0][:500]
        if name in self.problems:
            return
        self.problems[name] = problem
        if not self.log:
            print(f"hook {name}: {problem}\n{details}", flush=True)
            return
        with self.log.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} hook {name}: {problem}\n{details}\n")
        print(f"hook {name}: {problem} (traceback in {self.log})", flush=True)


def _plain(number: Any) -> float | None:
    """A number of Python's, numpy's or torch's as Python's; None for all else, and for what is not finite."""
    if hasattr(number, "item"):
        try:
            number = number.item()
        except (ValueError, RuntimeError):  # an array of several
            return None
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    return number if is_number and math.isfinite(number) else None


def _named(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Of the arguments those that the function names."""
    parameters = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return dict(given)
    return {name: value for name, value in given.items() if name in parameters}


@functools.cache
def _module(hook: Hook) -> ModuleType:
    """The hook's file, run once in this process."""
    module = ModuleType(f"hook_{Path(hook.file).stem}")
    module.__file__ = hook.file
    sys.modules[module.__name__] = module  # dataclasses look there
    linecache.cache[hook.file] = (len(hook.text), None, hook.text.splitlines(True), hook.file)  # for tracebacks
    exec(compile(hook.text, hook.file, "exec"), vars(module))
    vars(module).update(hook.settings)
    return module


def _line_of(e: BaseException, file: str) -> int | None:
    """The line of the file at which an error arose."""
    if isinstance(e, SyntaxError) and e.filename == file:
        return e.lineno
    lines = [frame.lineno for frame in traceback.extract_tb(e.__traceback__) if frame.filename == file]
    return lines[-1] if lines else None


def _setting(text: str, constants: Mapping[str, Any], path: Path) -> tuple[str, Any]:
    name, equals, given = text.partition("=")
    if not equals or name not in constants:
        raise UserError(
            "a setting must be NAME=value of a constant of the file", got=text, accepted=constants, file=path
        )
    kind = type(constants[name])
    try:
        value = kind(given) if kind in (str, int, float) else yaml.safe_load(given)
    except (ValueError, yaml.YAMLError):
        value = None
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise UserError(f"the setting {name} must be of the type {kind.__name__}", got=given, file=path)
    return name, value
