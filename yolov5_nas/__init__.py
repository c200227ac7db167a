"""Neural architecture search for YOLOv5: searchable layers in the model YAML, a stock YOLOv5 model as the result.

Ten names, described in docs/api.md; what they raise is in `yolov5_nas.errors`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from . import search as _search_module  # noqa: F401  # see below
from .architecture import Architecture
from .derive import derive
from .export import export
from .journal import read_journal
from .space import Space

# An imported submodule becomes an attribute of its package. The one named `search` is imported above and taken away
# here, so that no later import of it hides the function of that name.
del search  # type: ignore[name-defined]  # noqa: F821

# Looked up on first use: `import yolov5_nas` must not cost the seconds that torch takes.
_WITH_TORCH = {
    "register": "modules",
    "set_architecture": "modules",
    "extract": "modules",
    "evaluate": "run",
    "search": "run",
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
