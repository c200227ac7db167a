"""Find the model in a file that is given as a checkpoint, and bring the torch modules in it up to date."""

from __future__ import annotations

import contextlib
import inspect
import os
import pathlib
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError
from .compat import module_entry, patched

INPLACE = ("Hardswish", "LeakyReLU", "ReLU", "ReLU6", "SiLU", "Detect")  # modules that attempt_load sets it for
ACCEPTED = "a checkpoint of YOLOv5's train.py, such as yolov5n.pt or runs/train/exp/weights/best.pt"
OF_ULTRALYTICS = "a model of the package ultralytics (YOLOv5u and later, without anchors)"


@contextlib.contextmanager
def paths_of_any_system() -> Iterator[None]:
    """Within this block a checkpoint may hold paths of Windows, and of Python 3.13, which names their module anew."""
    foreign = {"PosixPath": pathlib.PurePosixPath} if os.name == "nt" else {"WindowsPath": pathlib.PureWindowsPath}
    with patched(pathlib, **foreign), module_entry("pathlib._local", pathlib):
        yield


def unreadable(error: Exception, path: Path) -> UserError:
    """Return the error that says why torch could not load a file: what it is, or what it needs that is not here."""
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    missing = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
    own = re.search(r"Can't get attribute '([\w.]+)' on <module '([\w.]+)'", text)
    if isinstance(error, OSError):
        return UserError(f"the weights can't be read ({error.strerror or error})", file=path)
    if missing.split(".")[0] == "ultralytics":
        return _refused(OF_ULTRALYTICS, path)
    if missing.split(".")[0] == "numpy":
        rule = f"the checkpoint was saved with another NumPy, whose {missing} is not installed"
        return UserError(rule, accepted="pip install --upgrade numpy", file=path)
    if own or missing:
        what = f"{own[1]} of {own[2]}" if own else missing
        rule = f"the checkpoint was trained in a clone with modules of its own ({what}), which YOLOv5 here lacks"
        return UserError(rule, accepted="that clone, named with --yolov5", file=path)
    return UserError(
        f"no YOLOv5 checkpoint of a detection model ({what_is(path) or text})", accepted=ACCEPTED, file=path
    )


def model_in(checkpoint: Any, path: Path) -> Any:
    """The detection model in what `torch.load` gave, in float32.

    Raises:
        UserError: there is none, or it is of another program (says what it is).
    """
    if not isinstance(checkpoint, Mapping):
        return _checked(checkpoint, path)
    import torch

    parts = [checkpoint.get("ema"), checkpoint.get("model")]
    model = next((part for part in parts if isinstance(part, torch.nn.Module)), parts[1] or parts[0])
    if model is None:
        raise _refused(_kind_of_dict(checkpoint), path)
    return _checked(model, path)


class Trained(NamedTuple):
    """What a checkpoint says of the training that wrote it: `imgsz` in pixels, where known, and `single_cls`."""

    imgsz: int | None
    single_cls: bool


def trained_with(checkpoint: Any) -> Trained:
    """Return the options of the training that wrote what `torch.load` gave, as far as they are known."""
    options = checkpoint.get("opt") if isinstance(checkpoint, Mapping) else None
    known = options if isinstance(options, Mapping) else getattr(options, "__dict__", {})
    size = known.get("imgsz", known.get("img_size"))  # as v5.0 and before called it: that of training, of validation
    size = size[0] if isinstance(size, list) and size else size
    is_size = isinstance(size, int) and not isinstance(size, bool) and size > 0
    return Trained(size if is_size else None, known.get("single_cls") is True)


def what_is(path: Path) -> str | None:
    """What a file that torch can't read is, where its first bytes tell."""
    with path.open("rb") as file:
        start = file.read(200).lstrip()
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer (git lfs pull brings the file itself)"
    if start[:1] == b"<":
        return "a web page (was a link to the file's page saved instead of the file?)"
    if not start:
        return "an empty file"
    if start.startswith(b"PK"):
        return None if zipfile.is_zipfile(path) else "a damaged file, perhaps not downloaded to its end"
    return "a text" if start.isascii() and start.replace(b"\n", b" ").decode().isprintable() else None


def _checked(model: Any, path: Path) -> Any:
    import torch

    if not isinstance(model, torch.nn.Module):
        kind = "a bare state dict" if isinstance(model, Mapping) else f"an object of the type {type(model).__name__}"
        raise _refused(kind, path)
    if type(model).__name__ in ("DataParallel", "DistributedDataParallel"):
        model = model.module
    module, name = type(model).__module__, type(model).__name__
    if module.split(".")[0] == "ultralytics":
        raise _refused(OF_ULTRALYTICS, path)
    if "TorchScript" in name or "RecursiveScriptModule" in name:
        raise _refused("an exported TorchScript model", path)
    if name in ("ClassificationModel", "SegmentationModel"):
        raise _refused(f"a {name} of YOLOv5", path)
    layers = getattr(model, "model", None)
    if not isinstance(layers, torch.nn.Sequential) or not hasattr(layers[-1], "anchors"):
        raise _refused(f"a {name}", path)
    if not hasattr(layers[-1], "m"):
        raise _refused("a model of YOLOv5 v1.0, whose Detect has no convolutions", path)
    return _running(model, path)


def modernised(model: Any) -> Any:
    """Repair a model of an older YOLOv5 or torch in place, as `attempt_load` does, and return it.

    Its torch modules get the attributes that the installed torch gives to new ones.
    """
    import torch

    if not hasattr(model, "stride"):
        model.stride = torch.tensor([32.0])
    if isinstance(getattr(model, "names", None), list | tuple):
        model.names = dict(enumerate(model.names))
    for module in model.modules():
        kind = type(module)
        if kind.__module__.startswith("torch.nn"):
            for name, parameter in inspect.signature(kind.__init__).parameters.items():
                wanted = parameter.default is not parameter.empty and name not in ("device", "dtype", "bias")
                if wanted and not hasattr(module, name):
                    setattr(module, name, parameter.default)
        if kind.__name__ in INPLACE or module is model:
            module.inplace = True
        if kind.__name__ == "Detect" and not isinstance(module.anchor_grid, list):
            del module.anchor_grid  # v5.0 and before kept it as a buffer, and no grid that fits it
            module.anchor_grid, module.grid = ([torch.zeros(1)] * module.nl for _ in range(2))
    return model


def _running(model: Any, path: Path) -> Any:
    """Return a model in float32, repaired; raise a UserError where this YOLOv5 and this torch can't run it."""
    import torch

    try:
        was_training, model = model.training, modernised(model.float())
        size = 2 * max(32, int(model.stride.max()))
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, size, size))
        return model.train(was_training)
    except Exception as e:  # a module can raise anything
        problem = " ".join(f"{type(e).__name__}: {e}".split())[:300]
        rule = f"this YOLOv5 can't run the checkpoint's model ({problem})"
        raise UserError(rule, accepted="the clone that it was trained in, by --yolov5", file=path) from None


def _kind_of_dict(entries: Mapping[Any, Any]) -> str:
    import torch

    if entries and all(isinstance(value, torch.Tensor) for value in entries.values()):
        return "a bare state dict"
    return f"a dict without a model (it has {', '.join(map(str, list(entries)[:5])) or 'nothing'})"


def _refused(what: str, path: Path) -> UserError:
    return UserError("no YOLOv5 checkpoint of a detection model", got=what, accepted=ACCEPTED, file=path)
