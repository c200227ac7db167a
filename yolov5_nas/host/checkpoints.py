"""Find the model in a file that is given as a checkpoint, and bring the torch modules in it up to date."""

from __future__ import annotations

import inspect
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError

ACCEPTED = "a checkpoint of YOLOv5's train.py, such as yolov5n.pt or runs/train/exp/weights/best.pt"


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


def size_in(checkpoint: Any) -> int | None:
    """The `--imgsz` of the training that wrote what `torch.load` gave; None where that is not known."""
    options = checkpoint.get("opt") if isinstance(checkpoint, Mapping) else None
    size = options.get("imgsz") if isinstance(options, Mapping) else getattr(options, "imgsz", None)
    return size if isinstance(size, int) and size > 0 else None


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
        raise _refused("a model of the package ultralytics (YOLOv5u and later, without anchors)", path)
    if "TorchScript" in name or "RecursiveScriptModule" in name:
        raise _refused("an exported TorchScript model", path)
    if name in ("ClassificationModel", "SegmentationModel"):
        raise _refused(f"a {name} of YOLOv5", path)
    layers = getattr(model, "model", None)
    if not isinstance(layers, torch.nn.Sequential) or not hasattr(layers[-1], "anchors"):
        raise _refused(f"a {name}", path)
    return modernised(model.float())


def modernised(model: Any) -> Any:
    """The model, after adding to its torch modules the attributes that the installed torch gives to new ones."""
    for module in model.modules():
        kind = type(module)
        if kind.__module__.startswith("torch.nn"):
            for name, parameter in inspect.signature(kind.__init__).parameters.items():
                wanted = parameter.default is not parameter.empty and name not in ("device", "dtype", "bias")
                if wanted and not hasattr(module, name):
                    setattr(module, name, parameter.default)
        elif kind.__name__ == "Detect" and not hasattr(module, "inplace"):
            module.inplace = True
    return model


def _kind_of_dict(entries: Mapping[Any, Any]) -> str:
    import torch

    if entries and all(isinstance(value, torch.Tensor) for value in entries.values()):
        return "a bare state dict"
    return f"a dict without a model (it has {', '.join(map(str, list(entries)[:5])) or 'nothing'})"


def _refused(what: str, path: Path) -> UserError:
    return UserError("no YOLOv5 checkpoint of a detection model", got=what, accepted=ACCEPTED, file=path)
