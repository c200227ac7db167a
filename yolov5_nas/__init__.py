"""Neural architecture search for YOLOv5: searchable layers in the model YAML, a stock YOLOv5 model as the result."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .architecture import Architecture
from .derive import derive
from .errors import TrialError, UserError
from .journal import read_journal
from .space import Space

# Looked up on first use: `import yolov5_nas` must not cost the seconds that torch takes.
_WITH_TORCH = {"search": "run", "register": "modules", "set_architecture": "modules", "extract": "modules"}

__all__ = ["Architecture", "Space", "TrialError", "UserError", "derive", "read_journal", *_WITH_TORCH]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("yolov5-nas")
    if name in _WITH_TORCH:
        return getattr(import_module(f"yolov5_nas.{_WITH_TORCH[name]}"), name)
    raise AttributeError(f"module 'yolov5_nas' has no attribute {name!r}")
