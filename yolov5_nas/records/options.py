"""The options of a search, as they stand in a run's `search.yaml`. The names are YOLOv5's where it has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from ..files import write_whole
from ..space.model_yaml import load_yaml
from .metrics import BACKENDS, check_objectives, is_maximised
from .reward import Constraint, Target

# What a resumed run may change: it decides how long and where trials run, not what they give. (Data loader workers have
# random numbers of their own, so `workers` is not among it.)
MAY_CHANGE = (
    *("trials", "hours", "trial_minutes", "concurrency", "cache"),
    *("engine", "port", "host", "keep_portal", "onnx", "audit"),
    *("address", "cpus_per_trial", "gpus_per_trial", "ship_data", "measure_on"),
)
LEAST_EPOCHS = 24  # of a training from scratch that others are judged by, where the user gives no number
AUDITS = 5  # the fewest of which there is an interval
ENGINES = ("nni", "local", "ray")
REMOVED = {"proxy": "on"}  # options of earlier versions, which their search.yaml lists, and the values that did nothing
ACCEPTED = {
    "inherit": ("base", "none"),
    "cache": ("ram", "disk", "val", "none"),
    "engine": ENGINES,
    "optimizer": ("SGD", "Adam", "AdamW"),
    "latency_backend": BACKENDS,
}


@dataclass(frozen=True)
class Options:
    """All options of a search; see `yolov5-nas search --help` for what each does."""

    cfg: str = "yolov5n_nas.yaml"
    data: str = "digits.yaml"
    weights: str | None = None
    base_epochs: int | None = None
    inherit: str | None = None
    one_shot: int | None = None
    scores: int = 1000
    audit: int | None = None
    audit_epochs: int | None = None
    hyp: str | None = None
    inherit_hyp: str | None = None
    yolov5: str | None = None
    trials: int = 20
    strategy: str | None = None
    population: int | None = None
    reward: str = "soft"
    target: tuple[str, ...] = ("latency_ratio=1.0",)
    exponent: float = -0.07
    objectives: tuple[str, ...] = ()
    constraint: tuple[str, ...] = ()
    latency_backend: str = "pytorch"
    latency_batch: int = 1
    half: bool = False
    epochs: int = 12
    batch_size: int = 16
    imgsz: int | None = None
    optimizer: str | None = None
    cos_lr: bool = False
    label_smoothing: float = 0.0
    single_cls: bool = False
    rect: bool = False
    multi_scale: bool = False
    noautoanchor: bool = False
    freeze: tuple[int, ...] = ()
    subset: float = 1.0
    val_period: int | None = None
    prune: bool = False
    seed: int = 0
    device: str = ""
    concurrency: int | None = None
    workers: int | None = None
    cache: str | None = "ram"
    hours: float | None = None
    trial_minutes: float | None = None
    engine: str | None = None
    port: int | None = None
    host: str = "127.0.0.1"
    keep_portal: bool = False
    address: str | None = None
    cpus_per_trial: float = 1.0
    gpus_per_trial: float | None = None
    ship_data: bool = False
    measure_on: str | None = None
    onnx: bool = False
    hook: tuple[str, ...] = ()
    project: str = "runs/nas"
    name: str = "exp"
    exist_ok: bool = False

    def __post_init__(self) -> None:
        for name in ("target", "objectives", "constraint", "freeze", "hook"):
            object.__setattr__(self, name, _several(name, getattr(self, name)))
        if self.objectives:
            check_objectives(self.objectives, own=bool(self.hook))
        if self.cache in ("none", "None", ""):
            object.__setattr__(self, "cache", None)
        self._check_numbers()
        for name, accepted in ACCEPTED.items():
            if getattr(self, name) not in (None, *accepted):
                raise UserError(f"unknown {_flag(name)}", got=getattr(self, name), accepted=accepted)
        self._check_inherit()
        self._check_one_shot()
        self._check_audit()

    def _check_numbers(self) -> None:
        for name, least in (
            ("trials", 1),
            ("epochs", 1),
            ("batch_size", 1),
            ("val_period", 1),
            ("population", 1),
            ("base_epochs", 1),
            ("one_shot", 0),
            ("scores", 1),
            ("audit", 0),
            ("audit_epochs", 1),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{_flag(name)} must be at least {least}", got=value)
        if self.seed >= 2**32:
            raise UserError("--seed must be below 2**32", got=self.seed)
        if not 0 < self.subset <= 1:
            raise UserError("--subset must be a share above 0 and at most 1", got=self.subset)
        if self.hours is not None and not self.hours > 0:
            raise UserError("--hours must be above 0", got=self.hours)

    def _check_inherit(self) -> None:
        given = self.weights or self.base_epochs
        if self.inherit == "none" and given:
            raise UserError("--inherit none goes with neither --weights nor --base-epochs")
        if self.inherit == "base" and not given:
            raise UserError("--inherit base needs --weights or --base-epochs")

    def _check_one_shot(self) -> None:
        if self.one_shot is None:
            return
        if self.base_epochs:
            raise UserError("--one-shot cannot be combined with --base-epochs: it gives the weights")
        if self.one_shot == 0 and not self.weights:
            raise UserError("--one-shot 0 trains nothing, so it needs the --weights of a shared network")

    def _check_audit(self) -> None:
        if not self.shortcut and (self.audit or self.audit_epochs):
            accepted = ("--weights", "--base-epochs", "--one-shot", "--prune")
            raise UserError("--audit and --audit-epochs need a shortcut to look at", accepted=accepted)
        if self.only_prunes and self.audit_epochs:
            raise UserError("--audit-epochs is not for --prune alone: what it ended is trained to its --epochs")

    @property
    def shortcut(self) -> str | None:
        """By what trials get their scores in place of a full training of each, in words."""
        if self.one_shot is not None:
            return "the score of the shared network"
        if self.inherits:
            return f"a training of {self.epochs} epochs on inherited weights"
        return "mAP50-95 when trials may be ended early" if self.prune else None

    @property
    def inherits(self) -> bool:
        """Whether trials start from trained weights, which stock YOLOv5 takes whole and others adapt."""
        return self.one_shot is None and bool(self.weights or self.base_epochs)

    @property
    def only_prunes(self) -> bool:
        """Whether early stopping is the only shortcut."""
        return self.prune and self.one_shot is None and not self.inherits

    @property
    def audits(self) -> int:
        """How many architectures are trained in full to look at the shortcut."""
        return (AUDITS if self.audit is None else self.audit) if self.shortcut else 0

    @property
    def full_epochs(self) -> int:
        """Epochs of a full training."""
        if self.only_prunes:
            return self.epochs
        return self.audit_epochs or max(LEAST_EPOCHS, 3 * self.epochs, self.base_epochs or 0)

    @property
    def targets(self) -> tuple[Target, ...]:
        """What the targets say; raises a UserError where one says nothing."""
        return tuple(Target.parse(text, own=bool(self.hook)) for text in self.target)

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """What the constraints say; raises a UserError where one says nothing."""
        return tuple(Constraint.parse(text, own=bool(self.hook)) for text in self.constraint)

    @property
    def front(self) -> tuple[str, ...]:
        """The metrics of the Pareto front that is drawn and kept: the objectives, else the first target's and mAP."""
        cost = self.target[0].split("=")[0].strip() if self.target else "latency_ratio"
        return self.objectives or (cost, "map50_95")

    @property
    def cost(self) -> str:
        """The metric by which costs are compared: the first of the front that is one."""
        return next((metric for metric in self.front if not is_maximised(metric)), "latency_ratio")

    def with_given(self, given: Mapping[str, Any]) -> Options:
        """A copy in which the options that a user gave win."""
        return replace(self, **check_names(given))

    def save(self, path: Path) -> None:
        """Write them all as YAML."""
        entries = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        write_whole(path, yaml.safe_dump(entries, sort_keys=False))


def load_options(path: Path) -> dict[str, Any]:
    """The options that a YAML file names.

    Raises:
        UserError: the file is missing or no YAML, or names an option that there is not.
    """
    entries, _ = load_yaml(path)
    if not isinstance(entries, dict):
        raise UserError("an options file must be a mapping of options", file=path)
    return dict(check_names(entries, path))


def check_names(given: Mapping[str, Any], file: Path | None = None) -> dict[str, Any]:
    """The options as given, dashes in their names made underscores.

    Raises:
        UserError: there is no such option, or no longer, or its value is of another type.
    """
    known = {field.name: field for field in fields(Options)}
    checked = {}
    for name, value in given.items():
        name = name.replace("-", "_")
        if name in REMOVED:
            if value not in (None, REMOVED[name]):
                raise UserError(f"{_flag(name)} was removed", got=value, accepted=REMOVED[name], file=file)
            continue
        if name not in known:
            raise UserError("unknown option", got=name, accepted=known, file=file)
        checked[name] = _typed(name, value, str(known[name].type), file)
    return checked


def _typed(name: str, value: Any, annotation: str, file: Path | None) -> Any:
    """A value of a file or a Python call, held to the option's type."""
    if value is None and "None" in annotation:
        return None
    if annotation.startswith("tuple"):
        return value
    kinds = {"int": int, "float": (int, float), "bool": bool, "str": (str, Path)}
    kind = kinds[annotation.split(" ")[0]]
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):  # type: ignore[arg-type]
        if name == "device" and isinstance(value, int):
            return str(value)
        raise UserError(f"the option {name} must be a {annotation.split(' ')[0]}", got=value, file=file)
    return str(value) if isinstance(value, Path) else value


def _several(name: str, value: Any) -> tuple[Any, ...]:
    """The values of an option that takes several, of which a file may name one or none."""
    values = tuple(value) if isinstance(value, list | tuple) else () if value is None else (value,)
    kind = int if name == "freeze" else str
    for one in values:
        if not isinstance(one, kind) or isinstance(one, bool):
            raise UserError(f"{_flag(name)} takes values of the type {kind.__name__}", got=one)
    return values


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
