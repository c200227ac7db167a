"""The search space: labelled choices read from a YOLOv5 model YAML that names NASConv and NASC3.

A space is data. It is read, listed, counted and sampled in milliseconds, without torch and without YOLOv5.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from ..files import shipped
from .architecture import Architecture, Value

WIDTH_SCALES = (1.0, 1.5, 2.0)  # plain NASC3: scale of the hidden width
PLAIN_ACTS = ("SiLU", "Identity", "ReLU")
ACTIVATIONS = (  # those without weights: YOLOv5 gives all repeats of a line the same instance
    *PLAIN_ACTS,
    "ReLU6",
    "LeakyReLU",
    "ELU",
    "GELU",
    "Mish",
    "Hardswish",
    "Hardsigmoid",
    "Hardtanh",
    "Sigmoid",
    "Softplus",
    "Tanh",
)
# The modules whose first argument YOLOv5's parse_model scales by width_multiple, over all supported versions.
SCALED_MODULES = frozenset(
    (
        *("Conv", "GhostConv", "Bottleneck", "GhostBottleneck", "SPP", "SPPF", "DWConv", "MixConv2d", "Focus"),
        *("CrossConv", "BottleneckCSP", "C3", "C3TR", "C3SPP", "C3Ghost", "nn.ConvTranspose2d", "DWConvTranspose2d"),
        *("C3x", "NASConv", "NASC3"),
    )
)
SEARCHABLE = ("NASConv", "NASC3")
CONV_OPTIONS = ("kernel", "act")
C3_OPTIONS = ("width", "depth", "kernel", "act")
STRIDE = 32  # YOLOv5's largest stride: input sizes are multiples of it


@dataclass(frozen=True)
class Choice:
    """One decision of the search: a label, its options in order, and the one that stock YOLOv5 takes."""

    label: str
    options: tuple[Value, ...]
    default: Value

    def __post_init__(self) -> None:
        if not self.options or len(set(self.options)) != len(self.options):
            raise UserError(f"the options of {self.label} must be at least one and all different", got=self.options)
        if self.default not in self.options:
            raise UserError(f"the default of {self.label} must be one of its options", got=self.default)


@dataclass(frozen=True)
class ConvLayer:
    """A NASConv line with everything scaled: `c2` channels out, stride `s`, groups `g`, dilation `d`."""

    index: int
    repeats: int
    c2: int
    s: int
    g: int
    d: int
    kernel: Choice
    act: Choice

    @property
    def choices(self) -> tuple[Choice, ...]:
        return self.kernel, self.act


@dataclass(frozen=True)
class C3Layer:
    """A NASC3 line with everything scaled: `c2` channels out, `repeats` bottlenecks in the stock layer."""

    index: int
    repeats: int
    c2: int
    shortcut: bool
    g: int
    e: float
    width: Choice
    depth: Choice | None
    kernels: tuple[Choice, Choice]  # of cv1, cv2
    acts: tuple[Choice, Choice]

    @property
    def choices(self) -> tuple[Choice, ...]:
        depth = (self.depth,) if self.depth else ()
        return (self.width, *depth, self.kernels[0], self.acts[0], self.kernels[1], self.acts[1])

    def hidden(self, scale: float) -> int:
        """Hidden channels at a width scale: stock at 1.0, else rounded up to a multiple of 8."""
        return hidden_width(self.c2, self.e, scale)

    def bottlenecks(self, architecture: Mapping[str, Value]) -> int:
        """The number of bottlenecks that an architecture gives this layer."""
        return int(architecture[self.depth.label]) if self.depth else self.repeats


Layer = ConvLayer | C3Layer


@dataclass(frozen=True)
class Space:
    """An ordered set of labelled choices over one YOLOv5 model YAML.

    >>> import random
    >>> space = Space.from_yaml("yolov5n_nas.yaml")
    >>> space.size, len(space.choices), space.choices["c3_2"].options
    (1586874322944, 30, (1.0, 1.5, 2.0))
    >>> space.default()["nasconv_0"], space.sample(random.Random(0))["nasconv_0"]
    ('k6p2', 'k4p1')
    >>> print(space.check({**space.default(), "c3_2": 3}))
    c3_2 must be one of its options, got 3; accepted: 1.0, 1.5, 2.0

    Args:
        yaml: the model YAML as a dict, searchable layers included.
        layers: the searchable layers by their line's index in backbone + head.
        imgsz: the choice of the input size, where the YAML lists several.
        source: the file it was read from, for messages.
    """

    yaml: Mapping[str, Any]
    layers: Mapping[int, Layer]
    imgsz: Choice | None = None
    source: str = "model YAML"
    choices: Mapping[str, Choice] = field(init=False)

    def __post_init__(self) -> None:
        found = [c for layer in self.layers.values() for c in layer.choices] + ([self.imgsz] if self.imgsz else [])
        object.__setattr__(self, "choices", {c.label: c for c in found})

    @classmethod
    def from_yaml(cls, path: str | Path, nc: int | None = None, imgsz: int | None = None) -> Space:
        """Read a space from a file.

        Args:
            path: a YOLOv5 model YAML with at least one NASConv or NASC3 line, or the name of a shipped one.
            nc: number of classes, in place of the YAML's.
            imgsz: default input size in pixels, where the YAML makes the input size a choice.

        Raises:
            UserError: the file is missing, is no such YAML, or a line of it can't be searched (file and line given).
        """
        if not Path(path).exists() and (shipped("models") / path).is_file():
            path = shipped("models") / path
        model, lines = read_model_yaml(Path(path))
        return cls.from_dict(model, nc=nc, imgsz=imgsz, source=str(path), lines=lines)

    @classmethod
    def from_dict(
        cls,
        model: Mapping[str, Any],
        nc: int | None = None,
        imgsz: int | None = None,
        source: str = "model YAML",
        lines: Sequence[int] = (),
    ) -> Space:
        """As `from_yaml`, from the loaded YAML; `lines` are the line numbers of its layers, for messages."""
        model = {**model, "nc": nc or model["nc"]}
        parser = _LayerParser(model, source, lines)
        rows = [*model["backbone"], *model["head"]]
        for i, row in enumerate(rows):
            parser.check(i, row)
        layers = {i: parser.layer(i, row) for i, row in enumerate(rows) if row[2] in SEARCHABLE}
        if not layers:
            raise UserError(
                "a model YAML to search needs at least one NASConv or NASC3 layer, found none"
                " (replace a Conv by NASConv or a C3 by NASC3, or take a shipped one such as yolov5n_nas.yaml)",
                file=source,
            )
        return cls(model, layers, _imgsz_choice(model.get("imgsz"), imgsz, source), source)

    @property
    def multiples(self) -> Multiples:
        """The YAML's width and depth multiples and its activation."""
        return Multiples(self.yaml)

    @property
    def size(self) -> int:
        """How many architectures the space holds."""
        return math.prod(len(c.options) for c in self.choices.values())

    def default(self) -> Architecture:
        """Stock YOLOv5, or the nearest to it that the options allow."""
        return Architecture({label: c.default for label, c in self.choices.items()})

    def at(self, index: int) -> Architecture:
        """The architecture of a number from 0 to `size` - 1 (mixed radix, the last label running fastest)."""
        if not 0 <= index < self.size:
            raise IndexError(f"0 <= index < {self.size} must hold, but got {index}")
        picked = {}
        for label, choice in reversed(list(self.choices.items())):
            index, digit = divmod(index, len(choice.options))
            picked[label] = choice.options[digit]
        return Architecture({label: picked[label] for label in self.choices})

    def sample(self, rng: random.Random) -> Architecture:
        """An architecture drawn uniformly."""
        return Architecture({label: rng.choice(c.options) for label, c in self.choices.items()})

    def mutate(self, architecture: Architecture, rng: random.Random) -> Architecture:
        """A copy with one label changed to another of its options (Real et al. 2019, section 2)."""
        open_labels = [c for c in self.choices.values() if len(c.options) > 1]
        if not open_labels:
            return architecture
        choice = rng.choice(open_labels)
        return architecture.with_value(
            choice.label, rng.choice([o for o in choice.options if o != architecture[choice.label]])
        )

    def neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """All architectures that differ in exactly one label, in the order of the labels and their options."""
        for choice in self.choices.values():
            for option in choice.options:
                if option != architecture[choice.label]:
                    yield architecture.with_value(choice.label, option)

    def to_nni(self) -> Any:
        """NNI's symbolic form of the space (an `ExecutableModelSpace`), for those who drive NNI themselves.

        Its `freeze` takes `{label: value}`; the frozen space's `sample` is such a dict.
        """
        # By name: NNI is optional, takes seconds to import, and its file lies above this one.
        return import_module("yolov5_nas.engines.nni.space").symbolic(self)

    def check(self, architecture: Mapping[str, Value]) -> UserError | None:
        """The reason why an architecture is not of this space, or None."""
        for label in architecture:
            if label not in self.choices:
                return UserError("an architecture's labels must be the space's", got=label, accepted=self.choices)
        for label, choice in self.choices.items():
            if label not in architecture:
                return UserError(f"an architecture must have a value for {label}", accepted=choice.options)
            if architecture[label] not in choice.options:
                return UserError(
                    f"{label} must be one of its options", got=architecture[label], accepted=choice.options
                )
        return None

    def validate(self, architecture: Mapping[str, Value]) -> None:
        """Raise what `check` returns."""
        if error := self.check(architecture):
            raise error


# Reading the YAML -----------------------------------------------------------------------------------------------------


def load_yaml(path: Path) -> tuple[Any, yaml.Node | None]:
    """A YAML file's content and its node tree (which knows line numbers).

    Raises:
        UserError: the file is missing or unreadable, or is no YAML (with the line).
    """
    try:
        text = path.read_text(encoding="utf-8", errors="ignore")
    except OSError as e:
        raise UserError(f"the file can't be read ({e.strerror or e})", file=path) from None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        return (loader.construct_document(node) if node else None), node
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        problem = " ".join(str(getattr(e, "problem", None) or e).split())
        raise UserError(f"no valid YAML: {problem}", file=path, line=mark.line + 1 if mark else None) from None


def read_model_yaml(path: Path) -> tuple[dict[str, Any], list[int]]:
    """A model YAML as a dict, and the line number of each of its layers.

    Raises:
        UserError: it has no backbone and head, or lacks a key that YOLOv5 needs.
    """
    model, node = load_yaml(path)
    if not isinstance(model, dict) or not {"backbone", "head"} <= set(model):
        hint = ""
        if isinstance(model, dict) and {"train", "val", "names"} & set(model):
            hint = " (this is a dataset YAML: were --cfg and --data mixed up?)"
        raise UserError(f"a model YAML must have a backbone and a head{hint}", file=path)
    assert isinstance(node, yaml.MappingNode)
    nodes = {key.value: value for key, value in node.value}
    for key in ("nc", "depth_multiple", "width_multiple", "anchors"):
        if key not in model:
            raise UserError(f"a model YAML must have the key {key}", file=path)
        if rule := _top_level_rule(key, model[key]):
            raise UserError(rule, got=model[key], file=path, line=nodes[key].start_mark.line + 1)
    lines: list[int] = []
    for part in ("backbone", "head"):
        if not isinstance(model[part], list) or not model[part]:
            raise UserError(f"{part} must be a list of layers", got=model[part], file=path)
        for row, row_node in zip(model[part], nodes[part].value):
            line = row_node.start_mark.line + 1
            if not (isinstance(row, list) and len(row) == 4 and isinstance(row[2], str) and isinstance(row[3], list)):
                raise UserError("a layer must be [from, number, module, args]", got=row, file=path, line=line)
            lines.append(line)
    return model, lines


def _top_level_rule(key: str, value: Any) -> str | None:
    """The rule that the value of a model YAML's key breaks, if it does."""
    if isinstance(value, list) and key == "anchors":
        pairs = value and all(isinstance(a, list) and a and len(a) % 2 == 0 for a in value)
        return None if pairs else "anchors must be a list of widths and heights for each output"
    whole = key in ("nc", "anchors")
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or value <= 0:
        return f"{key} must be a {'whole ' if whole else ''}number above 0"
    return None


def make_divisible(x: float, divisor: int = 8) -> int:
    """`x` rounded up to a multiple of `divisor`, as YOLOv5 rounds widths."""
    return math.ceil(x / divisor) * divisor


def autopad(k: int, p: int | None = None, d: int = 1) -> int:
    """YOLOv5's padding of a kernel where none is given."""
    return (d * (k - 1) + 1) // 2 if p is None else p


def hidden_width(c2: int, e: float, scale: float) -> int:
    """Hidden channels of a C3 with `c2` outputs and expansion `e`, at a width scale."""
    stock = int(c2 * e)
    return stock if scale == 1.0 else make_divisible(stock * scale)


def kernel_name(k: int, p: int) -> str:
    """A kernel option as it is written: `k6p2`."""
    return f"k{k}p{p}"


def parse_kernel(name: Value) -> tuple[int, int]:
    """Kernel and padding of `k6p2`: (6, 2)."""
    k, p = str(name)[1:].split("p")
    return int(k), int(p)


def same_output(k: int, p: int, given: tuple[int, int], s: int, d: int = 1) -> bool:
    """Whether kernel `k` with padding `p` keeps the output size of the given (kernel, padding).

    The size is floor((H + 2p - d(k-1) - 1) / s) + 1. Inside a YOLOv5 model H is a multiple of the stride s, since
    the input is a multiple of the largest stride, so H drops out of the comparison.
    """

    def offset(kk: int, pp: int) -> int:
        return (2 * pp - d * (kk - 1) - 1) // s

    return offset(k, p) == offset(*given)


class Multiples:
    """What parse_model does to a layer's numbers: width and depth multiples, and the YAML's own activation."""

    def __init__(self, model: Mapping[str, Any]):
        self.model = model
        self.default_act = activation_name(model.get("activation") or "nn.SiLU()") or ""

    def channels(self, c2: int) -> int:
        """Output channels as parse_model scales them (it leaves the width of a detection output as it is)."""
        anchors = self.model["anchors"]
        na = len(anchors[0]) // 2 if isinstance(anchors, list) else anchors
        return c2 if c2 == na * (self.model["nc"] + 5) else self.width(c2)

    def width(self, c: int) -> int:
        """A width as `width_multiple` scales it, rounded up to a multiple of 8."""
        return make_divisible(c * self.model["width_multiple"])

    def repeats(self, number: int) -> int:
        """Repeats as parse_model scales them."""
        return max(round(number * self.model["depth_multiple"]), 1) if number > 1 else number


class _LayerParser:
    """Turns NASConv and NASC3 lines into layers; knows the YAML's multiples and where each line stands."""

    def __init__(self, model: Mapping[str, Any], source: str, lines: Sequence[int]):
        self.multiples, self.source, self.lines = Multiples(model), source, lines
        self.default_act = self.multiples.default_act
        if not self.default_act:
            rule = "activation must be an activation of torch.nn without weights"
            raise UserError(rule, got=model["activation"], accepted=ACTIVATIONS, file=source)
        if model.get("channel_multiple") not in (None, 8):
            rule = "channel_multiple must be 8 (only the newest YOLOv5 reads it)"
            raise UserError(rule, got=model["channel_multiple"], file=source)

    def fail(self, i: int, rule: str, got: object = None, accepted: Any = None) -> UserError:
        line = self.lines[i] if i < len(self.lines) else None
        rule = rule if line else f"layer {i}: {rule}"
        return UserError(rule, got=got, accepted=accepted, file=self.source, line=line)

    def check(self, i: int, row: Sequence[Any]) -> None:
        """Raise if a line, searchable or not, is one that YOLOv5 could not build."""
        f, number, module, args = row
        for x in f if isinstance(f, list) else [f]:
            if not isinstance(x, int) or not (x == -1 or -i <= x < i):
                raise self.fail(i, "from must be -1 or name earlier layers", got=f)
        if not isinstance(number, int) or number < 1:
            raise self.fail(i, f"{module} needs a number of repeats of at least 1", got=number)
        if module in SCALED_MODULES and not (args and _is_number(args[0]) and args[0] > 0):
            raise self.fail(i, f"{module} needs its output channels as first argument", got=args[:1])
        if module in SEARCHABLE:
            return
        if str(module).lower().startswith("nas"):
            raise self.fail(i, "unknown searchable layer", got=module, accepted=SEARCHABLE)
        if args and isinstance(args[-1], Mapping):
            raise self.fail(i, f"only searchable layers take options, {module} does not", got=args[-1])

    def layer(self, i: int, row: Sequence[Any]) -> Layer:
        f, number, module, args = row
        if isinstance(f, list):
            raise self.fail(i, f"{module} must read one layer", got=f)
        options = {}
        if args and isinstance(args[-1], Mapping):
            args, options = args[:-1], args[-1]
        args = [{"None": None, "True": True, "False": False}.get(a, a) if isinstance(a, str) else a for a in args]
        accepted = CONV_OPTIONS if module == "NASConv" else C3_OPTIONS
        for key, values in options.items():
            if key not in accepted:
                raise self.fail(i, f"unknown option of {module}", got=key, accepted=accepted)
            if not isinstance(values, list) or not values:
                raise self.fail(i, f"{module} {key} must be a list of options", got=values)
        return (self._conv if module == "NASConv" else self._c3)(i, number, args, options)

    def _conv(self, i: int, number: int, args: list[Any], options: Mapping[str, list[Any]]) -> ConvLayer:
        if len(args) > 7:
            raise self.fail(i, "NASConv takes [c2, k, s, p, g, d, act]", got=args)
        c2, k, s, p, g, d, act = _filled(args, (0, 1, 1, None, 1, 1, True))
        for name, value, least in (("k", k, 1), ("s", s, 1), ("g", g, 1), ("d", d, 1), ("p", 0 if p is None else p, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise self.fail(i, f"NASConv {name} must be a whole number of at least {least}", got=value)
        c2 = self.multiples.channels(c2)
        if c2 % g:
            raise self.fail(i, f"NASConv output channels must be a multiple of its groups ({g})", got=c2)
        default_act = {True: self.default_act, False: "Identity"}.get(act) if isinstance(act, bool) else None
        default_act = default_act or self._act(i, "NASConv", act)
        if "kernel" in options:
            kernels = tuple(self._kernel(i, "NASConv", kk, (k, autopad(k, p, d)), s, d) for kk in options["kernel"])
        else:
            kernels = plain_kernels(k, s, p, d)
        return ConvLayer(
            index=i,
            repeats=self.multiples.repeats(number),
            c2=c2,
            s=s,
            g=g,
            d=d,
            kernel=self._choice(i, f"nasconv_{i}", kernels, kernel_name(k, autopad(k, p, d))),
            act=self._act_choice(i, f"nasconv_{i}_act", "NASConv", options.get("act"), default_act),
        )

    def _c3(self, i: int, number: int, args: list[Any], options: Mapping[str, list[Any]]) -> C3Layer:
        if i == 0:
            raise self.fail(i, "NASC3 can't be the first layer (its branches both need a layer before it)")
        if len(args) > 4:
            raise self.fail(i, "NASC3 takes [c2, shortcut, g, e]", got=args)
        c2, shortcut, g, e = _filled(args, (0, True, 1, 0.5))
        c2 = self.multiples.channels(c2)
        if not isinstance(g, int) or g < 1 or not _is_number(e) or e <= 0:
            raise self.fail(i, "NASC3 needs groups of at least 1 and an expansion above 0", got=[g, e])
        widths = self._widths(i, options.get("width", WIDTH_SCALES), c2, e, g)
        repeats = self.multiples.repeats(number)
        depths = options.get("depth", [])
        for depth in depths:
            if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
                raise self.fail(i, "NASC3 depth must be a whole number of bottlenecks of at least 1", got=depth)
        kernels = tuple(self._kernel(i, "NASC3", k, (1, 0), 1, 1) for k in options.get("kernel", [1, 3]))
        layer = C3Layer(
            index=i,
            repeats=repeats,
            c2=c2,
            shortcut=bool(shortcut),
            g=g,
            e=float(e),
            width=self._choice(i, f"c3_{i}", widths, 1.0),
            depth=self._choice(i, f"c3_{i}_depth", tuple(depths), repeats) if depths else None,
            kernels=(
                self._choice(i, f"nasconv_{i}-1", kernels, "k1p0"),
                self._choice(i, f"nasconv_{i}-2", kernels, "k1p0"),
            ),
            acts=(
                self._act_choice(i, f"nasconv_{i}-1_act", "NASC3", options.get("act"), self.default_act),
                self._act_choice(i, f"nasconv_{i}-2_act", "NASC3", options.get("act"), self.default_act),
            ),
        )
        plain = all(c.options == ("k1p0",) for c in layer.kernels)
        plain = plain and all(c.options == (self.default_act,) for c in layer.acts)
        odd = [h for h in map(layer.hidden, map(float, widths)) if h % 8]
        if odd and not plain:
            # Written out line by line, each hidden width goes through the parser, which rounds it up to 8.
            raise self.fail(
                i,
                "NASC3 hidden width must be a multiple of 8 where kernels or activations are searched",
                got=odd[0],
                accepted="another c2 or e, or {kernel: [1], act: [" + self.default_act + "]}",
            )
        return layer

    def _widths(self, i: int, scales: Sequence[Any], c2: int, e: float, g: int) -> tuple[float, ...]:
        """The scales whose hidden widths differ; of those that round to the same width, stock's 1.0 or the first."""
        for scale in scales:
            if not _is_number(scale) or scale <= 0:
                raise self.fail(i, "NASC3 width must be > 0", got=scale)
        kept: dict[int, float] = {}
        for scale in sorted(map(float, scales), key=lambda scale: scale != 1.0):
            hidden = hidden_width(c2, e, scale)
            if hidden < 1 or hidden % g:
                raise self.fail(i, f"NASC3 hidden width must be a multiple of its groups ({g})", got=hidden)
            kept.setdefault(hidden, scale)
        return tuple(float(scale) for scale in scales if scale in kept.values())

    def _choice(self, i: int, label: str, options: tuple[Value, ...], default: Value) -> Choice:
        if len(set(options)) != len(options):
            raise self.fail(i, f"the options of {label} must all be different", got=list(options))
        return Choice(label, options, default if default in options else options[0])

    def _kernel(self, i: int, module: str, k: Any, given: tuple[int, int], s: int, d: int) -> str:
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise self.fail(i, f"{module} kernel must be a whole number of at least 1", got=k)
        if k == given[0]:
            return kernel_name(*given)
        for p in range(d * k + given[1] + 1):
            if same_output(k, p, given, s, d):
                return kernel_name(k, p)
        raise self.fail(
            i,
            f"{module} kernel must keep the output size of {kernel_name(*given)} at stride {s}; no padding does for it",
            got=k,
        )

    def _act(self, i: int, module: str, act: Any) -> str:
        name = activation_name(act)
        if name is None:
            rule = f"{module} act must be an activation of torch.nn without weights"
            raise self.fail(i, rule, got=act, accepted=ACTIVATIONS)
        return name

    def _act_choice(self, i: int, label: str, module: str, given: list[Any] | None, default: str) -> Choice:
        if given is not None:
            options = tuple(self._act(i, module, a) for a in given)
        else:
            options = (default, *(a for a in PLAIN_ACTS if a != default))
        return self._choice(i, label, options, default)


def plain_kernels(k: int, s: int, p: int | None = None, d: int = 1) -> tuple[str, ...]:
    """The kernel options of a NASConv without a mapping: the given one, then k-2 and k+2 at each padding that fits.

    >>> plain_kernels(6, 2, 2), plain_kernels(3, 2)
    (('k6p2', 'k4p1', 'k8p3'), ('k3p1', 'k5p2'))
    """
    given = (k, autopad(k, p, d))
    options = [kernel_name(*given)]
    for kk in (k - 2, k + 2):
        for pad in range(given[1] + (0 if p is None else -p), given[1] + 4):
            if kk >= 1 and same_output(kk, pad, given, s, d):
                options.append(kernel_name(kk, pad))
    return tuple(options)


def activation_name(act: Any) -> str | None:
    """`ReLU`, `nn.ReLU()` and `nn.LeakyReLU(0.1)` as `ReLU` and `LeakyReLU(0.1)`; None for anything else."""
    value = r"(?:\w+ *= *)?(?:[+-]?\d[\d.e-]*|True|False)"
    pattern = rf"(?:torch\.)?(?:nn\.)?(\w+)(?:\(((?:{value}(?:, *{value})*)?)\))?"
    match = re.fullmatch(pattern, act.strip()) if isinstance(act, str) else None
    if not match or match[1] not in ACTIVATIONS:
        return None
    return f"{match[1]}({match[2]})" if match[2] else match[1]


def _filled(args: Sequence[Any], defaults: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments, the missing ones with their defaults."""
    return (*args, *defaults[len(args) :])


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def _imgsz_choice(sizes: Any, default: int | None, source: str) -> Choice | None:
    if sizes is None:
        return None
    multiples = isinstance(sizes, list) and all(isinstance(s, int) and s > 0 and s % STRIDE == 0 for s in sizes)
    if not sizes or not multiples or len(set(sizes)) < len(sizes):
        raise UserError(f"imgsz must be a list of different multiples of {STRIDE}", got=sizes, file=source)
    if default is not None and default not in sizes:
        raise UserError("--imgsz must be one of the sizes that the model YAML lists", got=default, accepted=sizes)
    return Choice("imgsz", tuple(sizes), default or max(sizes))
