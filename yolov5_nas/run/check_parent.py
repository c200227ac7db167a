"""A checkpoint whose layers are to be replaced, before anything is written: its method, YAML and architecture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..errors import TrialError, UserError
from ..files import absolute, given_path
from ..host.checkpoints import ACCEPTED
from ..host.locate import find
from ..host.yolov5 import Host, load
from ..records.metrics import LATENCIES
from ..records.option import flag
from ..records.option_rules import PARENT
from ..records.options import Options
from ..records.reward import Constraint, Target
from ..results.replacement import ROUNDING
from ..space.activations import activation_argument, activation_name
from ..space.compile import derive, stock_lines
from ..space.forms import STOCK_ACT
from ..space.space import Space
from ..strategies.costs import COUNTED
from ..strategies.replacement import activations, smallest
from ..training.distillation import read_teacher
from ..training.settings import Settings
from ..training.trial import measure_architecture
from ..weights import supernet
from ..weights.mapping import fitting, inherit
from ..weights.replacement import run_layers
from ..weights.scaling import scaled
from ..weights.source import architecture_of, inner_activation, read_source

OTHERS = ("trials", "strategy", "inherit", "one_shot")  # options that only other methods have
TARGETS = ("latency_ratio=0.9,0.8,0.7",)
FINE_TUNING = 20  # epochs, where the checkpoint is of other classes
SIZES = {16: "n", 32: "s", 48: "m", 64: "l", 80: "x"}  # YOLOv5's, by the channels of the first layer
CLOSE = 1e-3  # of the largest output: how far what is derived may be from the checkpoint's model, by rounding


def with_method(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options as given, with the method and the defaults that depend on it; says which one runs.

    Raises:
        UserError: there is no such checkpoint.
    """
    options, weights = dict(given), given.get("weights")
    method = options.get("method")
    is_open = method is None and not any(options.get(name) is not None for name in OTHERS)
    if is_open and weights and not supernet.read(given_path(weights), find(given.get("yolov5"))):
        options["method"] = "replace"
        print("method: replace, since --weights is a checkpoint (--method trials searches by trainings)")
    if options.get("method") != "replace":
        asked = [flag(name) for name in ("trials", "strategy", "inherit") if options.get(name) is not None]
        if not method and weights and asked and options.get("one_shot") is None:
            print(f"method: trials, since {asked[0]} is given (--method replace replaces layers of {weights})")
        return options
    if method:
        print("method: replace, as asked for")
    if weights and not options.get("cfg"):
        options["cfg"] = f"yolov5{_size(absolute(weights), options)}_elastic.yaml"
    options = {"trials": None, "reward": "map", **options}
    return {**options, "target": options.get("target") or TARGETS}


def _size(weights: Path, options: Mapping[str, Any]) -> str:
    """YOLOv5's letter for a checkpoint."""
    if supernet.read(weights, find(options.get("yolov5"))):
        raise UserError("--method replace needs a checkpoint, not a supernet", file=weights)
    model = load(find(options.get("yolov5"))).load_checkpoint(weights)
    first, kinds = model.model[0], {type(module).__name__ for module in model.model}
    if old := sorted(kinds & {"Focus", "SPP", "BottleneckCSP"}):
        rule = f"the checkpoint's layers are older than YOLOv5 v6.0 ({', '.join(old)}), so --cfg must name its own"
        raise UserError(f"{rule} model YAML, with NASConv and NASC3 in place of Conv and C3", file=weights)
    channels = getattr(getattr(first, "conv", None), "out_channels", None)
    if (channels or 8) % 8:
        rule = "the checkpoint is pruned to widths that YOLOv5's parser can't build, which are multiples of 8"
        raise UserError(rule, got=f"{channels} channels in the first layer", accepted=ACCEPTED, file=weights)
    if channels not in SIZES:
        rule = "the checkpoint is of no size of YOLOv5's own, so --cfg must name its searchable model YAML"
        raise UserError(rule, got=f"{channels} channels in the first layer", accepted=sorted(SIZES), file=weights)
    return SIZES[channels]


def with_classes(o: Options, nc: int, host: Host) -> Options:
    """Return the options with `--single-cls`, where the checkpoint to be made faster was trained with it.

    Args:
        nc: number of classes of the data.

    Raises:
        UserError: there is no such checkpoint.
    """
    if not o.replaces or not o.weights or o.single_cls or o.base_epochs or nc == 1:
        return o
    if not host.trained_with(absolute(o.weights)).single_cls:
        return o
    print(f"{o.weights} was trained with --single-cls, and so are trials (--base-epochs N trains it for {nc} classes)")
    return replace(o, single_cls=True)


def check_parent(
    o: Options, model: Mapping[str, Any], names: Mapping[int, str], host: Host
) -> tuple[Options, dict[str, Any]]:
    """The options and the model dict of a replacement search, the parent's architecture being its default.

    Args:
        model: the searchable model dict with the data's `nc`.
        names: the data's classes.

    Raises:
        UserError: the checkpoint is no architecture of the YAML's layers (says which layer).
    """
    file = absolute(o.weights or "")
    if supernet.read(file):
        raise UserError("--method replace needs a checkpoint, not a supernet", file=file)
    trained, model = host.load_checkpoint(file), dict(model)
    model |= _form_of(model, trained, file)
    space = Space.from_dict(model, imgsz=o.imgsz, source=o.cfg)
    source = read_source(trained, space, file)
    parent = architecture_of(source, space, file)
    if parent.id != space.default().id:
        values = {label: v for label, v in parent.items() if v != space.default().get(label)}
        model["default"] = {**(model.get("default") or {}), **values}
        space = Space.from_dict(model, imgsz=o.imgsz, source=o.cfg)
        print(f"{file}: an architecture of {Path(o.cfg).name} that differs from stock in {', '.join(values)}")
    _check_same(trained, space, host, file)
    theirs, nc = trained.model[-1].nc, model["nc"]
    if theirs != nc and not o.base_epochs:
        print(f"{file}: {theirs} classes, not {nc}; it is fine-tuned for {FINE_TUNING} epochs first (--base-epochs)")
        o = replace(o, base_epochs=FINE_TUNING)
    own = getattr(trained, "names", None)
    own = list(own.values()) if isinstance(own, Mapping) else own
    if theirs == nc and own and not o.single_cls and list(map(str, own)) != list(map(str, names.values())):
        print(f"warning: {file}: its classes have other names than the data's, and are taken for them in their order")
    return o, model


def _form_of(model: Mapping[str, Any], trained: Any, file: Path) -> dict[str, Any]:
    """Return what a model YAML says of a checkpoint's activation: the default, and an option where there are some."""
    given = model.get("activation") or STOCK_ACT
    names = [activation_name(act) or "" for act in (given if isinstance(given, list) else [given])]
    own = inner_activation(trained, filter(None, names))
    if isinstance(given, list):
        own = own or STOCK_ACT
        listed = given if own in names else [*given, own]
        return {"activation": listed, "default": {**(model.get("default") or {}), "activation": own}}
    if own in (None, *names):
        return {}
    print(f"{file}: its activation is {own}, not {names[0]}, and is kept")
    return {"activation": activation_argument(own)}


def _check_same(trained: Any, space: Space, host: Host, file: Path) -> None:
    """Raise a UserError where a layer of the derived parent computes something else than the checkpoint's."""
    source, default = read_source(trained, space, file), space.default()
    own = host.build(derive(space, default), nc=trained.model[-1].nc)
    taken, left = fitting(inherit(source, space, default).state, own.state_dict())
    if left:
        i = int(left[0].split(".")[1])
        origin = stock_lines(space, default)[i].origin
        rule = f"the weights must be of a model of {Path(space.source).name}: layer {origin} has other shapes in them"
        raise UserError(rule, got=left[0], file=file)
    own.load_state_dict(taken)
    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    last = len(own.model) - 1
    outputs = []
    for network in (own.float().eval(), trained.float().eval()):
        kept: list[Any] = []
        network.save = list(range(last))  # keeps all of them
        run_layers(network, image, 0, last, kept)
        outputs.append(kept)
    for j, (ours, theirs) in enumerate(zip(*outputs)):
        if ours.shape != theirs.shape or float((ours - theirs).abs().max()) > CLOSE * float(theirs.abs().max()):
            origin = stock_lines(space, default)[j].origin
            rule = (
                f"the weights must be of a model of {Path(space.source).name}: layer {origin} computes something else"
            )
            raise UserError(rule, file=file)


def number_of_anchors(o: Options, model: Mapping[str, Any], hyps: Mapping[Path, Mapping[str, Any]]) -> int | None:
    """Return how many anchors hyper-parameters give every model at each place, None where the model YAML's stay; says
    what is ignored of them.

    Args:
        hyps: those of `--hyp` by their file, and those of what starts from weights.

    Raises:
        UserError: the two ask for unlike numbers.
    """
    for file, hyp in hyps.items():
        if hyp.get("label_smoothing", o.label_smoothing) != o.label_smoothing:
            print(f"{file}: label_smoothing is ignored, as in YOLOv5; --label-smoothing is {o.label_smoothing:g}")
    asked = {file: int(hyp["anchors"]) for file, hyp in hyps.items() if hyp.get("anchors")}
    first, *others = (asked.get(file) for file in hyps)
    if first and not o.replaces:
        if others and others[0] not in (None, first):
            file = list(hyps)[-1]
            raise UserError("anchors must be those of --hyp", got=others[0], accepted=[first], file=file)
        return first
    for file in asked:
        print(f"{file}: anchors is ignored, since {o.weights or 'trial 0'} keeps its anchors")
    if not asked or not o.replaces:
        return None
    own: int = load(find(o.yolov5)).load_checkpoint(absolute(o.weights or "")).model[-1].na
    listed = model.get("anchors")
    return None if own == (len(listed[0]) // 2 if isinstance(listed, list) else listed) else own


def check_forms(o: Options, space: Space, hyp: Mapping[str, Any], host: Host) -> None:
    """Raise a UserError where a checkpoint can't be brought into every scale and activation of the model YAML."""
    if not o.weights or not (formed := [c.label for c in space.whole if c.label != "imgsz"]):
        return
    what, file = f"a choice of {' and '.join(formed)}", absolute(o.weights)
    if supernet.read(file):
        raise UserError(f"{what} needs a checkpoint, not a supernet", file=file)
    if hyp.get("anchors"):
        raise UserError(f"{what} keeps the checkpoint's anchors: the hyper-parameters can't have others", got="anchors")
    trained, plain = host.load_checkpoint(file), space.in_form(space.forms[0])
    if not o.replaces and trained.model[-1].nc != space.yaml["nc"]:
        rule = f"{what} needs a checkpoint of the data's classes (train it first, or take --method replace)"
        raise UserError(rule, got=f"{trained.model[-1].nc} classes", accepted=str(space.yaml["nc"]), file=file)
    source = read_source(trained, plain, file)
    if architecture_of(source, plain, file).id != plain.default().id:
        raise UserError(f"{what} needs stock YOLOv5's weights, or --method replace", file=file)
    for form in {form.get("scale"): form for form in space.forms}.values():
        scaled(source, plain, space.in_form(form))


def check_teacher(o: Options, model: Mapping[str, Any], host: Host) -> None:
    """Raise a UserError where trials can't learn from the teacher of the options."""
    assert o.distill
    if o.distill == PARENT and o.base_epochs:
        return  # which is trained for the data
    weights = absolute(o.weights) if o.weights else None
    if weights and supernet.read(weights):
        weights = None
        if o.distill == PARENT:
            raise UserError("--distill parent needs a checkpoint, not a supernet", file=absolute(o.weights or ""))
    space = Space.from_dict(model, source=o.cfg)
    plain = space.in_form(space.forms[0])
    student = host.build(derive(plain, plain.default()))
    if weights and not o.base_epochs and (trained := host.load_checkpoint(weights)).model[-1].nc == model["nc"]:
        student = trained  # whose anchors trials have
    read_teacher(weights if weights and o.distill == PARENT else absolute(o.distill), student, host)


def check_reach(o: Options, settings: Settings) -> None:
    """Raise a UserError where the smallest architecture of the search is above a target or a constraint, with the
    parent's activations and with any other.

    What is counted (`COUNTED`) is exact. A latency is measured once, so that a limit is not refused for its error.
    Where latency is measured elsewhere, or other methods learn what they can reach, only counts are compared.
    """
    targets = [target for plan in (o.plans if o.replaces else ()) for target in plan]
    limits: list[Target | Constraint] = [*targets, *(c for c in o.constraints if c.at_most)]
    if o.measure_on or not o.replaces:
        limits = [limit for limit in limits if limit.metric in COUNTED]
    if not limits:
        return
    space, frozen = settings.space, o.frozen if o.replaces else ()
    measured = any(limit.metric in LATENCIES for limit in limits)
    if measured:
        print("the smallest architecture is measured, to see whether the targets can be reached")
    settings = replace(settings, constraints=(), hooks=(), needed=tuple(LATENCIES) if measured else ())
    least: tuple[float, Target | Constraint, float] | None = None  # by how much beyond which limit, and the cost
    for act in (None, *(activations(space, frozen) if measured else ())):
        try:
            found = measure_architecture(smallest(space, frozen, act), settings, measured).metrics
        except TrialError as e:
            raise UserError(f"the network can't be measured ({e.message})") from None
        beyond = [(_share(limit, found), limit, found[limit.metric]) for limit in limits if limit.metric in found]
        beyond = [one for one in beyond if one[0] > 1 + ROUNDING]
        if not beyond:
            return
        least = min(filter(None, (least, max(beyond, key=lambda one: one[0]))), key=lambda one: one[0])
    assert least
    _, limit, cost = least
    word = "target" if isinstance(limit, Target) else "constraint"
    raise UserError(
        f"no architecture of {Path(o.cfg).name} reaches the {word} {limit}",
        got=f"{cost:.4g} at least",
        accepted=f"a larger {word}, or a YAML with smaller options",
    )


def _share(limit: Target | Constraint, found: Mapping[str, float]) -> float:
    """Return a network's cost as a share of a limit, that of a latency with the benefit of its measurement's error."""
    value = limit.value if isinstance(limit, Target) else limit.limit
    slack = (1 - found.get("latency_error", 0.0)) / 1.05 if limit.metric in LATENCIES else 1.0
    return found[limit.metric] * slack / value if value > 0 else math.inf
