"""A trained model taken apart along the lines of a searchable YAML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from ..errors import UserError
from ..space.activations import activation_of
from ..space.architecture import Architecture, Value
from ..space.arithmetic import kernel_name
from ..space.choices import Choice
from ..space.layers import C3Layer, ConvLayer, Layer
from ..space.space import Space
from .elastic import State, activation
from .importance import Importance, Importances

Name: TypeAlias = tuple[int, str]  # of a `Conv`: layer, and name in it; "" for the one that writes a stock layer


@dataclass(frozen=True)
class ConvWeights:
    """What YOLOv5's `Conv` holds.

    Args:
        weight: (c2, c1 / g, k, k).
        bn: batch norm's parameters and statistics by name, (c2,) each but `num_batches_tracked`.
        p, d, g: padding, dilation, groups.
        importance: of each output, where it is known.
        origin: layer and name there of the convolution that this one is mapped from, where there is one.
        channels: (c2,), the output of the origin that each output is.
    """

    weight: torch.Tensor
    bn: State
    act: nn.Module
    p: int = 0
    d: int = 1
    g: int = 1
    eps: float = 1e-3
    importance: Importance | None = None
    origin: Name | None = None
    channels: torch.Tensor | None = None

    @classmethod
    def of(cls, module: Any, known: Importances | None = None, origin: Name | None = None) -> ConvWeights:
        """Return the weights of a `Conv`."""
        conv, bn = module.conv, module.bn
        state = {name: value.detach() for name, value in bn.state_dict().items()}
        weight, importance = conv.weight.detach(), (known or {}).get(module)
        shape = conv.padding[0], conv.dilation[0], conv.groups, bn.eps
        return cls(weight, state, module.act, *shape, importance, origin, torch.arange(len(weight)))

    def state(self) -> State:
        """Under the names that `Conv` has for them."""
        return {"conv.weight": self.weight, **{f"bn.{name}": value for name, value in self.bn.items()}}


@dataclass(frozen=True)
class C3Weights:
    """What YOLOv5's `C3` holds: `m` has the two convolutions of each bottleneck."""

    cv1: ConvWeights
    cv2: ConvWeights
    cv3: ConvWeights
    m: tuple[tuple[ConvWeights, ConvWeights], ...]

    @classmethod
    def of(cls, convs: Mapping[str, Any], read: Callable[[str, Any], ConvWeights]) -> C3Weights:
        """Return the weights of a C3's modules.

        Args:
            convs: as `convs_of_c3` gives them.
            read: a name and a `Conv` to its weights.
        """
        own = {name: read(name, conv) for name, conv in convs.items()}
        m = tuple((own[f"m.{j}.cv1"], own[f"m.{j}.cv2"]) for j in range((len(own) - 3) // 2))
        return cls(own["cv1"], own["cv2"], own["cv3"], m)

    def convs(self) -> dict[str, ConvWeights]:
        """All convolutions by name."""
        inner = {f"m.{j}.cv{i + 1}": conv for j, pair in enumerate(self.m) for i, conv in enumerate(pair)}
        return {"cv1": self.cv1, "cv2": self.cv2, "cv3": self.cv3, **inner}


def convs_of_c3(cv1: Any, cv2: Any, cv3: Any, m: Iterable[Any]) -> dict[str, Any]:
    """Return a C3's `Conv`s by name, `m` being its bottlenecks."""
    inner = {f"m.{j}.{name}": getattr(b, name) for j, b in enumerate(m) for name in ("cv1", "cv2")}
    return {"cv1": cv1, "cv2": cv2, "cv3": cv3, **inner}


Part = C3Weights | tuple[ConvWeights, ...] | State  # of a NASC3, of a NASConv with its repeats, of any other layer


def convs_of(part: Part) -> dict[str, ConvWeights]:
    """Return the convolutions of a searchable layer's part by name; of other parts none."""
    if isinstance(part, C3Weights):
        return part.convs()
    if isinstance(part, tuple):
        return {str(j) if len(part) > 1 else "": conv for j, conv in enumerate(part)}
    return {}


def state_of(part: Part) -> State:
    """Return a part's state under the names that YOLOv5 has for it."""
    if isinstance(part, dict):
        return part
    own = convs_of(part)
    return {f"{part}.{name}".lstrip("."): v for part, conv in own.items() for name, v in conv.state().items()}


@dataclass(frozen=True)
class Source:
    """A trained model, taken apart along the lines of a searchable YAML; see `read_source`.

    Args:
        parts: weights by layer.
        ends: the last module of each layer.
        modules: its `Conv`s by name: all of a searchable layer, the one that writes the output of another.
        importances: of the outputs of its `Conv`s, where they are known.
    """

    parts: Mapping[int, Part]
    ends: Mapping[int, nn.Module]
    modules: Mapping[Name, Any]
    importances: Importances | None = None

    def writers(self) -> dict[int, Any]:
        """Return the `Conv` that writes each layer's output, where there is one."""
        writer_by_layer = {i: _writer(module) for i, module in self.ends.items()}
        return {i: conv for i, conv in writer_by_layer.items() if conv is not None}


def inner_activation(model: Any, known: Iterable[str] = ()) -> str | None:
    """Return the activation that most convolutions inside a model's layers have, which no line of its YAML names.

    It is what the host's `Conv` took by default where the model was built; None if it has no name.

    Args:
        known: names, one of which is returned where it computes the same.
    """
    inner = (m for layer in model.model for m in layer.modules() if m is not layer and hasattr(m, "conv"))
    acts = [m.act for m in inner if hasattr(m, "bn") and hasattr(m, "act")]
    counts = Counter(map(str, acts))
    own = max(acts, key=lambda act: counts[str(act)], default=None)
    if own is None or (name := activation_of(own)) is None:
        return None
    return next((one for one in known if are_same(activation(one), own)), name)


# Taking a model apart -------------------------------------------------------------------------------------------------


def read_source(model: Any, space: Space, file: str | Path, importances: Importances | None = None) -> Source:
    """A YOLOv5 model by the layers of a searchable YAML, whichever architecture it has.

    It may be stock YOLOv5 or what `derive` gives: a C3 that is written out line by line is put together again.

    Args:
        model: from `Host.load_checkpoint`.
        file: for messages.
        importances: of the outputs of its `Conv`s, by `importance.taylor`.

    Raises:
        UserError: it is of another size, or another kind of model.
    """
    modules = list(model.model) if isinstance(getattr(model, "model", None), nn.Sequential) else []
    own, wanted = getattr(modules[-1], "nl", None) if modules else None, len(space.rows[-1][0])
    if own not in (None, wanted):
        rule = f"the weights must have as many outputs as {_name(space)}, {wanted}"
        more = " (a P6 model)" if own == 4 else ""
        raise UserError(rule, got=f"{own} outputs{more}", accepted=f"--cfg with a YAML of {own}", file=file)
    every, parts, ends, named = list(modules), {}, {}, dict[Name, Any]()

    def reads(i: int) -> Read:
        def read(name: str, module: Any) -> ConvWeights:
            if not hasattr(module, "conv") or not hasattr(module, "bn"):
                raise _MismatchError("has no batch norm in them (is it a fused model?)")
            named[i, name] = module
            return ConvWeights.of(module, importances, (i, name))

        return read

    for i, row in enumerate(space.rows):
        try:
            parts[i] = _take(modules, row[2], space.layers.get(i), reads(i))
            ends[i] = every[len(every) - len(modules) - 1]
            if i not in space.layers and (writer := _writer(ends[i])):
                named[i, ""] = writer
        except _MismatchError as e:
            raise UserError(
                f"the weights must be of {_name(space)} or its stock form: layer {i} {e}", file=file
            ) from None
    if modules:
        raise UserError(f"the weights must be of {_name(space)} or its stock form: they have more layers", file=file)
    return Source(parts, ends, named, importances)


def architecture_of(source: Source, space: Space, file: str | Path) -> Architecture:
    """The architecture that a source has, also where its values are no options of the space.

    Raises:
        UserError: a searchable layer of it can't be said in the space's labels.
    """
    found: dict[str, Value] = dict(space.default())
    for i, layer in space.layers.items():
        try:
            found |= _values(source.parts[i], layer, space.multiples.default_act)
        except _MismatchError as e:
            rule = f"the weights must be of {_name(space)} or an architecture of it: layer {i} {e}"
            raise UserError(rule, file=file) from None
    return Architecture(found)


def _values(part: Part, layer: Layer, default_act: str) -> dict[str, Value]:
    """A layer's values by label."""
    if isinstance(layer, ConvLayer):
        assert isinstance(part, tuple)
        first, *rest = part
        if len(part) != layer.repeats or (first.d, first.g) != (layer.d, layer.g):
            raise _MismatchError("has other repeats, groups or dilation")
        if any(
            (c.weight.shape[-1], c.p, str(c.act)) != (first.weight.shape[-1], first.p, str(first.act)) for c in rest
        ):
            raise _MismatchError("has repeats that differ")
        return {layer.kernel.label: _kernel(first), layer.act.label: _act(first.act, layer.act)}
    assert isinstance(part, C3Weights)
    inner = [conv for pair in part.m for conv in pair]
    if not all(are_same(conv.act, activation(default_act)) for conv in (part.cv3, *inner)):
        raise _MismatchError(f"has other activations within than {default_act}")
    if any(conv.g != (layer.g if j % 2 else 1) for j, conv in enumerate(inner)):
        raise _MismatchError("has other groups")
    if [conv.weight.shape[-1] for conv in inner] != [1, 3] * len(part.m) or part.cv3.weight.shape[-1] != 1:
        raise _MismatchError("has other kernels within than C3's")
    values: dict[str, Value] = {layer.width.label: _width(len(part.cv1.weight), layer)}
    if layer.depth or len(part.m) != layer.repeats:
        values[f"c3_{layer.index}_depth"] = len(part.m)
    for conv, kernel, act in zip((part.cv1, part.cv2), layer.kernels, layer.acts):
        values |= {kernel.label: _kernel(conv), act.label: _act(conv.act, act)}
    return values


def _kernel(conv: ConvWeights) -> str:
    return kernel_name(conv.weight.shape[-1], conv.p)


def _width(hidden: int, layer: C3Layer) -> float:
    """The scale of a hidden width: an option where one gives it."""
    scales = [1.0, *map(float, layer.width.options), round(hidden / layer.hidden(1.0), 4)]
    for scale in scales:
        if layer.hidden(scale) == hidden:
            return scale
    raise _MismatchError(f"is pruned to a hidden width of {hidden}, which YOLOv5's parser can't build")


def _act(act: nn.Module, choice: Choice) -> str:
    """The name of an activation: an option where one computes the same."""
    for name in choice.options:
        if are_same(activation(str(name)), act):
            return str(name)
    if (own := activation_of(act)) is None:
        raise _MismatchError(f"has the activation {act}")
    return own


def are_same(a: nn.Module, b: nn.Module) -> bool:
    """Whether two activations are the same function."""
    x = torch.linspace(-9, 9, 73)
    return torch.equal(a(x.clone()), b(x.clone()))  # some work in place


class _MismatchError(Exception):
    """Why a layer is not what the YAML says."""


def _name(space: Space) -> str:
    return Path(space.source).name


Read: TypeAlias = Callable[[str, Any], ConvWeights]


def _take(modules: list[nn.Module], kind: str, layer: Layer | None, read: Read) -> Part:
    """Take a layer off the front of the modules."""
    if isinstance(layer, C3Layer):
        return _take_c3(modules, layer, read)
    wanted = kind.removeprefix("NAS").split(".")[-1]
    module: Any = _next(modules, wanted, "Sequential")
    if layer is None:
        return {name: value.detach() for name, value in module.state_dict().items()}
    convs = list(module) if isinstance(module, nn.Sequential) else [module]
    weights = tuple(read(str(j) if len(convs) > 1 else "", conv) for j, conv in enumerate(convs))
    for conv in weights:
        _check_width(conv, layer.c2)
    return weights


def _writer(module: Any) -> Any:
    """The `Conv` that writes a module's output: itself, the last of repeats, cv3 of a C3, cv2 of SPPF."""
    last = module[-1] if isinstance(module, nn.Sequential) and len(module) else module
    convs = [getattr(last, name, None) for name in ("cv3", "cv2")]
    return next((m for m in (last, *convs) if hasattr(m, "conv") and hasattr(m, "bn")), None)


def _take_c3(modules: list[nn.Module], layer: C3Layer, read: Read) -> C3Weights:
    first: Any = _next(modules, "C3", "Conv")
    if type(first).__name__ == "C3":
        cv1, cv2, cv3, inner = first.cv1, first.cv2, first.cv3, list(first.m)
    else:  # written out, as `compile._c3_lines` does
        inner = []
        while modules and type(modules[0]).__name__ in ("Bottleneck", "Sequential"):
            module: Any = modules.pop(0)
            inner += list(module) if isinstance(module, nn.Sequential) else [module]
        cv1, cv2, _, cv3 = first, *(_next(modules, name) for name in ("Conv", "Concat", "Conv"))
    if not inner or any(type(b).__name__ != "Bottleneck" for b in inner):
        raise _MismatchError("has no bottlenecks")
    c3 = C3Weights.of(convs_of_c3(cv1, cv2, cv3, inner), read)
    _check_width(c3.cv3, layer.c2)
    return c3


def _next(modules: list[nn.Module], *names: str) -> nn.Module:
    found = type(modules[0]).__name__ if modules else "nothing"
    if found not in names:
        raise _MismatchError(f"is {found} in them, not {names[0]}")
    return modules.pop(0)


def _check_width(conv: ConvWeights, c2: int) -> None:
    if (own := len(conv.weight)) % 8 and not c2 % 8:
        raise _MismatchError(f"is pruned to {own} channels, a width that YOLOv5's parser can't build")
    if own != c2:
        raise _MismatchError(f"has {own} channels in them, not {c2} (is it of another size, or a P6 model?)")
