"""Weights of a trained model mapped onto another architecture of its space, so that a training goes on from there.

What an architecture adds to its source changes nothing at first, and what it drops is what mattered least:

- kernels are cut or padded with zeros, each tap staying where it was on the input;
- hidden widths keep their most important channels, or repeat some and share out what reads them (Chen et al. 2016,
  Net2Net, section 2.2);
- bottlenecks are added as identities, or the least important are left out;
- batch norm goes with its channels.

Where the mapping is not exact, what it lost is made up for by `refit`, and batch norm's statistics are estimated again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from ..space.architecture import Architecture, Value
from ..space.arithmetic import parse_kernel
from ..space.compile import weight_names
from ..space.layers import C3Layer, ConvLayer, Layer
from ..space.space import Space
from .channels import choose, importance, reading, select, writing
from .elastic import State, activation, rename_states
from .importance import Importance
from .source import C3Weights, ConvWeights, Name, Part, Source, are_same, convs_of, state_of

# An added bottleneck without a shortcut runs its activations around this point, where SiLU's second derivative is 0: it
# distorts what passes only a little. Farther right SiLU is straighter (SiLU(x + 12) is x + 12 within 1e-4), but then
# all channels are large compared with their differences, and a few steps of training destroy what passes
# (docs/inheritance.md).
SHIFT = 2.4


@dataclass(frozen=True)
class Inherited:
    """Weights for the derived model of an architecture, and whether it computes what the source does.

    Args:
        origins: the mapped convolutions of searchable layers, which know the source's that they come from.
    """

    state: State
    exact: bool
    origins: Mapping[Name, ConvWeights]


def inherit(source: Source, space: Space, architecture: Mapping[str, Value]) -> Inherited:
    """Map a source onto an architecture. Searchable layers always fit; `fitting` finds out what else does.

    If `exact`, outputs are the source's: bit for bit where nothing differs, up to rounding where kernels or widths have
    grown or bottlenecks with a shortcut were added.

    Raises:
        UserError: the architecture is not of the space.
    """
    space.validate(architecture)
    states: dict[str, State] = {}
    origins: dict[Name, ConvWeights] = {}
    exact = True
    for i, part in source.parts.items():
        mapped, same = _map_part(part, space.layers.get(i), architecture, space.multiples.default_act)
        states[f"model.{i}"] = state_of(mapped)
        origins |= {(i, name): conv for name, conv in convs_of(mapped).items()}
        exact &= same
    state = rename_states(states, weight_names(space, Architecture(architecture)))
    return Inherited({name: value.clone() for name, value in state.items()}, exact, origins)


def shared_state(source: Source, space: Space, largest: Mapping[str, Value]) -> State:
    """Weights for the supernet of a space, of which every architecture that only adds to the source computes what
    the source does, once its batch norm statistics are estimated.

    Narrower ones get its most important channels, which come first.

    Args:
        largest: the architecture that has all weights of the supernet.
    """
    state: State = {}
    for i, part in source.parts.items():
        layer = space.layers.get(i)
        own = state_of(_map_part(part, layer, largest, space.multiples.default_act, shared=True)[0])
        if isinstance(layer, ConvLayer):  # a NASConv holds its convolution as `conv`
            own = {re.sub(r"(conv|bn)\.", r"conv.\1.", name): value for name, value in own.items()}
        state |= {f"model.{i}.{name}": value for name, value in own.items()}
    return state


def fitting(given: State, own: State) -> tuple[State, list[str]]:
    """What of `given` fits a model of the state `own` by name and shape, and the names in `own` that get nothing.

    Anchors go with the detection layer's convolutions, which are of no use without them.
    """
    taken = {name: given[name] for name, value in own.items() if name in given and given[name].shape == value.shape}
    left = [name for name in own if name not in taken]
    if left:
        taken = {name: value for name, value in taken.items() if "anchor" not in name}
        left = [name for name in own if name not in taken]
    return taken, left


# Mapping a layer ------------------------------------------------------------------------------------------------------


def _map_part(
    part: Part, layer: Layer | None, architecture: Mapping[str, Value], default_act: str, shared: bool = False
) -> tuple[Part, bool]:
    """Return a layer's part for an architecture, and whether it computes the same; `shared` as `with_width` has it."""
    if isinstance(layer, ConvLayer):
        assert isinstance(part, tuple)
        k, p = parse_kernel(architecture[layer.kernel.label])
        act = activation(str(architecture[layer.act.label]))
        mapped = [map_conv(conv, k, p, act) for conv in part]
        return tuple(conv for conv, _ in mapped), all(same for _, same in mapped)
    if isinstance(layer, C3Layer):
        assert isinstance(part, C3Weights)
        return map_c3(part, layer, architecture, activation(default_act), shared)
    assert isinstance(part, dict)
    return part, True


def map_conv(conv: ConvWeights, k: int, p: int, act: nn.Module) -> tuple[ConvWeights, bool]:
    """A convolution with another kernel, padding and activation, and whether it computes the same.

    A tap stays where it was on the input: the padding says how far to move it, which is about the centre.
    """
    old, shift = conv.weight.shape[-1], round((p - conv.p) / conv.d)
    first, last = max(0, -shift), min(old, k - shift)  # the taps that have a place
    weight = conv.weight.new_zeros(*conv.weight.shape[:2], k, k)
    there, here = slice(first + shift, last + shift), slice(first, last)
    weight[:, :, there, there] = conv.weight[:, :, here, here]
    same = (first, last) == (0, old) and are_same(conv.act, act)
    return replace(conv, weight=weight, p=p, act=act), same


def map_c3(
    c3: C3Weights, layer: C3Layer, architecture: Mapping[str, Value], act: nn.Module, shared: bool = False
) -> tuple[C3Weights, bool]:
    """A C3 with another depth, hidden width, kernels and activations, and whether it computes the same."""
    n, c_ = layer.bottlenecks(architecture), layer.hidden(float(architecture[layer.width.label]))
    same = n >= len(c3.m) and c_ >= len(c3.cv1.weight)
    same &= all(are_same(conv.act, act) for conv in (c3.cv3, *(conv for pair in c3.m for conv in pair)))
    if n > len(c3.m):
        same &= layer.shortcut and float(act(torch.zeros(1))) == 0.0
    if shared:  # before bottlenecks are added, whose weights say nothing of the channels' importance
        c3 = with_width(c3, c_, layer.shortcut, shared)
    c3 = with_depth(c3, n, layer.shortcut, act)
    c3 = with_width(c3, c_, layer.shortcut)
    outer = []
    for conv, kernel, name in zip((c3.cv1, c3.cv2), layer.kernels, layer.acts):
        k, p = parse_kernel(architecture[kernel.label])
        conv, same_conv = map_conv(conv, k, p, activation(str(architecture[name.label])))
        outer.append(conv)
        same &= same_conv
    return replace(c3, cv1=outer[0], cv2=outer[1]), same


def _is_straight(act: nn.Module, at: float) -> bool:
    """Whether an activation is close to x plus a constant around `at`."""
    x = torch.tensor([0.0, -0.3, 1.0, 3.0])
    y = act(x + at)
    return bool((y - y[0] - x).abs().max() < 0.5)


# Depth ----------------------------------------------------------------------------------------------------------------


def with_depth(c3: C3Weights, n: int, shortcut: bool, act: nn.Module) -> C3Weights:
    """A C3 with `n` bottlenecks: identities are added at the end, or the least important are left out.

    Without shortcuts each bottleneck needs the one before it, so the last ones are left out.
    """
    m = list(c3.m)
    while len(m) > n:
        sizes = [float((b.bn["weight"].abs() if b.importance is None else b.importance.loss).mean()) for _, b in m]
        m.pop(sizes.index(min(sizes)) if shortcut else -1)
    if shortcut:
        return replace(c3, m=(*m, *[_silent(m[-1])] * (n - len(m))))
    return _with_passing(replace(c3, m=tuple(m)), n - len(m), act)


def _silent(pair: tuple[ConvWeights, ConvWeights]) -> tuple[ConvWeights, ConvWeights]:
    """A bottleneck whose residual is 0 until it has learned (Goyal et al. 2017, section 5.1)."""
    a, b = pair
    zero = torch.zeros_like(b.bn["weight"])
    silent = b.importance and Importance(zero, torch.zeros_like(b.importance.covariance))
    b = replace(b, bn={**b.bn, "weight": zero, "bias": zero}, importance=silent, origin=None)
    return replace(a, origin=None), b


def _with_passing(c3: C3Weights, count: int, act: nn.Module) -> C3Weights:
    """A C3 with more bottlenecks that pass on what they get, though they have no shortcut.

    An activation distorts what goes through it, except where it is a straight line. So each convolution passes its
    input on, shifted there by its batch norm; the batch norm of cv3, which reads the last one, undoes the shift.
    """
    if not count:
        return c3
    shift = SHIFT if _is_straight(act, SHIFT) else 0.0
    height = float(act(torch.tensor(shift)))  # where the shift ends up
    last = c3.m[-1][1]
    mean, variance = _moments(last, act)
    m = list(c3.m)
    for j in range(count):
        a, b = (
            _passing(like, mean + got, variance, mean + shift)
            for like, got in zip(c3.m[-1], (0.0 if j == 0 else height, height))
        )
        m.append((a, b))
    weight, bn = c3.cv3.weight, c3.cv3.bn
    moved = weight[:, : len(mean)].sum((1, 2, 3)) * height  # cv3 has 1x1 kernels
    return replace(c3, m=tuple(m), cv3=replace(c3.cv3, bn={**bn, "running_mean": bn["running_mean"] + moved}))


def _passing(like: ConvWeights, mean: torch.Tensor, variance: torch.Tensor, bias: torch.Tensor) -> ConvWeights:
    """A convolution that passes its input, of this mean and variance, moved to the mean `bias`."""
    weight = torch.zeros_like(like.weight)
    nn.init.dirac_(weight, like.g)
    bn = {"weight": (variance + like.eps).sqrt(), "bias": bias, "running_mean": mean, "running_var": variance}
    return replace(like, weight=weight, bn={**like.bn, **bn}, importance=None, origin=None)


def _moments(conv: ConvWeights, act: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of each output of a `Conv`, (c2,) each, taking what its batch norm gives for Gaussian."""
    z = torch.linspace(-5, 5, 101)[:, None]
    share = torch.softmax(-z * z / 2, 0)
    y = act(conv.bn["bias"] + conv.bn["weight"].abs() * z)  # (101, c2)
    mean = (share * y).sum(0)
    return mean, (share * (y - mean) ** 2).sum(0)


# Width ----------------------------------------------------------------------------------------------------------------


def with_width(c3: C3Weights, c_: int, shortcut: bool, shared: bool = False) -> C3Weights:
    """A C3 of another hidden width.

    A shortcut adds channel to channel: with shortcuts, the channels are chosen once for all bottlenecks.

    Args:
        shared: for a supernet, whose narrower architectures take the first channels: the most important come first,
            and added channels are read with weights of 0 until these have learned.
    """
    old = len(c3.cv1.weight)
    if c_ == old and not shared:
        return c3
    g = c3.m[0][1].g
    chain, branch = c3.cv3.weight[:, :old], c3.cv3.weight[:, old:]  # the parts of cv3 that read m and cv2
    written = [c3.cv1, *(b for _, b in c3.m)]
    scores = [importance(conv, reader) for conv, reader in zip(written, [*(a.weight for a, _ in c3.m), chain])]
    pick, reads = partial(_chosen, c=c_, shared=shared), partial(reading, once=shared)
    if shortcut:
        stages = [pick(written, torch.stack(scores).sum(0), g=g)] * len(written)
    else:
        stages = [pick([conv], score, g=g) for conv, score in zip(written, scores)]
    second = pick([c3.cv2], importance(c3.cv2, branch))
    m = []
    for (a, b), before, after in zip(c3.m, stages, stages[1:]):
        inner = pick([a], importance(a, b.weight, b.g), g=b.g)
        m.append((reads(writing(a, inner), before), reads(writing(b, after), inner)))
    cv3 = reads(c3.cv3, torch.cat((stages[-1], old + second)))
    return replace(c3, cv1=writing(c3.cv1, stages[0]), cv2=writing(c3.cv2, second), cv3=cv3, m=tuple(m))


def _chosen(
    convs: Sequence[ConvWeights], score: torch.Tensor, c: int, g: int = 1, shared: bool = False
) -> torch.Tensor:
    """The channels that a hidden width of `c` has, of convolutions whose outputs are added."""
    known = [conv.importance for conv in convs if conv.importance]
    if len(known) == len(convs) and c < len(score) and g == 1 and not shared:
        return select(known, c)
    return choose(score, c, g, shared)
