"""The searchable layers: what is decided of each, and how a line of a model YAML becomes one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import UserError
from .activations import ACTIVATIONS, PLAIN_ACTS, activation_name
from .architecture import Value
from .arithmetic import Multiples, autopad, hidden_width, is_number, kernel_name, plain_kernels, same_output
from .choices import Choice
from .model_yaml import MOST

WIDTH_SCALES = (1.0, 1.5, 2.0)  # plain NASC3: scale of the hidden width
SEARCHABLE = ("NASConv", "NASC3")
CONV_OPTIONS = ("kernel", "act")
C3_OPTIONS = ("width", "depth", "kernel", "act")
ARGUMENTS: dict[str, dict[str, Any]] = {  # that follow the width, and YOLOv5's defaults
    "Conv": {"k": 1, "s": 1, "p": None, "g": 1, "d": 1, "act": True},
    "C3": {"shortcut": True, "g": 1, "e": 0.5},
    "SPPF": {"k": 5},
}


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


def with_default(layer: Layer, values: Mapping[str, Value]) -> Layer:
    """The layer with the given values as its defaults; a value that is not an option yet is appended to the options.

    A C3 without a choice of depth gets one where the values name another depth than its own.
    """

    def one(choice: Choice) -> Choice:
        value = values.get(choice.label, choice.default)
        if value == choice.default:
            return choice
        options = choice.options if value in choice.options else (*choice.options, value)
        return replace(choice, options=options, default=value, is_stock=False)

    if isinstance(layer, ConvLayer):
        return replace(layer, kernel=one(layer.kernel), act=one(layer.act))
    depth, label = layer.depth, f"c3_{layer.index}_depth"
    if depth is None and values.get(label, layer.repeats) != layer.repeats:
        depth = Choice(label, (layer.repeats,), layer.repeats)
    (k1, k2), (a1, a2) = layer.kernels, layer.acts
    return replace(
        layer,
        width=one(layer.width),
        depth=one(depth) if depth else None,
        kernels=(one(k1), one(k2)),
        acts=(one(a1), one(a2)),
    )


# Lines of a model YAML ------------------------------------------------------------------------------------------------


class LayerParser:
    """Turns NASConv and NASC3 lines into layers; knows the YAML's multiples and where each line stands."""

    def __init__(self, model: Mapping[str, Any], source: str, lines: Sequence[int]):
        scaled = model.get("scaled_modules", [])
        if not isinstance(scaled, list) or not all(isinstance(name, str) for name in scaled):
            raise UserError("scaled_modules must be a list of modules", got=scaled, file=source)
        self.multiples, self.source, self.lines = Multiples(model), source, lines
        self.default_act = self.multiples.default_act
        if not self.default_act:
            rule = "activation must be an activation of torch.nn without weights"
            raise UserError(rule, got=model["activation"], accepted=ACTIVATIONS, file=source)
        if "anchors" not in model:
            raise UserError("a model YAML must have the key anchors, or the hyper-parameters must", file=source)
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
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise self.fail(i, f"{module} needs a number of repeats of at least 1", got=number)
        if self.multiples.repeats(number) > MOST:
            raise self.fail(i, f"{module} needs at most {MOST} repeats", got=number)
        if module in self.multiples.scaled and not (args and is_number(args[0]) and args[0] > 0):
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
        c2, k, s, p, g, d, act = _filled(args, (0, *ARGUMENTS["Conv"].values()))
        for name, value, least in (("k", k, 1), ("s", s, 1), ("g", g, 1), ("d", d, 1), ("p", 0 if p is None else p, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST:
                raise self.fail(i, f"NASConv {name} must be a whole number of {least} to {MOST}", got=value)
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
        c2, shortcut, g, e = _filled(args, (0, *ARGUMENTS["C3"].values()))
        c2 = self.multiples.channels(c2)
        if not isinstance(g, int) or g < 1 or not is_number(e) or e <= 0:
            raise self.fail(i, "NASC3 needs groups of at least 1 and an expansion above 0", got=[g, e])
        widths = self._widths(i, options.get("width", WIDTH_SCALES), c2, e, g)
        repeats = self.multiples.repeats(number)
        depths = options.get("depth", [])
        for depth in depths:
            if isinstance(depth, bool) or not isinstance(depth, int) or not 1 <= depth <= MOST:
                raise self.fail(i, f"NASC3 depth must be a whole number of bottlenecks of 1 to {MOST}", got=depth)
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
            if not is_number(scale) or scale <= 0:
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
        is_stock = default in options
        return Choice(label, options, default if is_stock else options[0], is_stock)

    def _kernel(self, i: int, module: str, k: Any, given: tuple[int, int], s: int, d: int) -> str:
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MOST:
            raise self.fail(i, f"{module} kernel must be a whole number of 1 to {MOST}", got=k)
        if k == given[0]:
            return kernel_name(*given)
        for p in range(d * k + given[1] + 1):
            if same_output(k, p, given, s, d):
                return kernel_name(k, p)
        raise self.fail(
            i,
            f"{module} kernel must keep the output size of {kernel_name(*given)} at stride {s}; no padding does that",
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


def _filled(args: Sequence[Any], defaults: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments, the missing ones with their defaults."""
    return (*args, *defaults[len(args) :])


def is_odd(row: list[Any], layer: C3Layer, multiples: Multiples) -> bool:
    """Whether a C3's hidden width is no multiple of 8, so that it can't be written line by line."""
    return hidden_width(multiples.channels(row[3][0]), layer.e, 1.0) % 8 > 0


def row_in_form(row: list[Any], layer: Layer, stock: str, act: str, multiples: Multiples) -> list[Any]:
    """A searchable line with its layer's options written out, and one activation replaced by another."""
    args, options = (row[3][:-1], row[3][-1]) if row[3] and isinstance(row[3][-1], Mapping) else (row[3], {})
    acts = layer.act.options if isinstance(layer, ConvLayer) else layer.acts[0].options
    options = {**options, "act": list(dict.fromkeys(act if a == stock else a for a in acts))}
    if isinstance(layer, C3Layer):
        options["width"] = list(layer.width.options)
        if is_odd(row, layer, multiples):
            options |= {"kernel": [1], "act": [multiples.default_act]}
    return [*row[:3], [*args, options]]
