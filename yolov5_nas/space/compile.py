"""Compile an architecture to a stock YOLOv5 model YAML, in which YOLOv5's own layers replace the searchable ones."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, NamedTuple

import yaml

from .activations import activation_argument
from .architecture import Architecture, Value
from .arithmetic import Multiples, parse_kernel
from .forms import form_choices, forms, in_form
from .layers import SEARCHABLE, C3Layer, ConvLayer
from .space import Space

OURS = ("imgsz", "scale", "scaled_modules", "default")  # keys of a model YAML that YOLOv5 does not know
KEPT = 4  # stock models of a space, one of which is the reference


class StockLine(NamedTuple):
    """One line of the derived YAML, the index of the line that it came from, and its part in that layer.

    The part is "" where the line is the whole layer, else the name of a C3's submodule (`cv1`, `m.0`, ..., `cat`).
    """

    origin: int
    part: str
    row: list[Any]


def derive(space: Space, architecture: Mapping[str, Value]) -> dict[str, Any]:
    """The stock YOLOv5 model dict of an architecture.

    Widths and repeats are written out (`width_multiple` and `depth_multiple` are 1.0), and no name in it is ours, so
    an untouched YOLOv5 builds it. The default architecture gives stock YOLOv5's own network.

    >>> space = Space.from_yaml("yolov5n_nas.yaml")
    >>> derive(space, {**space.default(), "nasconv_0": "k4p1"})["backbone"][0]  # c2, k, s, p
    [-1, 1, 'Conv', [16, 4, 2, 1]]

    Raises:
        UserError: the architecture is not of the space.
    """
    return deepcopy(stock_model(space, architecture).cfg)


class StockModel(NamedTuple):
    """An architecture as a stock model.

    Args:
        cfg: YOLOv5's model dict.
        names: for each module of the model, its name in a stock model of the space: `{"model.3": "model.2.cv1"}`.
    """

    cfg: dict[str, Any]
    names: dict[str, str]


def stock_model(space: Space, architecture: Mapping[str, Value]) -> StockModel:
    """The stock model of an architecture. The latest ones are kept, since a trial needs them in many places.

    Raises:
        UserError: the architecture is not of the space.
    """
    key = Architecture(architecture).id
    if key not in space.compiled:
        space.validate(architecture)
        if space.whole:
            return stock_model(space.in_form(space.form_of(architecture)), space.inner(architecture))
        while len(space.compiled) >= KEPT:
            del space.compiled[next(iter(space.compiled))]
        space.compiled[key] = _stock_model(space, architecture)
    return space.compiled[key]  # type: ignore[no-any-return]


def _stock_model(space: Space, architecture: Mapping[str, Value]) -> StockModel:
    lines = stock_lines(space, architecture)
    split = sum(line.origin < len(space.yaml["backbone"]) for line in lines)
    kept = {k: v for k, v in space.yaml.items() if k not in (*OURS, "backbone", "head")}
    rows = [line.row for line in lines]
    cfg = {
        **kept,
        "depth_multiple": 1.0,
        "width_multiple": 1.0,
        "backbone": rows[:split],
        "head": rows[split:],
    }
    origins = (f"model.{line.origin}" + (f".{line.part}" if line.part else "") for line in lines)
    return StockModel(cfg, {f"model.{j}": name for j, name in enumerate(origins)})


def stock_form(model: Mapping[str, Any]) -> dict[str, Any]:
    """A searchable model dict with Conv and C3 instead of the searchable layers, line by line."""

    def stock(row: list[Any]) -> list[Any]:
        f, n, module, args = row
        if module not in SEARCHABLE:
            return row
        return [f, n, module.removeprefix("NAS"), [a for a in args if not isinstance(a, Mapping)]]

    whole = form_choices(model, None, "model YAML")
    model = in_form(model, whole, forms(whole)[0])
    model = deepcopy({k: v for k, v in model.items() if k not in OURS})  # YOLOv5's parser writes into the rows
    return {**model, "backbone": [stock(r) for r in model["backbone"]], "head": [stock(r) for r in model["head"]]}


def dump_model(cfg: Mapping[str, Any]) -> str:
    """A model dict as YAML in YOLOv5's style, one layer a line."""
    text = ""
    for key, value in cfg.items():
        if isinstance(value, list) and key in ("anchors", "backbone", "head"):
            rows = (yaml.safe_dump(row, default_flow_style=True, width=10_000).strip() for row in value)
            text += f"{key}:\n" + "".join(f"  - {row}\n" for row in rows)
        else:
            text += yaml.safe_dump({key: value}, default_flow_style=False)
    return text


def stock_lines(space: Space, architecture: Mapping[str, Value]) -> list[StockLine]:
    """The derived YAML's lines in order, each with where it came from."""
    if space.whole:
        return stock_lines(space.in_form(space.form_of(architecture)), space.inner(architecture))
    multiples = space.multiples
    lines: list[StockLine] = []
    last: list[int] = []  # index in the new numbering of each old layer's output
    for i, (f, n, module, args) in enumerate(space.rows):
        layer = space.layers.get(i)
        source = _renumber(f, i, last)
        if isinstance(layer, ConvLayer):
            lines.append(StockLine(i, "", [source, layer.repeats, "Conv", _conv_args(layer, architecture, multiples)]))
        elif isinstance(layer, C3Layer):
            lines += _c3_lines(layer, architecture, source, len(lines), multiples.default_act)
        else:
            lines.append(StockLine(i, "", [source, multiples.repeats(n), module, _stock_args(module, args, multiples)]))
        last.append(len(lines) - 1)
    return lines


def weight_names(space: Space, architecture: Mapping[str, Value]) -> dict[str, str]:
    """For each module of the derived model, its name in a stock model of the space: `{"model.3": "model.2.cv1"}`."""
    return stock_model(space, architecture).names


def _renumber(f: Any, i: int, last: list[int]) -> Any:
    """`from` indices in the new numbering; -1 stays, other negative ones become absolute."""

    def one(x: int) -> int:
        return x if x == -1 else last[x if x >= 0 else i + x]

    return [one(x) for x in f] if isinstance(f, list) else one(f)


def _stock_args(module: str, args: list[Any], multiples: Multiples) -> list[Any]:
    args = list(args)
    if module in multiples.scaled:
        args[0] = multiples.channels(args[0])
    elif module == "Segment" and len(args) > 3:
        args[3] = multiples.width(args[3])
    return args


def _conv_args(layer: ConvLayer, architecture: Mapping[str, Value], multiples: Multiples) -> list[Any]:
    k, p = parse_kernel(architecture[layer.kernel.label])
    act = architecture[layer.act.label]
    args: list[Any] = [layer.c2, k, layer.s, p]
    if act != multiples.default_act:
        return [*args, layer.g, layer.d, activation_argument(act)]
    if layer.d != 1:
        return [*args, layer.g, layer.d]
    return [*args, layer.g] if layer.g != 1 else args


def _c3_lines(
    layer: C3Layer, architecture: Mapping[str, Value], source: Any, at: int, default_act: str
) -> list[StockLine]:
    """A NASC3 as one C3 line or, where cv1 or cv2 differ from C3's, as the lines that C3 consists of.

    Args:
        at: the index that the first of the lines gets.
    """
    i, n = layer.index, layer.bottlenecks(architecture)
    c_ = layer.hidden(float(architecture[layer.width.label]))
    kernels = [parse_kernel(architecture[c.label]) for c in layer.kernels]
    acts = [architecture[c.label] for c in layer.acts]
    if kernels == [(1, 0), (1, 0)] and acts == [default_act, default_act]:
        return [StockLine(i, "", [source, n, "C3", _c3_args(layer, c_)])]

    def conv(f: Any, part: str, which: int) -> StockLine:
        (k, p), act = kernels[which], acts[which]
        return StockLine(
            i, part, [f, 1, "Conv", [c_, k, 1, p, *([] if act == default_act else [1, 1, activation_argument(act)])]]
        )

    before = at - 1 if source == -1 else source  # cv2 reads what cv1 read
    middle = [
        StockLine(i, f"m.{j}", [-1, 1, "Bottleneck", [c_, layer.shortcut, layer.g, 1.0]]) for j in range(n)
    ]  # fmt: skip
    return [
        conv(source, "cv1", 0),
        *middle,
        conv(before, "cv2", 1),
        StockLine(i, "cat", [[at + n, -1], 1, "Concat", [1]]),
        StockLine(i, "cv3", [-1, 1, "Conv", [layer.c2, 1, 1]]),
    ]


def _c3_args(layer: C3Layer, c_: int) -> list[Any]:
    """C3's arguments with the expansion whose hidden width, int(c2 * e), is `c_`."""
    if c_ == int(layer.c2 * 0.5):
        return [layer.c2, layer.shortcut] if layer.g == 1 else [layer.c2, layer.shortcut, layer.g]
    e = round(c_ / layer.c2, 6)
    if int(layer.c2 * e) != c_:  # the division rounded down
        e = (c_ + 0.5) / layer.c2
    return [layer.c2, layer.shortcut, layer.g, e]
