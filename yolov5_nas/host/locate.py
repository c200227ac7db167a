"""Where YOLOv5 is found: a clone or the installed package."""

from __future__ import annotations

import importlib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..files import absolute, is_file

PACKAGE = "package"  # instead of a clone's path
GET_YOLOV5 = (
    "git clone https://github.com/ultralytics/yolov5 and give it by --yolov5 PATH or YOLOV5_ROOT, or pip install"
    " 'yolov5-nas[yolov5]'"
)


@dataclass(frozen=True)
class Location:
    """Where YOLOv5 lies: `kind` is "clone" or "package", `found` says by which rule it was found."""

    kind: str
    root: Path
    found: str

    def __str__(self) -> str:
        return f"YOLOv5 {self.kind} at {self.root} ({self.found})"


def find(path: str | Path | None = None) -> Location:
    """Find YOLOv5: the path given, then YOLOV5_ROOT, then the working directory if it is a clone, then the package.

    Args:
        path: of a clone; "package" is the package whatever else there is.

    Raises:
        UserError: the given path or YOLOV5_ROOT is no clone, or there is none anywhere (says how to get one).
    """
    if str(path) != PACKAGE:
        for given, rule in ((path, "--yolov5"), (os.environ.get("YOLOV5_ROOT"), "YOLOV5_ROOT")):
            if given:
                if not is_clone(root := absolute(given)):
                    raise UserError(
                        f"{rule} must be a clone of ultralytics/yolov5", got=str(given), accepted=GET_YOLOV5
                    )
                return _at(root.resolve(), rule)
        if is_clone(Path.cwd()):
            return _at(Path.cwd(), "the working directory")
    if package := _package():
        return Location("package", package, "the installed package")
    raise UserError(f"no YOLOv5 found: {GET_YOLOV5}")


def _at(root: Path, rule: str) -> Location:
    """The package's own folder, given as a clone, is still the package: else its modules would be there twice."""
    package = _package()
    same = package is not None and package.resolve() == root
    return Location("package" if same else "clone", root, rule)


def _package() -> Path | None:
    """The installed package's folder."""
    spec = importlib.util.find_spec("yolov5")
    if spec and spec.origin and is_clone(Path(spec.origin).parent):  # a mere folder named yolov5 has no origin
        return Path(spec.origin).parent
    return None


def is_clone(root: Path) -> bool:
    """Whether a folder holds YOLOv5's code."""
    return all(is_file(root / name) for name in ("models/yolo.py", "utils/general.py", "val.py"))
