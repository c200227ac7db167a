"""Check a search's model before anything is written: the host builds and runs it, and our derived model is the same.

What the host's parser does to a line is found by running it, not copied: a clone may have modules of its user's own.
"""

from __future__ import annotations

import difflib
import inspect
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UserError
from ..host.defaults import with_host_defaults
from ..host.layers import Built, BuiltLayer, LayerError
from ..host.yolov5 import Host
from ..space.architecture import Architecture
from ..space.arithmetic import make_divisible
from ..space.compile import derive, stock_form, stock_lines, stock_model
from ..space.layers import SEARCHABLE, C3Layer
from ..space.space import Space

CLOSE = 1e-4  # of an output's largest value: how far another order of additions may be from it
ENOUGH = 640  # pixels of the image that a model is tried on


def check_model(
    model: Mapping[str, Any], source: str, lines: Sequence[int], wanted: int, host: Host
) -> tuple[dict[str, Any], int]:
    """The model dict as it is searched, and the input size in pixels.

    It says what the host takes by default where a YAML does not, and the host is not YOLOv5 as it was published. Input
    sizes, also those that the YAML lists, become what YOLOv5's `train.py` makes of them: multiples of the largest
    stride, and at least two of it. Where the host scales other modules than we know of, `scaled_modules` names them.

    Args:
        model: with the data's `nc`, and `anchors`.
        source: its file, for messages.
        lines: line numbers of its layers.
        wanted: the input size that was asked for.

    Raises:
        UserError: a layer can't be built or run, the last is no Detect, or a derived layer differs from the host's.
    """
    model = with_host_defaults(model, host, source)
    check = _Check(dict(model), source, lines, host)
    check.names()
    check.detect()
    try:
        stock = Built(host, stock_form(model))
        stride = stock.stride

        def fitting(size: int) -> int:
            return max(make_divisible(size, stride), 2 * stride)

        if "imgsz" in model:
            sizes = list(model["imgsz"])
            check.model["imgsz"] = list(dict.fromkeys(map(fitting, sizes)))
        for size in sizes if "imgsz" in model else [wanted]:
            if fitting(size) != size:
                rule = f"a multiple of the largest stride, {stride}, and at least {2 * stride}"
                print(f"the input size must be {rule}: {fitting(size)} is taken for {size}")
        imgsz = fitting(wanted)
        tried = min(imgsz, fitting(ENOUGH))
        check.derived(stock.layers(tried), tried)
        check.outputs(stock)
    except LayerError as e:
        raise check.fail(e.index, f"YOLOv5 can't build or run this layer ({e.problem})") from None
    return check.model, imgsz


class _Check:
    def __init__(self, model: dict[str, Any], source: str, lines: Sequence[int], host: Host):
        self.model, self.source, self.lines, self.host = model, source, lines, host
        self.rows = [*model["backbone"], *model["head"]]

    def derived(self, theirs: Sequence[BuiltLayer], imgsz: int) -> None:
        """Raise a UserError unless the default architecture is what the host builds, whose layers are given."""
        asked: set[str] = set()
        while True:
            space = Space.from_dict(self.model, source=self.source, lines=self.lines)
            i, difference = self._first_difference(space, theirs, imgsz)
            if i is None:
                return
            _, _, module, args = self.rows[i]
            has_width = bool(args) and isinstance(args[0], int | float) and args[0] > 0
            if module in SEARCHABLE or module in asked or not has_width:
                raise self.differs(i, difference)
            asked.add(module)  # it may be one whose channels the host scales, or leaves as they are
            self.model["scaled_modules"] = sorted(space.multiples.scaled ^ {module})

    def _first_difference(self, space: Space, theirs: Sequence[BuiltLayer], imgsz: int) -> tuple[int | None, str]:
        """The first layer whose derived lines are not the host's layer, and in what."""
        origins = [line.origin for line in stock_lines(space, space.default())]
        try:
            derived = Built(self.host, derive(space, space.default())).layers(imgsz)
        except LayerError as e:
            return origins[e.index], f"it can't be built or run ({e.problem})"
        for i, their in enumerate(theirs):
            own = [layer for layer, origin in zip(derived, origins) if origin == i]
            parameters, searchable = sum(layer.parameters for layer in own), space.layers.get(i)
            if searchable and their.shape[1] != searchable.c2:
                return i, f"it has {their.shape[1]} output channels, not {searchable.c2}"
            if own[-1].shape != their.shape:
                return i, f"its output has the shape {own[-1].shape}, not {their.shape}"
            if parameters != their.parameters and _has_stock_default(space, i):
                return i, f"it has {parameters} parameters, not {their.parameters}"
        return None, ""

    def outputs(self, stock: Built) -> None:
        """Raise a UserError unless derived networks compute what the host's does with the same weights.

        These are the default architecture, and one in which each C3 is written line by line, where it can be.
        """
        import torch

        space = Space.from_dict(self.model, source=self.source, lines=self.lines)
        space = space.in_form(space.forms[0])
        image = torch.rand(1, 3, *[2 * stock.stride] * 2, generator=torch.Generator().manual_seed(0))
        for architecture in (space.default(), _written_out(space)):
            names, origins = stock_model(space, architecture).names, stock_lines(space, architecture)
            derived = Built(self.host, derive(space, architecture))
            _share_weights(stock.model, derived.model, names)
            last = {line.origin: output for line, output in zip(origins, derived.outputs(image))}
            for i, output in enumerate(stock.outputs(image)):
                if not _has_stock_default(space, i):
                    break
                if not _are_close(output, last[i]):
                    raise self.differs(i, "with the same weights it computes something else")

    def differs(self, i: int, difference: str) -> UserError:
        return self.fail(i, f"the derived layer is not what YOLOv5 builds of this line: {difference}")

    def names(self) -> None:
        """Raise a UserError for a module that the host does not know."""
        for i, (_, _, module, _) in enumerate(self.rows):
            if module in SEARCHABLE or not all(part.isidentifier() for part in module.split(".")):
                continue
            try:
                operator.attrgetter(module)(self.host.yolo)
            except AttributeError:
                accepted = difflib.get_close_matches(module, self._known(), cutoff=0.5) or None
                raise self.fail(i, "YOLOv5 knows no module of this name", module, accepted) from None

    def _known(self) -> list[str]:
        import torch

        known = [*SEARCHABLE]
        for prefix, module in (("", self.host.yolo), ("nn.", torch.nn)):
            known += [
                prefix + n for n, c in vars(module).items() if inspect.isclass(c) and issubclass(c, torch.nn.Module)
            ]
        return known

    def detect(self) -> None:
        """Raise a UserError unless the last layer, and no other, is a Detect with anchors for all that it reads."""
        yolo = self.host.yolo

        def is_a(module: str, kind: Any) -> bool:
            found = getattr(yolo, module, None)
            return inspect.isclass(found) and issubclass(found, kind)

        heads = [i for i, row in enumerate(self.rows) if is_a(row[2], yolo.Detect)]
        last = len(self.rows) - 1
        f, _, module, _ = self.rows[last]
        if is_a(module, yolo.Segment):
            raise self.fail(last, "only detection is searched; the last layer must be a Detect", module)
        if heads != [last]:
            raise self.fail(heads[0] if heads else last, "the last layer, and no other, must be a Detect", module)
        anchors, count = self.model["anchors"], len(f) if isinstance(f, list) else None
        if count is None:
            raise self.fail(last, "Detect must read a list of layers", f)
        if isinstance(anchors, list) and len(anchors) != count:
            raise self.fail(last, f"anchors must have a row for each of the {count} layers that Detect reads", anchors)

    def fail(self, i: int, rule: str, got: object = None, accepted: Any = None) -> UserError:
        line = self.lines[i] if i < len(self.lines) else None
        got = self.rows[i] if got is None else got
        return UserError(
            rule if line else f"layer {i}: {rule}", got=got, accepted=accepted, file=self.source, line=line
        )


def _has_stock_default(space: Space, i: int) -> bool:
    return i not in space.layers or all(choice.is_stock for choice in space.layers[i].choices)


def _written_out(space: Space) -> Architecture:
    """The default architecture with another activation in the first convolution of each C3."""
    first = (layer.acts[0] for layer in space.layers.values() if isinstance(layer, C3Layer))
    other = {act.label: next((o for o in act.options if o != act.default), act.default) for act in first}
    return Architecture({**space.default(), **other})


def _share_weights(stock: Any, derived: Any, names: Mapping[str, str]) -> None:
    """Give a derived model the weights of the stock one, and the stock one the activations that were written out.

    Args:
        names: from `compile.stock_model`.
    """
    state = stock.state_dict()
    for name, origin in names.items():
        module = derived.get_submodule(name)
        own = {key: state.get(f"{origin}.{key}", value) for key, value in module.state_dict().items()}
        fits = {key: own[key] for key, value in module.state_dict().items() if own[key].shape == value.shape}
        module.load_state_dict(fits, strict=False)
        if origin.endswith(".cv1"):
            stock.get_submodule(origin).act = module.act


def _are_close(a: Any, b: Any) -> bool:
    """Whether two outputs are the same but for rounding."""
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_are_close, a, b))
    return a.shape == b.shape and float((a - b).abs().max()) <= CLOSE * float(a.abs().max())
