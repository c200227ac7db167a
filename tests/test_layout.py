"""How the code is laid out. The order in which folders import each other is import-linter's (`make lint`)."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

PACKAGE = ROOT / "yolov5_nas"
FILES = sorted(PACKAGE.rglob("*.py"))
LIGHT = ("errors.py", "files.py", "space", "records", "strategies")
HEAVY = ["torch", "ray", "nni", "optuna", "numpy", "cv2", "pandas", "ultralytics", "yolov5"]
OF_YOLOV5 = {"models", "utils", "val", "train", "export", "yolov5"}  # as a clone's modules are called, and the package

TEXT = {"read_text", "write_text", "FileHandler", "to_csv", "read_csv"}
OPEN = {"open", "fdopen", "TemporaryFile", "NamedTemporaryFile"}
NO_FILES = {"os", "tarfile", "Image", "parcel"}  # of whose modules `open` is no text's


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """The modules that a file imports from, in full, each with the name that it takes."""
    package = [*path.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            yield from ((".".join([*base, *filter(None, [node.module])]), alias.name) for alias in node.names)


def test_what_is_light_imports_nothing_heavy() -> None:
    light = [path for path in FILES if path.relative_to(PACKAGE).parts[0] in LIGHT]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in light]
    code = f"import sys, {', '.join(names)}; print([m for m in {HEAVY} if m in sys.modules])"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert len(light) > 15 and done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_keeps_to_itself(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
    folder = ".".join(path.relative_to(ROOT).parent.parts)
    for module, name in imports(path):
        assert module.split(".")[0] not in OF_YOLOV5, f"only the host's modules, which it imports by name: {module}"
        is_private = name.startswith("_") and not name.startswith("__") and module.startswith("yolov5_nas")
        assert not is_private or module.rpartition(".")[0] == folder, f"{name} of {module} is private"


def is_text(node: ast.AST) -> bool:
    """Whether a node is a call that opens a file as text, or takes a program's output as text."""
    if not isinstance(node, ast.Call):
        return False
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    if name in OPEN and getattr(getattr(node.func, "value", None), "id", "") not in NO_FILES:
        modes = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
        return not any("b" in str(mode) for mode in modes)
    return name in TEXT or any(k.arg == "text" and getattr(k.value, "value", 0) is True for k in node.keywords)


@pytest.mark.parametrize("folder", ["yolov5_nas", "hooks", "benchmarks"])
def test_text_names_its_encoding(folder: str) -> None:
    """Or it would be the locale's, which a container often has none of, and Windows has another of than Linux."""
    files = sorted((ROOT / folder).rglob("*.py"))
    calls = [(path, node) for path in files for node in ast.walk(ast.parse(path.read_text())) if is_text(node)]
    assert len(calls) > 2
    unnamed = [f"{path}:{node.lineno}" for path, node in calls if "encoding" not in {k.arg for k in node.keywords}]
    assert not unnamed


def test_the_top_level_is_small() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 8


def test_tests_mirror_the_folders() -> None:
    folders = {path.parent.relative_to(PACKAGE).parts[0] for path in FILES if path.parent != PACKAGE}
    assert folders <= {path.name for path in (ROOT / "tests").iterdir()}
