"""Choices of the network as a whole: its input size, the scale of its widths, its activation. A form is one of each.

Fixing the form turns a searchable YAML into another one with the same layers and the same choices in them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UserError
from .activations import ACTIVATIONS, activation_argument, activation_name
from .architecture import Architecture, Value
from .arithmetic import Multiples
from .choices import Choice
from .layers import C3Layer, Layer, is_odd, row_in_form

STOCK_ACT = "SiLU"  # YOLOv5's, where a YAML says nothing
LARGEST = 4.0  # scale of the widths


def form_choices(model: Mapping[str, Any], imgsz: int | None, source: str) -> tuple[Choice, ...]:
    """The choices at the top of a model YAML: `imgsz`, `scale` and `activation`, where they are lists.

    Args:
        imgsz: default input size in pixels.

    Raises:
        UserError: one has no such options.
    """
    default = model.get("default") or {}
    found = [
        _imgsz(model.get("imgsz"), imgsz, source),
        _scale(model.get("scale"), source),
        _activation(model.get("activation"), default.get("activation", STOCK_ACT), source),
    ]
    return tuple(choice for choice in found if choice)


def _imgsz(sizes: Any, default: int | None, source: str) -> Choice | None:
    if sizes is None:
        return None
    whole = isinstance(sizes, list) and all(isinstance(s, int) and not isinstance(s, bool) and s > 0 for s in sizes)
    if not sizes or not whole or len(set(sizes)) < len(sizes):
        raise UserError("imgsz must be a list of different sizes in pixels", got=sizes, file=source)
    if default is not None and default not in sizes:
        raise UserError("--imgsz must be one of the sizes that the model YAML lists", got=default, accepted=sizes)
    return Choice("imgsz", tuple(sizes), default or max(sizes))


def _scale(scales: Any, source: str) -> Choice | None:
    if scales is None:
        return None
    if not isinstance(scales, list) or not scales or len(set(map(str, scales))) < len(scales):
        raise UserError("scale must be a list of different scales of the widths", got=scales, file=source)
    for scale in scales:
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale <= LARGEST:
            raise UserError(f"a scale must be a number above 0, up to {LARGEST:g}", got=scale, file=source)
    if 1.0 not in scales:
        raise UserError("scale must list 1.0, which the others are compared with", got=scales, file=source)
    return Choice("scale", tuple(map(float, scales)), 1.0)


def _activation(acts: Any, default: str, source: str) -> Choice | None:
    if not isinstance(acts, list):  # YOLOv5's own key
        return None
    names = []
    for act in acts:
        if (name := activation_name(act)) is None:
            rule = "activation must be a list of activations of torch.nn without weights"
            raise UserError(rule, got=act, accepted=ACTIVATIONS, file=source)
        names.append(name)
    if not names or len(set(names)) < len(names):
        raise UserError("activation must be a list of different activations", got=acts, file=source)
    return Choice("activation", tuple(names), default if default in names else names[0], default in names)


# A YAML in a form -----------------------------------------------------------------------------------------------------


def forms(choices: Sequence[Choice]) -> list[dict[str, Value]]:
    """All forms, that of the defaults first."""
    every = [
        dict(zip((c.label for c in choices), values)) for values in itertools.product(*(c.options for c in choices))
    ]
    default = {c.label: c.default for c in choices}
    return [default, *(form for form in every if form != default)]


def in_form(
    model: Mapping[str, Any],
    choices: Sequence[Choice],
    form: Mapping[str, Value],
    layers: Mapping[int, Layer] | None = None,
) -> dict[str, Any]:
    """A searchable model dict with its form fixed, so that the form's labels are no longer choices.

    A C3 whose hidden width is not a multiple of 8 can't be written line by line, so its kernels and activations are not
    searched.

    Args:
        layers: the searchable layers in the default form, which give every other form its options.
    """
    labels = {choice.label: choice for choice in choices}
    found = {key: value for key, value in model.items() if key not in labels}
    default = {label: value for label, value in (model.get("default") or {}).items() if label not in labels}
    stock = act = ""
    if "scale" in labels:
        found["width_multiple"] = model["width_multiple"] * form["scale"]
    if "activation" in labels:
        stock, act = str(labels["activation"].default), str(form["activation"])
        found["activation"] = activation_argument(act)
    found["default"] = {label: act if value == stock else value for label, value in default.items()}
    if layers:
        multiples, count = Multiples(found), len(model["backbone"])
        rows = [*model["backbone"], *model["head"]]
        for layer in layers.values():
            if isinstance(layer, C3Layer) and is_odd(rows[layer.index], layer, multiples):
                for choice in (*layer.kernels, *layer.acts):
                    found["default"].pop(choice.label, None)
        rows = [row_in_form(r, layers[i], stock, act, multiples) if i in layers else r for i, r in enumerate(rows)]
        found |= {"backbone": rows[:count], "head": rows[count:]}
    return found


def inner(architecture: Mapping[str, Value], choices: Sequence[Choice]) -> Architecture:
    """The architecture in the YAML of its form: without the form's labels, and with the form's activation."""
    stock, act = _acts(architecture, choices)
    labels = {choice.label for choice in choices}
    return Architecture({k: act if v == stock else v for k, v in architecture.items() if k not in labels})


def outer(
    architecture: Mapping[str, Value],
    form: Mapping[str, Value],
    choices: Sequence[Choice],
    options: Mapping[str, Choice],
) -> Architecture:
    """The architecture of the whole space that becomes this one in the YAML of a form: the reverse of `inner`.

    Args:
        options: the choices of the whole space by label.
    """
    stock, act = _acts(form, choices)
    back = {k: stock if v == act and stock in options[k].options else v for k, v in architecture.items()}
    return Architecture({**back, **form})


def _acts(form: Mapping[str, Value], choices: Sequence[Choice]) -> tuple[Value, Value]:
    """The whole network's activation by default, and that of a form."""
    choice = next((c for c in choices if c.label == "activation"), None)
    return (choice.default, form["activation"]) if choice else ("", "")
