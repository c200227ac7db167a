"""The options of a search, in one table: `search.yaml`, the command line and the shell's completion come from it.

The names are YOLOv5's where it has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from ..files import write_whole
from ..space.model_yaml import load_yaml
from .metrics import BACKENDS, COSTS, PRECISIONS, check_objectives, is_maximised
from .option import Option, flag, option, several, typed
from .option_rules import check_together
from .reward import REWARDS, Constraint, Target, parse_plans

MIN_FULL_EPOCHS = 24  # of a full training that others are judged by, where the user gives no number
AUDITS = 5  # the fewest of which there is an interval
ENGINES = ("nni", "local", "ray")
METHODS = ("trials", "replace", "one-shot")
STRATEGIES = ("additive", "evolution", "random", "grid", "tpe", "nsga2")
# Options of earlier versions, which their search.yaml lists, and the values that did nothing.
REMOVED = {"proxy": "on"}

model, searched, latency = partial(option, "model and data"), partial(option, "search"), partial(option, "latency")
training, machine = partial(option, "training of a trial"), partial(option, "machine", may_change=True)
hooks, run = partial(option, "hooks"), partial(option, "run")


@dataclass(frozen=True)
class Options:
    """All options of a search."""

    cfg: str = model(
        "yolov5n_nas.yaml",
        "model YAML with NASConv and NASC3 layers (default: yolov5n_nas.yaml; for a checkpoint, yolov5?_elastic.yaml of"
        " its size)",
        completes=("models", "*.yaml"),
    )
    data: str = model("digits.yaml", "data YAML", completes=("data", "digits*.yaml"))
    weights: str | None = model(
        None, "a trained checkpoint, to make faster, or for trials to inherit from (see --method)", completes="file"
    )
    base_epochs: int | None = model(
        None,
        "train the stock architecture for N epochs first; the others inherit its weights (with --method replace:"
        " fine-tune --weights for N epochs first; default: 20 where its classes are not the data's)",
        least=1,
        metavar="N",
    )
    inherit: str | None = model(
        None,
        "base: trials start from the weights of --weights or --base-epochs, which is the default with one of them",
        choices=("base", "none"),
    )
    one_shot: int | None = model(
        None,
        "train a supernet for N epochs, score architectures by it untrained, and train the best of them on its"
        " weights; 0: --weights is a supernet",
        least=0,
        metavar="N",
    )
    scores: int = model(1000, "architectures that --one-shot scores", least=1)
    audit: int | None = model(
        None,
        "architectures to train in full too, to see how far inherited weights, scores or --early-stop can be trusted"
        " (default: 5 with one of them; 0: none)",
        least=0,
        may_change=True,
    )
    audit_epochs: int | None = model(
        None, "epochs of each --audit training (default: --base-epochs or three times --epochs, at least 24)", least=1
    )
    hyp: str | None = model(
        None, "hyper-parameter YAML (default: hyp.short.yaml)", completes=("data", "hyp*.yaml")
    )  # fmt: skip
    inherit_hyp: str | None = model(
        None,
        "the same for what starts from weights (default: --hyp if given, else hyp.inherit.yaml)",
        completes=("data", "hyp*.yaml"),
    )
    yolov5: str | None = model(
        None,
        "a clone of ultralytics/yolov5, or 'package' (default: YOLOV5_ROOT, the working directory, the package)",
        completes="folder",
    )

    method: str = searched(
        "trials",
        "trials: train many architectures; replace: replace single layers of the trained network in --weights by other"
        " options, and train the best combinations; one-shot: see --one-shot (default: trials; replace where --weights"
        " is a checkpoint and none of --trials, --strategy, --inherit, --one-shot is given)",
        choices=METHODS,
    )
    trials: int | None = searched(
        20,
        "how many architectures to try, the stock one included (default: 20). With --method replace: how many to train,"
        " the parent included (default: it and one for each target; 0: none)",
        least=0,
        may_change=True,
    )
    confirm: int = searched(
        0,
        "how many of the leading architectures to train once more with another seed, besides the stock one: the best"
        " of many single trainings was also lucky",
        least=0,
        may_change=True,
    )
    rivals: str = searched(
        "all",
        "with --method replace, also train what users try first: the parent at other widths and at a smaller input"
        " size, each at the winner's cost (default: all)",
        choices=("all", "none"),
        may_change=True,
    )
    strategy: str | None = searched(
        None, "how to choose architectures (default: additive; with --objectives, nsga2)", choices=STRATEGIES
    )
    population: int | None = searched(
        None,
        "population of evolution and nsga2; random trials before tpe (default: a third of the trials, at most 16)",
        least=1,
    )
    reward: str = searched(
        "soft",
        f"{', '.join(REWARDS)}, or your own function as module:function or file.py:function (default: soft; with"
        " --method replace, map)",
    )
    target: tuple[str, ...] = searched(
        ("latency_ratio=1.0",),
        f"cost at which the reward is mAP50-95 itself: one of {', '.join(COSTS)}; several multiply (default:"
        " latency_ratio=1.0). With --method replace: what a cost may be at most, several values separated by commas"
        " giving a result each (default: latency_ratio=0.9,0.8,0.7)",
        metavar="COST=NUMBER",
    )
    exponent: float = searched(-0.07, "w in the soft reward = mAP50-95 * (cost / target) ** w")
    objectives: tuple[str, ...] = searched((), "metrics whose Pareto front to search", metavar="METRIC")
    constraint: tuple[str, ...] = searched(
        (),
        'what breaks this is not trained, such as "latency_ratio<=0.9"; may be given several times',
        metavar="COST<=NUMBER",
    )
    seed: int = searched(0, "of the strategy and of every training", least=0)

    latency_backend: str = latency(
        "pytorch", "runtime on which latency is measured", choices=BACKENDS, spelled={"tensorrt": "engine"}
    )
    latency_batch: int = latency(1, "images in a timed forward pass", least=1)
    precision: str = latency(
        "fp32",
        "of the timed network: fp16 on a GPU, or by OpenVINO on a processor that has it; int8 by onnx and openvino",
        choices=PRECISIONS,
    )
    half: bool = latency(False, "the same as --precision fp16")

    epochs: int = training(12, "epochs of a trial", least=1)
    batch_size: int = training(16, "images in a batch", least=1, aliases=("--batch",))
    imgsz: int | None = training(
        None,
        "image size in pixels (default: --method replace takes the checkpoint's; the data YAML's; 640)",
        least=1,
        aliases=("--img", "--img-size"),
    )
    optimizer: str | None = training(
        None, "SGD, Adam or AdamW (default: the hyp YAML's, else SGD)", choices=("SGD", "Adam", "AdamW")
    )
    cos_lr: bool = training(False, "cosine learning rate instead of a linear one")
    label_smoothing: float = training(0.0, "label smoothing epsilon")
    single_cls: bool = training(False, "train multi-class data as one class")
    rect: bool = training(False, "rectangular training")
    multi_scale: bool = training(False, "vary the image size by 50 %")
    noautoanchor: bool = training(False, "leave the anchors as they are")
    distill: str | None = training(
        None,
        "trials learn from a teacher's predictions too: 'parent', the checkpoint that they start from, or another of"
        " the same classes and anchors",
        completes="file",
    )
    freeze: tuple[int, ...] = training((), "layers not to train: 10 for the first ten, 0 1 2 for these")
    subset: float = training(1.0, "share of the training images to train on")
    prune: bool = training(
        False, "stop trials early that can no longer become interesting (each then validates about twelve times)",
        aliases=("--early-stop",),
    )  # fmt: skip
    val_period: int | None = training(None, "epochs between validations (default: a quarter of the epochs)", least=1)

    device: str = machine("", "0 or 0,1 or cpu (default: the first GPU, else the CPU)", may_change=False)
    concurrency: int | None = machine(None, "trials at a time (default: one for each device)", least=1)
    # Loaders' processes have random numbers of their own.
    workers: int | None = machine(
        None, "data loader processes of a trial (default: 8, on the CPU 0)", least=0, may_change=False
    )  # fmt: skip
    cache: str | None = machine("ram", "keep decoded images: ram, disk or none", choices=("ram", "disk", "val", "none"))
    hours: float | None = machine(None, "stop after this many hours")
    trial_minutes: float | None = machine(None, "stop a trial after this many minutes")
    engine: str | None = machine(
        None, "where trials run (default: nni where it is installed, else local)", choices=ENGINES
    )
    port: int | None = machine(
        None, "of NNI's portal (default: 8083, or the next free one)", aliases=("--portal-port",)
    )  # fmt: skip
    host: str = machine(
        "127.0.0.1",
        "0.0.0.0 opens NNI's portal, which asks for no password, to the network",
        aliases=("--portal-host",),
    )
    keep_portal: bool = machine(False, "keep NNI's portal after the search, until Ctrl-C")
    address: str | None = machine(
        None,
        "Ray's cluster: auto or HOST:PORT (default: a Ray is started on this machine)",
        aliases=("--ray-address",),
    )
    cpus_per_trial: float = machine(1.0, "cores that a trial on Ray asks for")
    gpus_per_trial: float | None = machine(
        None, "GPUs that a trial on Ray asks for, 0.5 for instance (default: 0)"
    )  # fmt: skip
    ship_data: bool = machine(False, "copy the data set to Ray's nodes; else each has it at the same path")
    measure_on: str | None = machine(
        None, "Ray resource whose nodes measure latency; training is anywhere", metavar="RESOURCE"
    )
    onnx: bool = machine(False, "write each trial's model.onnx, also where NNI looks for it")

    deploy: tuple[str, ...] = searched(
        (),
        "at the end export the winners and the reference (onnx, openvino, ...), validate and time them in that form, in"
        " --precision too",
        metavar="FORMAT",
        may_change=True,
    )
    margin: float = searched(
        0.005, "mAP50-95 that does not count as lost on the way to a deployed form", may_change=True
    )

    hook: tuple[str, ...] = hooks(
        (),
        "a Python file whose functions run at points of the search, or a shipped one's name; then settings, as in"
        " 'energy SECONDS=5'; may be given several times",
        metavar="FILE.py",
        completes=("hooks", "*.py"),
    )

    project: str = run("runs/nas", "where runs are kept", completes="folder")
    name: str = run("exp", "name of the run; a number is added where it exists")
    exist_ok: bool = run(False, "take the folder as it is named, without a number")

    def __post_init__(self) -> None:
        for name in REPEATED:
            object.__setattr__(self, name, several(name, getattr(self, name)))
        if self.objectives:
            check_objectives(self.objectives, own=bool(self.hook))
        if self.cache in ("none", "None", ""):
            object.__setattr__(self, "cache", None)
        for name, known in TABLE.items():
            self._check_one(name, known)
        if self.half and self.precision == "fp32":
            object.__setattr__(self, "precision", "fp16")
        if self.one_shot is not None and self.method == "trials":
            object.__setattr__(self, "method", "one-shot")
        check_together(self)

    def _check_one(self, name: str, known: Option) -> None:
        value = getattr(self, name)
        if known.choices and value in known.spelled:
            object.__setattr__(self, name, known.spelled[value])
        elif known.choices and value not in (None, *known.choices):
            raise UserError(f"unknown {flag(name)}", got=value, accepted=known.choices)
        if known.least is not None and value is not None and value < known.least:
            raise UserError(f"{flag(name)} must be at least {known.least}", got=value)

    @property
    def frozen(self) -> tuple[int, ...]:
        """The layers that `--freeze` means, as in YOLOv5: one number is a count of first layers, several are layers."""
        return tuple(range(self.freeze[0])) if len(self.freeze) == 1 else self.freeze

    @property
    def replaces(self) -> bool:
        """Whether options are put in the place of single layers of a trained network."""
        return self.method == "replace"

    @property
    def reference(self) -> str:
        """What trial 0 is called, with which all others are compared."""
        return "parent" if self.replaces else "stock"

    @property
    def plans(self) -> tuple[tuple[Target, ...], ...]:
        """What costs may be at most, for each plan of a replacement search; see `parse_plans`."""
        return parse_plans(self.target, own=bool(self.hook))

    @property
    def proxy(self) -> str | None:
        """What a trial scores by instead of a full training, in words."""
        if self.replaces:
            return None
        if self.one_shot is not None:
            return "the score of the supernet"
        if self.inherits:
            return f"a training of {self.epochs} epochs on inherited weights"
        return "mAP50-95 when trials may be ended early" if self.prune else None

    @property
    def inherits(self) -> bool:
        """Whether trials start from trained weights, which stock YOLOv5 takes whole and others adapt."""
        return self.one_shot is None and bool(self.weights or self.base_epochs)

    @property
    def only_prunes(self) -> bool:
        """Whether early stopping is the only proxy."""
        return self.prune and self.one_shot is None and not self.inherits

    @property
    def audits(self) -> int:
        """How many architectures are trained in full to check the proxy."""
        return (AUDITS if self.audit is None else self.audit) if self.proxy else 0

    @property
    def full_epochs(self) -> int:
        """Epochs of a full training."""
        if self.only_prunes:
            return self.epochs
        return self.audit_epochs or max(MIN_FULL_EPOCHS, 3 * self.epochs, self.base_epochs or 0)

    @property
    def targets(self) -> tuple[Target, ...]:
        """What the targets say; raises a UserError where one says nothing."""
        if self.replaces:
            return self.plans[0]
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


# The table itself, by name.
TABLE: dict[str, Option] = {f.name: f.metadata["option"] for f in fields(Options)}
TYPES: dict[str, str] = {f.name: str(f.type) for f in fields(Options)}
REPEATED = tuple(name for name, kind in TYPES.items() if kind.startswith("tuple"))
ALIASES = {a.strip("-").replace("-", "_"): name for name, known in TABLE.items() for a in known.aliases}
MAY_CHANGE = tuple(name for name, known in TABLE.items() if known.may_change)


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
    checked = {}
    for name, value in given.items():
        name = name.replace("-", "_")
        name = ALIASES.get(name, name)
        if name in REMOVED:
            if value not in (None, REMOVED[name]):
                raise UserError(f"{flag(name)} was removed", got=value, accepted=REMOVED[name], file=file)
            continue
        if name not in TABLE:
            raise UserError("unknown option", got=name, accepted=TABLE, file=file)
        checked[name] = typed(name, value, TYPES[name], file)
    return checked
