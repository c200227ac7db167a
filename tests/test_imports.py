"""The import rules of DESIGN.md's table: a file imports lower levels only, and what is light stays light."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import yolov5_nas

PACKAGE = Path(__file__).parents[1] / "yolov5_nas"
LEVELS = {
    **dict.fromkeys(("errors", "digits", "engines.nni_client"), 0),
    **dict.fromkeys(("space", "architecture", "files", "metrics", "device_lock", "shipping"), 1),
    **dict.fromkeys(("derive", "journal", "reward", "agreement"), 2),
    **dict.fromkeys(("ranking", "pruning", "hooks", "options"), 3),
    **dict.fromkeys(("strategies", "host", "engines"), 3),
    **dict.fromkeys(("modules", "latency", "proof", "audit", "data", "effects", "refit"), 4),
    **dict.fromkeys(("engines.local", "engines.warm", "engines.nni_space"), 4),
    **dict.fromkeys(("measure", "inherit", "plots", "supernet"), 5),
    **dict.fromkeys(("engines.nni_experiment", "engines.nni_strategy", "engines.ray_node"), 5),
    **dict.fromkeys(("trial", "page", "engines.nni", "engines.ray"), 6),
    **dict.fromkeys(("search", "tensorboard", "report", "export", "one_shot"), 7),
    **dict.fromkeys(("stages", "listeners"), 8),
    "run": 9,
    **dict.fromkeys(("prove", "remeasure", "doctor", "completion"), 10),
    "cli": 11,
    "__main__": 12,
}
SAME_LEVEL = {("space", "architecture"), ("space", "files")}  # a space hands out architectures, and may be shipped
ONLY_ERRORS = {"host"}  # level 3, but it may import level 0 only
LIGHT = {name for name, level in LEVELS.items() if level <= 3} - {"host", "digits"}
HEAVY = ["torch", "ray", "nni", "optuna", "numpy", "cv2", "pandas", "ultralytics", "yolov5"]
YOLOV5 = {"yolov5", "models", "utils", "ultralytics"}


def modules() -> dict[str, Path]:
    """The package's files by the name of their module: `space`, `engines` (its `__init__`), `engines.local`."""
    names = {path: path.relative_to(PACKAGE).with_suffix("").parts for path in PACKAGE.rglob("*.py")}
    return {
        ".".join(n for n in parts if n != "__init__"): path for path, parts in names.items() if parts != ("__init__",)
    }


def imported(path: Path) -> Iterator[str]:
    """The names that a file imports, anywhere in it, in full: `os`, `yolov5_nas.space.space.Space`."""
    package = ["yolov5_nas", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            yield from (".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names)


def ours(name: str) -> str | None:
    """The module of the package that an imported name is, or lies in."""
    parts = name.split(".")[1:] if name.startswith("yolov5_nas.") else []
    return next((".".join(parts[:n]) for n in (2, 1) if ".".join(parts[:n]) in modules()), None)


def test_every_file_has_a_level() -> None:
    assert set(modules()) <= set(LEVELS)


@pytest.mark.parametrize("name", sorted(modules()))
def test_a_file_imports_lower_levels_only(name: str) -> None:
    limit = 1 if name in ONLY_ERRORS else LEVELS[name]
    for other in filter(None, map(ours, imported(modules()[name]))):
        assert LEVELS[other] < limit or (name, other) in SAME_LEVEL, f"{name} imports {other}"


@pytest.mark.parametrize("name", sorted(LIGHT & {*modules()}))
def test_levels_0_to_3_do_without_torch_nni_and_optuna(name: str) -> None:
    code = f"import sys, yolov5_nas.{name}; print([m for m in {HEAVY} if m in sys.modules])"
    env = {**os.environ, "PYTHONPATH": str(Path(yolov5_nas.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted({*modules()} - {"host"}))
def test_only_host_imports_yolov5(name: str) -> None:
    assert not YOLOV5 & {other.split(".")[0] for other in imported(modules()[name])}
