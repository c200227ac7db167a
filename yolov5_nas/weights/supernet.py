"""The supernet as a whole: built, its extremes, saved and read again."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..host.locate import Location
from ..host.yolov5 import Host
from ..host.yolov5 import load as load_host
from ..space.architecture import Architecture, Value
from ..space.space import Space
from .elastic import NASConv, anchor_count, register, unregister

KIND = "yolov5-nas shared network"


def build(host: Host, model: Mapping[str, Any], nc: int) -> Any:
    """The network of a searchable YAML with one set of weights for all its architectures."""
    with registered(host):
        return host.build({k: v for k, v in model.items() if k != "imgsz"}, nc=nc)


def extreme(space: Space, pick: Any) -> Architecture:
    """The smallest (`pick` is min) or largest (max) architecture; activations, which are neither, stay the default."""
    return Architecture({c.label: c.extreme(pick) for c in space.choices.values()})


def save(shared: Any, yaml: Mapping[str, Any], path: Path, **entries: Any) -> None:
    """Write a supernet, in single precision, whole or not at all.

    Args:
        yaml: the searchable YAML.
        entries: what else is to be found in the file.
    """
    temporary, own = path.with_suffix(".tmp"), {"nc": shared.model[-1].nc, "anchors": anchor_count(shared)}
    torch.save({"kind": KIND, "yaml": dict(yaml), **own, "state": shared.state_dict(), **entries}, temporary)
    temporary.replace(path)


def read(path: Path, location: Location | None = None) -> dict[str, Any] | None:
    """What is in the file; None if it is no supernet.

    Args:
        location: of the host, which a checkpoint of its `train.py` with searchable layers needs.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a checkpoint of YOLOv5, or anything
        return _of_checkpoint(path, load_host(location)) if _names_our_layers(path) else None
    return found if isinstance(found, dict) and found.get("kind") == KIND else None


def _names_our_layers(path: Path) -> bool:
    """Whether a checkpoint holds searchable layers, without unpickling it."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            return NASConv.__module__.encode() in archive.read(name)
    except (OSError, zipfile.BadZipFile, StopIteration):
        return False


def _of_checkpoint(path: Path, host: Host) -> dict[str, Any]:
    """What `save` would have written of the model in a checkpoint."""
    model = host.load_checkpoint(path)
    entries = {"yaml": model.model.space.yaml, "nc": model.model[-1].nc, "anchors": anchor_count(model)}
    return {"kind": KIND, **entries, "state": model.state_dict()}


def load(path: Path, model: Mapping[str, Any], nc: int, host: Host) -> Any:
    """The supernet of a file.

    Args:
        model: the searchable YAML, whose space it must have been trained for.
        nc: number of classes, which must be its own.

    Raises:
        UserError: it is no supernet, or another's.
    """
    if not (found := read(path)):
        raise UserError("no supernet (what --one-shot leaves in RUN/shared/trials/0/weights.pt)", file=path)
    return restore(found, model, nc, host, path)


def restore(found: Mapping[str, Any], model: Mapping[str, Any], nc: int, host: Host, path: Path) -> Any:
    """As `load`, of what `read` found in the file."""
    theirs, ours = (Space.from_dict(y) for y in (found["yaml"], model))
    if theirs.layers != ours.layers or theirs.multiples.default_act != ours.multiples.default_act:
        labels = sorted(_options(theirs) ^ _options(ours))
        got = labels[0][0] if labels else "other layers"
        raise UserError("the supernet was trained for another space than that of --cfg", got=got, file=path)
    if found["nc"] != nc:
        raise UserError(f"the supernet was trained for {found['nc']} classes, not {nc}", file=path)
    shared = build(host, {**model, "anchors": found.get("anchors") or model["anchors"]}, nc)
    shared.load_state_dict(found["state"])
    return shared


def _options(space: Space) -> set[tuple[str, tuple[Value, ...]]]:
    return {(c.label, c.options) for c in space.choices.values()}


@contextmanager
def registered(host: Host) -> Iterator[None]:
    """Within this block the host's parser knows the searchable layers."""
    before = hasattr(host.yolo.parse_model, "stock")
    register(host)
    try:
        yield
    finally:
        if not before:
            unregister(host)
