"""What a user named, found and checked: the options resolved, a new folder, the settings of its trials, the engine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from ..cost.latency import Runtime
from ..engines.contract import Engine
from ..engines.local import LocalEngine, device_indices, own_device
from ..engines.nni.checks import has_nni
from ..engines.nni.engine import NNIEngine
from ..engines.ray.engine import RayEngine
from ..errors import UserError
from ..files import absolute, find_file, given_path, increment_path, shipped
from ..host.dataset import check_data, draw_subset, find_data, read_data, resolve_data, take_subset
from ..host.locate import PACKAGE, Location, find
from ..host.yolov5 import Host, load
from ..records.hooks import Hook, as_given, find_hook, keep_hooks, kept_hooks
from ..records.option_rules import PARENT
from ..records.options import Options
from ..records.reward import Reward, make_reward
from ..records.run_folder import RunFolder
from ..space.compile import dump_model
from ..space.model_yaml import read_model_yaml
from ..space.space import Space
from ..strategies.named import strategy_named
from ..training.hyp import read_hyp, with_number
from ..training.initial import check_freeze, check_weights
from ..training.settings import Settings, with_anchors
from ..training.trial import measure_trial
from ..weights import supernet
from .check_model import check_model
from .check_parent import check_forms, check_parent, check_reach, check_teacher, number_of_anchors, with_classes
from .exported import how_of
from .inputs import check_same_data, digests_of, write_inputs


@dataclass(frozen=True)
class Prepared:
    """Everything that is checked before a folder is made."""

    options: Options  # every one resolved
    model: dict[str, Any]
    hyp: dict[str, Any]
    inherit_hyp: dict[str, Any] | None
    data: dict[str, Any]
    host: Host
    hooks: tuple[Hook, ...]
    subset: list[str] | None  # the training images of `--subset`
    inputs: dict[str, str]  # digests of the files and data


def prepare(o: Options) -> Prepared:
    """Find and check all that the user named.

    Raises:
        UserError: something of it can't be taken. Nothing was written then.
    """
    try:
        return _prepare(o)
    except OSError as e:  # a name that is too long, a folder that may not be read
        raise UserError(f"a file can't be read ({e.strerror})", got=str(e.filename)[:200]) from None


def _prepare(o: Options) -> Prepared:
    hooks = _find_hooks(o)  # before YOLOv5 is imported, for which loggers are told to stay offline
    _ = reward_of(o), o.constraints  # raise what is wrong with them
    strategy = strategy_named(o.strategy, o.objectives)
    if o.one_shot == 0 and o.weights and not supernet.read(given_path(o.weights), find(o.yolov5)):
        raise UserError("--one-shot 0 scores by --weights of a supernet only", got=o.weights)
    check_onnx(o)
    device = _device(o)
    Runtime(o.latency_backend, o.latency_batch, o.precision, _torch_device(device)).check()
    location = find(o.yolov5)
    cfg = find_file(o.cfg, [shipped("models"), location.root / "models"], "model YAML (--cfg)")
    data_file = find_data(o.data, location.root)
    hyp_file = _find_hyp(o.hyp or "hyp.short.yaml", "--hyp", location)
    hyp = read_hyp(hyp_file)
    model, lines = read_model_yaml(cfg)
    has_base = bool(o.weights or o.base_epochs)
    from_weights = has_base or o.one_shot is not None
    inherit_file = _find_hyp(o.inherit_hyp or o.hyp or "hyp.inherit.yaml", "--inherit-hyp", location)
    inherit_hyp = read_hyp(inherit_file) if from_weights else None
    anchors = number_of_anchors(o, model, {hyp_file: hyp} | ({inherit_file: inherit_hyp} if inherit_hyp else {}))
    hyp, inherit_hyp = with_number(hyp, anchors), inherit_hyp and with_number(inherit_hyp, anchors)
    model = dict(with_anchors(model, hyp))
    space = Space.from_dict(model, imgsz=o.imgsz, source=str(cfg), lines=lines)
    _check_freeze(o, len(lines), cfg)
    formed = " and ".join(c.label for c in space.whole if c.label != "imgsz")
    if formed and o.one_shot is not None:
        raise UserError(f"--one-shot has no supernet for a choice of {formed}", file=cfg)
    if formed and o.freeze:
        raise UserError(f"--freeze can't keep layers where {formed} is a choice of the model YAML", file=cfg)
    optimizer = o.optimizer or hyp.get("optimizer", "SGD")
    if inherit_hyp:
        inherit_hyp["optimizer"] = o.optimizer or inherit_hyp.get("optimizer", optimizer)
    host = load(location)
    print(f"{location}, torch {host.torch_utils.torch.__version__}")
    wanted = _input_size(o, space, host, data_file)
    data = resolve_data(data_file, host)
    o = with_classes(o, data["nc"], host)
    model["nc"] = 1 if o.single_cls else data["nc"]
    model, imgsz = check_model(model, str(cfg), lines, wanted, host)
    if o.freeze:
        check_freeze(o.frozen, Space.from_dict(model, source=str(cfg)), host)
    check_data(data, host, imgsz, data_file, o.single_cls)
    subset = draw_subset(data, host, imgsz, o.subset, o.seed, data_file) if o.subset < 1 else None
    if o.replaces:
        o, model = check_parent(replace(o, cfg=str(cfg), imgsz=imgsz), model, data["names"], host)
    if o.weights:
        space = Space.from_dict(model, source=str(cfg))
        check_forms(o, space, inherit_hyp or hyp, host)
        print(check_weights(absolute(o.weights), space, model["nc"], host))
    if o.distill:
        check_teacher(o, model, host)
    how_of(o).check(host, _torch_device(device))
    population = o.population or max(2, min(16, (o.trials or 0) // 3))
    options = replace(
        o,
        cfg=str(cfg),
        data=str(data_file),
        hyp=str(hyp_file) if o.hyp else None,
        inherit=o.inherit or ("base" if has_base else None),
        inherit_hyp=str(inherit_file) if o.inherit_hyp else None,
        weights=str(absolute(o.weights)) if o.weights else None,
        distill=o.distill if o.distill in (None, PARENT) else str(absolute(o.distill)),
        yolov5=str(location.root) if location.kind == "clone" else PACKAGE,
        imgsz=imgsz,
        optimizer=optimizer,
        val_period=o.val_period or max(1, -(-o.epochs // (12 if o.prune else 4))),
        strategy=None if o.replaces else strategy,
        population=population,
        device=device,
        engine=_engine_name(o.engine),
        workers=o.workers if o.workers is not None else 0 if device == "cpu" else 8,
        hook=tuple(map(as_given, hooks)),
    )
    prepared = Prepared(options, model, hyp, inherit_hyp, data, host, hooks, subset, digests_of(options, data))
    _check_reach(prepared)
    return prepared


def _input_size(o: Options, space: Space, host: Host, data_file: Path) -> int:
    """`--imgsz`, the size of the checkpoint whose layers are replaced, of the model YAML, of the data YAML, or 640."""
    usual = o.imgsz or int(space.default().get("imgsz") or read_data(data_file).get("imgsz") or 640)
    if o.imgsz or not (o.replaces and o.weights):
        return usual
    size = host.trained_with(absolute(o.weights)).imgsz
    if size is None:
        print(f"input size: {usual} px; {o.weights} does not say which it was trained at (--imgsz takes another)")
        return usual
    listed = next((c.options for c in space.whole if c.label == "imgsz"), ())
    if listed and size not in listed:
        print(f"input size: {usual} px; the model YAML does not list {size} px, at which {o.weights} was trained")
        return usual
    print(f"input size: {size} px, at which {o.weights} was trained (--imgsz takes another)")
    return size


def _check_reach(prepared: Prepared) -> None:
    """Raise a UserError unless the smallest architecture, measured as a trial is, meets targets and constraints."""
    o = prepared.options
    names = {"latency_backend", "latency_batch", "precision", "single_cls", "imgsz"}
    given = {name: getattr(o, name) for name in names}
    data = {k: v for k, v in prepared.data.items() if k in ("nc", "names")}
    hyp, location = prepared.hyp, prepared.host.location
    device = own_device(o.device) if o.replaces and not o.measure_on else "cpu"  # which counts alone
    check_reach(o, Settings(prepared.model, data, hyp, location, device=device, **given))


def _check_freeze(o: Options, layers: int, cfg: Path) -> None:
    if any(layer >= layers for layer in o.frozen):
        accepted = f"a number of layers up to {layers}, or several of 0 to {layers - 1}"
        raise UserError("--freeze must name layers of the model", got=o.freeze, accepted=accepted, file=cfg)


def check_onnx(o: Options) -> None:
    if o.onnx and not find_spec("onnx"):
        raise UserError("--onnx needs the package onnx: pip install onnx")


def _find_hooks(o: Options) -> tuple[Hook, ...]:
    hooks = tuple(map(find_hook, o.hook))
    names = [hook.name for hook in hooks]
    if len(set(names)) < len(names):
        raise UserError("hook files must have different names", got=names)
    if not any("measure" in hook.functions for hook in hooks):
        _check_known(o)
    return hooks


def _check_known(o: Options) -> None:
    """Raise a UserError where a target, constraint or objective is no metric of ours, and no hook measures any."""
    plain = replace(o, hook=())  # looks at its objectives
    _ = plain.targets, plain.constraints


def _find_hyp(name: str, flag: str, location: Location) -> Path:
    return find_file(name, [shipped("data"), location.root / "data"], f"hyper-parameter YAML ({flag})")


def _device(o: Options) -> str:
    """`--device` resolved: "cpu", "mps" or GPU indices."""
    unset = o.device in ("", "None")
    if o.engine == "ray":
        if not unset and (o.device != "cpu" or o.gpus_per_trial):
            raise UserError("--engine ray gets its devices by --gpus-per-trial, not by --device", got=o.device)
        return "0" if o.gpus_per_trial else "cpu"
    if unset:
        import torch

        return "0" if torch.cuda.is_available() else "cpu"
    device_indices(o.device)
    return o.device


def _torch_device(device: str) -> str:
    """What a trial calls its device: the engine shows it one GPU only."""
    return device if device in ("cpu", "mps") else "cuda:0"


def new_folder(o: Options) -> Path:
    folder = increment_path(given_path(Path(o.project, o.name)), o.exist_ok)
    check_new(folder)
    return folder


def check_new(folder: Path) -> None:
    """Raise a UserError where a folder holds a run."""
    if RunFolder(folder).is_begun:
        raise UserError("the folder holds a run already: go on with it by --resume, or give a new --name", file=folder)


def write_run(folder: Path, prepared: Prepared) -> Settings:
    """`search.yaml`, and the model and hyper-parameters as they are now, so that a resume does not depend on them."""
    files = RunFolder(folder)
    keep_hooks(folder, prepared.hooks)
    files.space.write_text(dump_model(prepared.model | {"nc": prepared.data["nc"]}), encoding="utf-8")
    files.hyp.write_text(yaml.safe_dump(prepared.hyp, sort_keys=False), encoding="utf-8")
    if prepared.inherit_hyp:
        files.inherit_hyp.write_text(yaml.safe_dump(prepared.inherit_hyp, sort_keys=False), encoding="utf-8")
    write_inputs(folder, prepared.inputs)
    prepared.options.save(files.options)  # last: with it the folder can be resumed
    return _settings(folder, prepared.options, prepared.data, prepared.host, prepared.subset)


def settings_of(folder: Path, o: Options, uses_images: bool = True) -> Settings:
    """A trial's settings as a run's folder has them.

    Args:
        uses_images: they are trained on or validated with, and so must be those that the run began with.

    Raises:
        UserError: the data are gone, or others.
    """
    host = load(find(o.yolov5))
    data = resolve_data(Path(o.data), host)
    if uses_images:
        check_same_data(folder, data)
    return _settings(folder, o, data, host)


def settings_without_data(folder: Path, o: Options, model: Path) -> Settings:
    """Those by which architectures are built and measured where a run's images are not.

    Args:
        model: a stock YAML of the run's, which has the number of classes.

    Raises:
        UserError: it is not there.
    """
    count = read_model_yaml(model)[0]["nc"]
    data = {"nc": count, "names": {i: str(i) for i in range(count)}}
    return _settings(folder, replace(o, subset=1.0), data, load(find(o.yolov5)))


def _settings(folder: Path, o: Options, data: dict[str, Any], host: Host, subset: list[str] | None = None) -> Settings:
    if o.subset < 1:
        file, imgsz = Path(o.data), o.imgsz or 640
        images = subset or draw_subset(data, host, imgsz, o.subset, o.seed, file)
        data = take_subset(data, images, folder)
        check_data(data, host, imgsz, file, o.single_cls)
    files = RunFolder(folder)
    model, _ = read_model_yaml(files.space)
    names = {n for n in Settings.__dataclass_fields__ if n in Options.__dataclass_fields__} - {
        "data",
        "hyp",
        "inherit_hyp",
        "device",
        "freeze",
    }
    data = {k: str(v) if isinstance(v, Path) else v for k, v in data.items() if k != "download"}
    return Settings(
        model=model,
        data=data,
        hyp={k: v for k, v in _saved_hyp(files.hyp).items() if k != "optimizer"},  # which is an option's
        inherit_hyp=_saved_hyp(files.inherit_hyp) if files.inherit_hyp.exists() else None,
        location=host.location,
        device=_torch_device(o.device),
        freeze=o.frozen,
        constraints=o.constraints,
        hooks=kept_hooks(folder, o.hook),
        needed=_needed(o),
        **{name: getattr(o, name) for name in names},
    )


def _saved_hyp(path: Path) -> dict[str, Any]:
    return read_hyp(path)


def engine_of(o: Options) -> Engine:
    """The engine that the options name.

    Raises:
        UserError: it can't run so on this machine.
    """
    name = _engine_name(o.engine)
    if name == "local":
        return LocalEngine(device_indices(o.device), o.concurrency, o.trial_minutes)
    if name == "ray":
        if o.base_epochs and not o.replaces:
            raise UserError(
                "--base-epochs is not for --engine ray, whose nodes don't have the base's weights; --weights is"
            )
        gpus = float(o.device not in ("cpu", "mps")) if o.gpus_per_trial is None else o.gpus_per_trial
        files = [path for path in (o.yolov5, o.weights, o.distill) if path and path not in (PACKAGE, PARENT)]
        if len({Path(file).name for file in files}) < len(set(files)):
            raise UserError("what is sent to Ray's nodes must have different names", got=files)
        numbers = o.cpus_per_trial, gpus, o.concurrency, o.trial_minutes
        return RayEngine(o.address, *numbers, o.ship_data, files, o.measure_on, measure_trial)
    return NNIEngine(device_indices(o.device), o.concurrency, o.trial_minutes, o.port, o.host)


def _engine_name(given: str | None) -> str:
    """`--engine` resolved, and said."""
    if given:
        return given
    if has_nni():
        return "nni"
    print("engine: local, trials run as processes here (NNI's portal is to be had: pip install 'yolov5-nas[nni]')")
    return "local"


def reward_of(o: Options) -> Reward:
    """The reward that the options name."""
    return make_reward(o.reward, o.targets, o.exponent)


def _needed(o: Options) -> tuple[str, ...]:
    """The metrics without which a trial is of no use; what a function of the user's needs is seen when it is called."""
    targets = o.targets if o.reward in ("soft", "hard") else ()
    return (*(t.metric for t in targets), *(c.metric for c in o.constraints), *o.objectives)
