"""What the host's own `Conv`, `C3` and `SPPF` take where a model YAML says nothing: a clone may have been edited."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UserError
from ..space.activations import ACTIVATIONS, activation_argument, activation_name, activation_of
from ..space.forms import STOCK_ACT
from ..space.layers import ARGUMENTS
from .compat import patched
from .yolov5 import Host


def with_host_defaults(model: Mapping[str, Any], host: Host, source: str = "model YAML") -> dict[str, Any]:
    """Return a searchable model dict that says what the host takes by default, where that is not YOLOv5's.

    These are the activation and the arguments of Conv, C3 and SPPF. What is derived from it then means the same in a
    clone that was not edited.

    Args:
        source: its file, for messages.

    Raises:
        UserError: the host's activation can't be written in a YAML, or the host does not follow the YAML's.
    """
    model = {**model, **_activation(model, host, source)}
    for part in ("backbone", "head"):
        model[part] = [_with_arguments(row, host) for row in model[part]]
    return model


def _activation(model: Mapping[str, Any], host: Host, source: str) -> dict[str, Any]:
    """The keys that name the activation."""
    own, given = activation_of(host.conv_activation), model.get("activation")
    if not given and own != STOCK_ACT:
        if own is None:
            rule = "the activation of this YOLOv5's Conv can't be written in a model YAML"
            raise UserError(rule, got=str(host.conv_activation), accepted=ACTIVATIONS, file=host.common.__file__)
        return {"activation": activation_argument(own)}
    listed = [activation_name(act) for act in (given if isinstance(given, list) else [given or STOCK_ACT])]
    if listed != [own] and not _follows_yaml(host):
        rule = "this YOLOv5's Conv does not follow the model YAML's activation"
        raise UserError(rule, got=given, accepted=own, file=source)
    if isinstance(given, list) and own != STOCK_ACT and own in listed:
        return {"default": {"activation": own, **(model.get("default") or {})}}
    return {}


def _follows_yaml(host: Host) -> bool:
    """Whether YOLOv5's parser can change the activation of `Conv`, by its `default_act`."""
    import torch

    with patched(host.common.Conv, default_act=torch.nn.Identity()):
        return isinstance(host.conv_activation, torch.nn.Identity)


def _with_arguments(row: Sequence[Any], host: Host) -> list[Any]:
    """A line with the arguments that it leaves out, up to the last whose default the host has another of."""
    f, number, module, args = row
    if (stock := module.removeprefix("NAS")) not in ARGUMENTS:
        return list(row)
    options = [args[-1]] if args and isinstance(args[-1], Mapping) else []
    given = list(args[:-1] if options else args)
    known = inspect.signature(getattr(host.common, stock)).parameters
    own = {name: _default(known.get(name), ours) for name, ours in ARGUMENTS[stock].items()}
    last = max((i for i, (name, ours) in enumerate(ARGUMENTS[stock].items()) if own[name] != ours), default=-1)
    filled = [*given, *list(own.values())[len(given) - 1 : last + 1]] if given else given  # the first is the width
    return [f, number, module, [*filled, *options]]


def _default(parameter: inspect.Parameter | None, ours: Any) -> Any:
    """The default of an argument, where a YAML can say it."""
    is_plain = parameter is not None and isinstance(parameter.default, bool | int | float | None)
    return parameter.default if parameter and is_plain else ours
