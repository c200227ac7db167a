"""What is known of an option besides its name, type and default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError

# Groups of options, each with an example.
GROUPS = {
    "model and data": "--cfg yolov5s_nas.yaml --data my.yaml",
    "search": "--trials 40 --target latency_ratio=0.9",
    "latency": "--latency-backend onnx --latency-batch 8",
    "training of a trial": "--epochs 20 --imgsz 640 --early-stop",
    "machine": "--device 0,1 --hours 8",
    "hooks": "--hook energy --hook relus.py",
    "run": "--resume runs/nas/exp --trials 60",
}


@dataclass(frozen=True)
class Option:
    """What is known of an option besides its name, type and default.

    Args:
        help: its line in `--help`.
        group: one of `GROUPS`.
        choices: the values that it takes.
        spelled: other values that are taken for one of them.
        least: the smallest number that it takes.
        aliases: further flags.
        metavar: what its value is called in `--help`.
        may_change: a resumed run may change it: it decides how long and where trials run, not what they give.
        completes: how a shell completes it: "file", "folder", or the shipped files that a folder and a pattern name.
    """

    help: str
    group: str
    choices: tuple[str, ...] = ()
    spelled: Mapping[str, str] = field(default_factory=dict)
    least: int | None = None
    aliases: tuple[str, ...] = ()
    metavar: str | None = None
    may_change: bool = False
    completes: str | tuple[str, str] | None = None


def option(group: str, default: Any, help: str, **more: Any) -> Any:
    """A field of `Options`."""
    return field(default=default, metadata={"option": Option(help, group, **more)})


def flag(name: str) -> str:
    """How the command line spells an option."""
    return "--" + name.replace("_", "-")


def typed(name: str, value: Any, annotation: str, file: Path | None) -> Any:
    """A value of a file or a Python call, held to the option's type."""
    if value is None and "None" in annotation:
        return None
    if annotation.startswith("tuple"):
        return value
    kinds = {"int": int, "float": (int, float), "bool": bool, "str": (str, Path)}
    kind = kinds[annotation.split(" ")[0]]
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):  # type: ignore[arg-type]
        if name == "device" and isinstance(value, int):
            return str(value)
        raise UserError(f"the option {name} must be a {annotation.split(' ')[0]}", got=value, file=file)
    return str(value) if isinstance(value, Path) else value


def several(name: str, value: Any) -> tuple[Any, ...]:
    """The values of an option that takes several, of which a file may name one or none."""
    values = tuple(value) if isinstance(value, list | tuple) else () if value is None else (value,)
    kind = int if name == "freeze" else str
    for one in values:
        if not isinstance(one, kind) or isinstance(one, bool):
            raise UserError(f"{flag(name)} takes values of the type {kind.__name__}", got=one)
    return values
