"""Neural architecture search for YOLOv5: searchable layers in the model YAML, a stock YOLOv5 model as the result.

Ten names, described in docs/api.md; what they raise is in `yolov5_nas.errors`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .records.journal import read_journal
from .results.export import export
from .space.architecture import Architecture
from .space.compile import derive
from .space.space import Space

# Looked up on first use: `import yolov5_nas` must not cost the seconds that torch takes.
_WITH_TORCH = {
    "register": "weights.elastic",
    "set_architecture": "weights.elastic",
    "extract": "weights.elastic",
    "evaluate": "run.api",
    "search": "run.api",
}

__all__ = ["Architecture", "Space", "derive", "export", "read_journal", *_WITH_TORCH]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("yolov5-nas")
    if name in _WITH_TORCH:
        return getattr(import_module(f"yolov5_nas.{_WITH_TORCH[name]}"), name)
    raise AttributeError(f"module 'yolov5_nas' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_WITH_TORCH])
