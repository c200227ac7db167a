"""NASConv and NASC3 as torch modules with one set of shared weights, and how YOLOv5's YAML parser learns of them.

Every convolution holds its weights at the largest kernel, width and depth of its options. A smaller option runs on a
slice of them: the centre of the kernel, the first channels, the first bottlenecks (as in once-for-all networks, Cai et
al. 2020). `extract` copies the slices of one architecture into a stock YOLOv5 model.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import UserError
from ..host.defaults import with_host_defaults
from ..host.yolov5 import Host, load
from ..space.architecture import Architecture, Value
from ..space.arithmetic import parse_kernel
from ..space.compile import derive, stock_form, weight_names
from ..space.layers import SEARCHABLE, C3Layer, ConvLayer, Layer
from ..space.space import Space

State = dict[str, torch.Tensor]


class SharedConv(nn.Module):
    """Convolution, batch norm and activation at the largest size of its options; runs the slice that `select` names.

    Args:
        c1, c2: largest number of input and output channels.
        kernels: (kernel, padding) options.
        acts: activation options, as in `ReLU` or `LeakyReLU(0.1)`.
        s, g, d: stride, groups, dilation.
    """

    def __init__(
        self, c1: int, c2: int, kernels: list[tuple[int, int]], acts: list[str], s: int = 1, g: int = 1, d: int = 1
    ):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, max(k for k, _ in kernels), s, 0, d, g, bias=False)
        self.bn = nn.BatchNorm2d(c2)
        self.acts = nn.ModuleList(activation(act) for act in acts)
        self.act_names = acts
        self.select(kernels[0], acts[0], c2)

    def select(
        self, kernel: tuple[int, int], act: str, c2: int | None = None, inputs: list[tuple[int, int]] | None = None
    ) -> None:
        """Choose what runs: (kernel, padding), activation, first `c2` outputs, ranges of input channels (all)."""
        self.kernel, self.act = kernel, self.act_names.index(act)
        self.c2 = c2 or self.conv.out_channels
        self.inputs = inputs or [(0, self.conv.in_channels)]

    def weight(self) -> torch.Tensor:
        """The selected slice: (c2, inputs / groups, k, k)."""
        weight, g = self.conv.weight[: self.c2], self.conv.groups
        if self.inputs != [(0, self.conv.in_channels)]:
            weight = torch.cat([weight[:, a // g : b // g] for a, b in self.inputs], 1)
        k = self.kernel[0]
        start = (weight.shape[-1] - k) // 2
        return weight[:, :, start : start + k, start : start + k]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        conv, bn, c2 = self.conv, self.bn, self.c2
        x = F.conv2d(x, self.weight(), None, conv.stride, self.kernel[1], conv.dilation, conv.groups)
        if self.training and bn.num_batches_tracked is not None:
            bn.num_batches_tracked.add_(1)
        mean, var = bn.running_mean[:c2], bn.running_var[:c2]  # type: ignore[index]  # views: updated in place
        x = F.batch_norm(x, mean, var, bn.weight[:c2], bn.bias[:c2], self.training, bn.momentum or 0.0, bn.eps)
        return self.acts[self.act](x)

    def stock_state(self) -> State:
        """The state of YOLOv5's `Conv` for what is selected."""
        state: dict[str, Any] = {"conv.weight": self.weight()}
        for name in ("weight", "bias", "running_mean", "running_var"):
            state[f"bn.{name}"] = getattr(self.bn, name)[: self.c2]
        state["bn.num_batches_tracked"] = self.bn.num_batches_tracked
        return {name: value.detach().clone() for name, value in state.items()}


class NASConv(nn.Module):
    """A searchable `Conv`: kernel with its padding, and activation."""

    def __init__(self, c1: int, layer: ConvLayer):
        super().__init__()
        kernels = [parse_kernel(o) for o in layer.kernel.options]
        self.layer = layer
        self.conv = SharedConv(c1, layer.c2, kernels, list(map(str, layer.act.options)), layer.s, layer.g, layer.d)
        self.set_architecture({c.label: c.default for c in layer.choices})

    def set_architecture(self, architecture: Mapping[str, Value]) -> None:
        """Run this architecture from now on."""
        layer = self.layer
        self.conv.select(parse_kernel(architecture[layer.kernel.label]), str(architecture[layer.act.label]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)

    def stock_state(self) -> State:
        """The state of YOLOv5's `Conv` for the architecture that is set."""
        return self.conv.stock_state()


class SharedBottleneck(nn.Module):
    """A `Bottleneck` of a C3 (expansion 1.0), of which the first `c_` channels run."""

    def __init__(self, c_: int, shortcut: bool, g: int, act: str):
        super().__init__()
        self.cv1 = SharedConv(c_, c_, [(1, 0)], [act])
        self.cv2 = SharedConv(c_, c_, [(3, 1)], [act], g=g)
        self.add = shortcut

    def select(self, c_: int) -> None:
        """Choose the hidden width."""
        self.cv1.select((1, 0), self.cv1.act_names[0], c_, [(0, c_)])
        self.cv2.select((3, 1), self.cv2.act_names[0], c_, [(0, c_)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


class NASC3(nn.Module):
    """A searchable `C3`: hidden width, number of bottlenecks, kernel and activation of cv1 and cv2."""

    def __init__(self, c1: int, layer: C3Layer, default_act: str):
        super().__init__()
        self.layer, self.default_act = layer, default_act
        self.c_max = c_ = max(layer.hidden(float(scale)) for scale in layer.width.options)
        depth = max(map(int, layer.depth.options)) if layer.depth else layer.repeats
        kernels = [[parse_kernel(o) for o in c.options] for c in layer.kernels]
        acts = [list(map(str, c.options)) for c in layer.acts]
        self.cv1 = SharedConv(c1, c_, kernels[0], acts[0])
        self.cv2 = SharedConv(c1, c_, kernels[1], acts[1])
        self.cv3 = SharedConv(2 * c_, layer.c2, [(1, 0)], [default_act])
        self.m = nn.ModuleList(SharedBottleneck(c_, layer.shortcut, layer.g, default_act) for _ in range(depth))
        self.set_architecture({c.label: c.default for c in layer.choices})

    def set_architecture(self, architecture: Mapping[str, Value]) -> None:
        """Run this architecture from now on."""
        layer = self.layer
        c_ = layer.hidden(float(architecture[layer.width.label]))
        self.depth = layer.bottlenecks(architecture)
        for conv, kernel, act in zip((self.cv1, self.cv2), layer.kernels, layer.acts):
            conv.select(parse_kernel(architecture[kernel.label]), str(architecture[act.label]), c_)
        for bottleneck in self.bottlenecks():
            bottleneck.select(c_)
        self.cv3.select((1, 0), self.default_act, inputs=[(0, c_), (self.c_max, self.c_max + c_)])

    def bottlenecks(self) -> list[Any]:
        """Those that run."""
        return list(self.m)[: self.depth]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.cv1(x)  # (B, c_, H, W)
        for bottleneck in self.bottlenecks():
            y = bottleneck(y)
        return self.cv3(torch.cat((y, self.cv2(x)), 1))

    def stock_state(self) -> State:
        """The state of YOLOv5's `C3` for the architecture that is set."""
        parts = {"cv1": self.cv1, "cv2": self.cv2, "cv3": self.cv3}
        for j, bottleneck in enumerate(self.bottlenecks()):
            parts |= {f"m.{j}.cv1": bottleneck.cv1, f"m.{j}.cv2": bottleneck.cv2}
        return {f"{part}.{name}": v for part, conv in parts.items() for name, v in conv.stock_state().items()}


def activation(name: str) -> nn.Module:
    """The torch module of an activation option (a name that `activations.activation_name` let through)."""
    return eval(f"nn.{name}" if name.endswith(")") else f"nn.{name}()", {"nn": nn})


# YOLOv5's parser ------------------------------------------------------------------------------------------------------


def register(host: Host | None = None) -> None:
    """Teach the host's YAML parser NASConv and NASC3, so that its own `Model("yolov5s_nas.yaml")` builds them.

    The model then has one set of weights that all architectures of the YAML share, and runs the default one until
    `set_architecture` chooses another. Model YAMLs without such layers build exactly as before. Calling it again
    changes nothing; `unregister` undoes it.

    >>> from yolov5_nas import Space
    >>> register()
    >>> model = load().build(Space.from_yaml("yolov5n_nas.yaml").yaml)  # YOLOv5's Model, of the same YAML
    >>> _, raw = model.eval()(torch.zeros(1, 3, 64, 64))  # images (B, 3, H, W) of 0 to 1
    >>> [tuple(level.shape) for level in raw]  # (B, anchors, H / stride, W / stride, 5 + classes)
    [(1, 3, 8, 8, 85), (1, 3, 4, 4, 85), (1, 3, 2, 2, 85)]

    Raises:
        UserError: no YOLOv5 is found, or it can't be used.
    """
    host = host or load()
    stock = host.yolo.parse_model
    if hasattr(stock, "stock"):
        return

    @functools.wraps(stock)
    def parse_model(d: dict[str, Any], ch: list[int]) -> tuple[nn.Sequential, list[int]]:
        if not any(row[2] in SEARCHABLE for row in [*d["backbone"], *d["head"]]):
            return stock(d, ch)
        space = Space.from_dict(with_host_defaults(d, host))
        if formed := [choice.label for choice in space.whole if choice.label != "imgsz"]:
            raise UserError(f"shared weights have no choice of {' and '.join(formed)}", file=space.source)
        model, save = stock(stock_form(space.yaml), ch)  # works out channels; then the searchable layers move in
        for i, layer in space.layers.items():
            model[i] = _searchable(model[i], layer, space)
        model.space = space
        return model, save

    parse_model.stock = stock  # type: ignore[attr-defined]
    host.yolo.parse_model = parse_model


def unregister(host: Host | None = None) -> None:
    """Give the host its own parser back."""
    host = host or load()
    host.yolo.parse_model = getattr(host.yolo.parse_model, "stock", host.yolo.parse_model)


def set_architecture(model: nn.Module, architecture: Mapping[str, Value]) -> None:
    """Let a shared-weights model run this architecture from now on.

    >>> from yolov5_nas import Space
    >>> register()
    >>> space = Space.from_yaml("yolov5n_nas.yaml")
    >>> model = load().build(space.yaml)
    >>> set_architecture(model, {**space.default(), "c3_2": 2.0})
    >>> set_architecture(model, {"c3_2": 2.0})
    Traceback (most recent call last):
    yolov5_nas.errors.UserError: an architecture must have a value for nasconv_0; accepted: k6p2, k4p1, k8p3

    Raises:
        UserError: the architecture is not of the model's space.
    """
    layers, space = _layers_and_space(model)
    architecture = _of_layers(architecture)
    space.validate(architecture)
    for i in space.layers:
        for module in _repeats(layers[i]):
            module.set_architecture(architecture)


def extract(model: nn.Module, architecture: Architecture, host: Host | None = None) -> nn.Module:
    """One architecture of a shared-weights model as a stock YOLOv5 model with its weights, on the same device.

    Leaves that architecture set in `model`. The stock model's outputs are those that `model` then has.

    >>> import random
    >>> from yolov5_nas import Space
    >>> register()
    >>> space = Space.from_yaml("yolov5n_nas.yaml")
    >>> model, image = load().build(space.yaml).eval(), torch.rand(1, 3, 64, 64)
    >>> stock = extract(model, space.sample(random.Random(0)))
    >>> torch.equal(stock(image)[0], model(image)[0])  # (B, boxes, 5 + classes)
    True

    Raises:
        UserError: the architecture is not of the model's space.
    """
    layers, space = _layers_and_space(model)
    architecture = _of_layers(architecture)
    set_architecture(model, architecture)
    states: dict[str, State] = {}
    for i, module in enumerate(layers):
        if i not in space.layers:
            states[f"model.{i}"] = module.state_dict()
        elif isinstance(module, nn.Sequential):
            repeats = [m.stock_state() for m in _repeats(module)]
            states[f"model.{i}"] = {f"{j}.{n}": v for j, state in enumerate(repeats) for n, v in state.items()}
        else:
            states[f"model.{i}"] = module.stock_state()
    stock = (host or load()).build(derive(space, architecture))
    stock.load_state_dict(rename_states(states, weight_names(space, architecture)))
    for name in ("names", "nc", "hyp", "class_weights"):
        if hasattr(model, name):
            setattr(stock, name, getattr(model, name))
    return stock.to(next(model.parameters()).device).train(model.training)


def anchor_count(model: Any) -> int | None:
    """How many anchors hyper-parameters made a model have at each place; None where it has its YAML's."""
    anchors = model.yaml.get("anchors")
    return anchors if isinstance(anchors, int) else None


def rename_states(states: Mapping[str, State], names: Mapping[str, str]) -> State:
    """States by layer of a stock-shaped model, as one state dict of the derived model.

    Args:
        states: `{"model.2": {"cv1.conv.weight": ...}}`.
        names: from `compile.weight_names`.
    """
    result: State = {}
    for derived, origin in names.items():
        layer = ".".join(origin.split(".")[:2])
        part = origin[len(layer) + 1 :]
        prefix = part + "." if part else ""
        state = states.get(layer, {})
        result |= {f"{derived}.{n[len(prefix) :]}": v for n, v in state.items() if n.startswith(prefix)}
    return result


def _of_layers(architecture: Mapping[str, Value]) -> Architecture:
    """The choices of an architecture that concern layers, without the input size, which is not the model's."""
    return Architecture({label: value for label, value in architecture.items() if label != "imgsz"})


def _layers_and_space(model: Any) -> tuple[Any, Space]:
    layers = model.model
    if not hasattr(layers, "space"):
        raise UserError("the model must be built from a YAML with NASConv or NASC3 layers, after register()")
    return layers, layers.space


def _repeats(module: nn.Module) -> list[Any]:
    return list(module) if isinstance(module, nn.Sequential) else [module]


def _searchable(stock: Any, layer: Layer, space: Space) -> nn.Module:
    """The searchable module instead of the stock one that the parser built, with the parser's marks on it."""
    module: Any
    if isinstance(layer, C3Layer):
        module = NASC3(stock.cv1.conv.in_channels, layer, space.multiples.default_act)
    elif isinstance(stock, nn.Sequential):
        module = nn.Sequential(*(NASConv(m.conv.in_channels, layer) for m in _repeats(stock)))
    else:
        module = NASConv(stock.conv.in_channels, layer)
    module.i, module.f = stock.i, stock.f
    module.type = f"yolov5_nas.weights.elastic.{'NASC3' if isinstance(layer, C3Layer) else 'NASConv'}"
    module.np = sum(p.numel() for p in module.parameters())
    return module
