"""Packages: whether they are there, of the wanted version, and importable."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

from ..errors import UserError
from .check import BROKEN, OK, Check

PATIENCE = 120.0  # seconds for an import

IMPORTED_AS = {  # where that is another name than the package's
    "pyyaml": "yaml",
    "opencv-python": "cv2",
    "pillow": "PIL",
    "gitpython": "git",
    "scikit-learn": "sklearn",
}


# How it is looked at --------------------------------------------------------------------------------------------------


def look(
    name: str,
    packages: Sequence[str],
    get: str,
    absent: str = BROKEN,
    attempt: Callable[[Check], Check] | None = None,
) -> Check:
    """Whether packages are installed, in versions that are taken.

    Args:
        get: how to get them.
        absent: the mark where one is not installed.
        attempt: of the check where all are.
    """
    if missing := [package for package in packages if not folder_of(package)]:
        return Check(name, absent, f"not installed: {', '.join(missing)}", get)
    if problems := [problem for package in packages if (problem := problem_of(package))]:
        return Check(name, BROKEN, "; ".join(problems), get)
    text = ", ".join(f"{package} {version_of(package) or '(version unknown)'}" for package in packages)
    return Check(name, OK, text, f"pip install --force-reinstall {' '.join(packages)}", attempt)


def folder_of(package: str) -> Path | None:
    """Where a package is installed, without importing it."""
    spec = find_spec(IMPORTED_AS.get(package, package))
    return Path(spec.origin).parent if spec and spec.origin else None  # a mere folder of that name has no origin


def problem_of(package: str) -> str:
    """What is wrong with an installed package's version; "" for nothing, and where a version is not known."""
    required, version = required_packages().get(package), version_of(package)
    if not required or not version or required.specifier.contains(version, prereleases=True):
        return ""
    return f"{package} must be {required.specifier}, is {version}"


@cache
def required_packages() -> dict[str, Requirement]:
    """What yolov5-nas and its extras require, by name; nothing where it runs from a folder without being installed."""
    try:
        texts = metadata.requires("yolov5-nas") or []
    except metadata.PackageNotFoundError:
        return {}
    return {required.name: required for required in map(Requirement, texts)}


def version_of(package: str) -> str:
    """The version of an installed package; "" where it is not known."""
    for name in (package, f"{package}-gpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name) or ""
    return ""


def importing(modules: str) -> Callable[[Check], Check]:
    """An attempt that imports modules in a fresh process."""

    def attempt(check: Check) -> Check:
        command = [sys.executable, "-W", "ignore", "-c", f"import {modules}"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=PATIENCE, check=False, encoding="utf-8"
            )
        except subprocess.TimeoutExpired:
            raise UserError(f"its import takes longer than {PATIENCE:g} s") from None
        if done.returncode:
            raise UserError(f"it can't be imported: {(done.stderr.splitlines() or ['it crashed'])[-1]}")
        return check

    return attempt
