"""Make all YOLOv5 versions behave alike: patches for the length of a `with` block, stand-ins for missing packages."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import io
import logging
import os
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from .locate import Location

# Read by the hosts when they are imported: no pip call, no network, no prompt.
OFFLINE = {
    "YOLOv5_AUTOINSTALL": "false",
    "YOLOV5_AUTOINSTALL": "false",
    "YOLO_AUTOINSTALL": "false",
    "YOLO_OFFLINE": "true",
    "WANDB_MODE": "disabled",
    "COMET_MODE": "DISABLED",
}

MODULES = (
    *("models", "models.common", "models.experimental", "models.yolo", "utils.general", "utils.dataloaders"),
    *("utils.loss", "utils.torch_utils", "utils.autoanchor", "utils.plots", "utils.metrics", "val"),
)


@contextlib.contextmanager
def compatible(modules: Sequence[types.ModuleType]) -> Iterator[None]:
    """Today's numpy and Pillow as the host expects them, and no download of a font.

    Args:
        modules: those of the host that fetch fonts, in some versions.
    """
    import numpy as np
    from PIL.ImageFont import FreeTypeFont

    def no_font(*_: Any, **__: Any) -> None:
        """Nothing of ours draws text with the host's fonts."""

    with contextlib.ExitStack() as stack:
        if not hasattr(np, "trapz"):
            stack.enter_context(patched(np, trapz=np.trapezoid))
        if not hasattr(FreeTypeFont, "getsize"):
            stack.enter_context(patched(FreeTypeFont, getsize=lambda f, t, *a, **k: f.getbbox(t)[2:]))
        for module in modules:
            if hasattr(module, "check_font"):
                stack.enter_context(patched(module, check_font=no_font))
        yield


def of_version(create_dataloader: Callable[..., Any]) -> Callable[..., Any]:
    """A host's `create_dataloader` that accepts a `seed`, as the newest does; v7.0 ignores it and has a fixed one."""

    def create(*args: Any, seed: int = 0, **kwargs: Any) -> Any:
        if "seed" in inspect.signature(create_dataloader).parameters:
            kwargs["seed"] = seed
        return create_dataloader(*args, **kwargs)

    return create


def first_kept(nms: Callable[..., Any], most: int = 300) -> Callable[..., Any]:
    """An `nms` of boxes sorted by falling score that may stop once it has kept `most` of them.

    The first `most` don't depend on later boxes, since a box is only ever dropped for an earlier one. YOLOv5's
    validation takes 300 per image, and spends most of its time on the rest while a network is barely trained.
    """

    def first(boxes: Any, scores: Any, iou: float) -> Any:
        count = 4 * most
        while len(kept := nms(boxes[:count], scores[:count], iou)) < most and count < len(boxes):
            count *= 4
        return kept

    return first


class Lines(logging.Handler):
    """Collects what a logger is told."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def on_cpu(model: Any) -> Any:
    """A model whose tensors are all on the CPU, also those that are no parameters or buffers."""
    import torch

    if not next(model.parameters()).is_cuda:
        return model
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, map_location="cpu", weights_only=False)


@contextlib.contextmanager
def patched(target: Any, **attributes: Any) -> Iterator[None]:
    """Attributes set on an object for the length of a `with` block."""
    missing = object()
    old = {name: vars(target).get(name, missing) for name in attributes}
    for name, value in attributes.items():
        setattr(target, name, value)
    try:
        yield
    finally:
        for name, value in old.items():
            delattr(target, name) if value is missing else setattr(target, name, value)


class ByImage:
    """Collects, by image, what `val.run` computes mAP from. It takes the place of YOLOv5's callbacks and of `zip` in
    that module, which is called once, for all images."""

    def __init__(self) -> None:
        self.paths: list[str] = []  # of the images that have labels or detections
        self.found: list[tuple[Any, ...]] = []

    def run(self, hook: str, *args: Any) -> None:
        """A callback."""
        if hook == "on_val_batch_end":
            _, _, targets, paths, _, predicted = args
            having = {int(i) for i in targets[:, 0].tolist()} | {i for i, one in enumerate(predicted) if len(one)}
            self.paths += [str(path) for i, path in enumerate(paths) if i in having]

    def zip(self, *args: Any) -> Any:
        """Of an entry for each image."""
        self.found += args
        return zip(*args)


@contextlib.contextmanager
def module_entry(name: str, module: types.ModuleType) -> Iterator[None]:
    old = sys.modules.get(name)
    sys.modules[name] = module
    try:
        yield
    finally:
        if old is None:
            del sys.modules[name]
        else:
            sys.modules[name] = old


@contextlib.contextmanager
def importable(location: Location) -> Iterator[None]:
    """The host can be imported: offline, from the front of `sys.path`, with stand-ins for packages that v7.0 lacks."""
    # Restored at the end: hosts set thread counts for all child processes; loggers' modes are the user's and hooks'.
    names = ("OMP_NUM_THREADS", "NUMEXPR_MAX_THREADS", "WANDB_MODE", "COMET_MODE")
    kept = {name: os.environ.get(name) for name in names}
    os.environ.update(OFFLINE)
    if location.kind == "clone":
        if str(location.root) in sys.path:
            sys.path.remove(str(location.root))
        sys.path.insert(0, str(location.root))
        _drop_foreign_packages(location.root)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", "pkg_resources is deprecated")
            for name, stand_in in (("IPython", _ipython), ("pkg_resources", _pkg_resources)):
                if importlib.util.find_spec(name) is None:
                    for module_name, module in stand_in().items():
                        stack.enter_context(module_entry(module_name, module))
            yield
    except ImportError as e:
        raise UserError(f"{location} can't be imported: {e}") from e
    finally:
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _drop_foreign_packages(root: Path) -> None:
    """Forget `models` and `utils` of somebody else that were imported before the clone's."""
    for name in [n for n in sys.modules if n.split(".")[0] in ("models", "utils", "val")]:
        file = getattr(sys.modules[name], "__file__", None)
        if file is None or root not in Path(file).resolve().parents:
            del sys.modules[name]


def _ipython() -> dict[str, types.ModuleType]:
    """v7.0 imports IPython for notebooks only."""
    ipython, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.get_ipython = lambda: None  # type: ignore[attr-defined]
    display.display = print  # type: ignore[attr-defined]
    ipython.display = display  # type: ignore[attr-defined]
    return {"IPython": ipython, "IPython.display": display}


def _pkg_resources() -> dict[str, types.ModuleType]:
    """v7.0 and the package use it to compare versions; setuptools 81 dropped it."""
    from packaging.version import parse

    module = types.ModuleType("pkg_resources")
    module.parse_version = parse  # type: ignore[attr-defined]
    return {"pkg_resources": module}
