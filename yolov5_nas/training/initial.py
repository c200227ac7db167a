"""The weights that a training starts from, and the layers that it freezes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import UserError
from ..host.yolov5 import Host
from ..space.architecture import Architecture
from ..space.compile import derive, weight_names
from ..space.space import Space
from ..weights import supernet
from ..weights.elastic import extract
from ..weights.mapping import Inherited, fitting, inherit
from ..weights.source import inner_activation, read_source
from .parent import read_parent
from .settings import Settings


@dataclass(frozen=True)
class Start:
    """What the weights are that a training starts from.

    Args:
        is_exact: batch norm's statistics belong to them.
        parent: the model that they came from, to which they are refitted where they are not exact.
    """

    is_exact: bool = True
    parent: Any = None


def check_weights(weights: Path, space: Space, nc: int, host: Host) -> str:
    """What trials will inherit of a checkpoint, in words.

    Args:
        nc: number of classes of the data.

    Raises:
        UserError: there is no such file, or it is no checkpoint of this space.
    """
    if found := supernet.read(weights):
        supernet.restore(found, space.yaml, nc, host, weights)
        return f"{weights}: a supernet of this space; trials start from their slices of it"
    model = host.load_checkpoint(weights)
    source = read_source(model, space, weights)
    own_model = host.build(derive(space, space.default()), nc=nc)
    own = own_model.state_dict()
    taken, left = fitting(inherit(source, space, space.default()).state, own)
    detection = f"model.{max(int(name.split('.')[1]) for name in own)}."
    if any(not name.startswith(detection) for name in left):
        raise UserError(
            "the weights must be of a model of the same size and channels as --cfg", got=left[0], file=weights
        )
    said = f"{weights}: {len(taken)} of {len(own)} tensors are inherited"
    act = space.multiples.default_act
    if (own_act := inner_activation(model, [act])) not in (act, None):
        said += f"; they were trained with the activation {own_act}, not {act}"
    theirs, mine = model.model[-1], own_model.model[-1]
    if not left:
        differ = not theirs.anchors.float().allclose(mine.anchors.float(), rtol=1e-2)
        return f"{said}; its anchors are taken too, and not those of --cfg" if differ else said
    what = f"{theirs.nc} classes, not {nc}" if theirs.nc != nc else f"{theirs.na} anchors at each place, not {mine.na}"
    return f"{said}; the detection layer is for {what}, and starts anew"


def load_weights(
    model: Any, space: Space, architecture: Architecture, settings: Settings, host: Host, seed: int = 0
) -> Start:
    """Inherit from a checkpoint where one is given, or have its layers replaced, and freeze layers.

    Args:
        seed: of the images on which replaced layers are solved.

    Raises:
        UserError: the checkpoint is none of the space.
    """
    exact, parent = True, None
    if settings.replaces or (settings.weights and settings.is_formed):
        child = read_parent(host, settings, settings.imgsz, seed).start(architecture)
        model.load_state_dict(child.state_dict())
        form = "sliced to another form, and " if settings.is_formed else ""
        print(f"{settings.weights}, {form}replaced where the architecture differs")
    elif settings.weights:
        inherited, parent = _inherited(Path(settings.weights), space, architecture, settings, host)
        taken, left = fitting(inherited.state, model.state_dict())
        if settings.hyp_used.get("anchors"):  # asks for new ones
            taken = {name: value for name, value in taken.items() if "anchor" not in name}
        model.load_state_dict(taken, strict=False)
        exact = inherited.exact
        how = "exactly" if exact else "refitted to them" if parent else "batch norm estimated again"
        print(f"inherited {len(taken)}/{len(taken) + len(left)} tensors from {settings.weights}, {how}")
    freeze(model, settings.freeze, weight_names(space, architecture))
    return Start(exact, None if exact else parent)


def freeze(model: nn.Module, layers: Iterable[int], names: Mapping[str, str] | None = None) -> None:
    """Let all layers be trained but these, numbered as in the searchable YAML.

    Args:
        names: the layers of a derived model in it, from `compile.weight_names`.
    """
    frozen = {f"model.{i}" for i in layers}
    for key, parameter in model.named_parameters():
        layer = ".".join(key.split(".")[:2])
        origin = names[layer] if names else layer
        parameter.requires_grad = ".".join(origin.split(".")[:2]) not in frozen


def check_freeze(layers: Iterable[int], space: Space, host: Host) -> None:
    """Raise a UserError where no layer with weights is left to train (YOLOv5's `train.py` fails in its first step)."""
    model = host.build(derive(space, space.default()))
    freeze(model, layers, weight_names(space, space.default()))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        accepted = f"a number of layers up to {len(space.rows) - 1}, or several that leave one with weights"
        raise UserError("--freeze leaves no layer to train", got=list(layers), accepted=accepted)


def _inherited(
    weights: Path, space: Space, architecture: Architecture, settings: Settings, host: Host
) -> tuple[Inherited, Any]:
    """An architecture's weights of a checkpoint and the model in it, or its slice of a supernet."""
    if found := supernet.read(weights):
        shared = supernet.restore(found, space.yaml, settings.nc, host, weights)
        return Inherited(extract(shared, architecture, host).state_dict(), exact=False, origins={}), None
    model = host.load_checkpoint(weights)
    return inherit(read_source(model, space, weights), space, architecture), model
