"""Everything that a trial needs but the architecture and the seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ..cost.latency import ATTEMPTS, Runtime
from ..host.locate import Location
from ..host.yolov5 import load
from ..records.hooks import Hook
from ..records.option_rules import PARENT
from ..records.reward import Constraint
from ..space.architecture import Architecture, Value
from ..space.compile import derive
from ..space.space import Space
from ..strategies.early_stopping import Pruner


@dataclass(frozen=True)
class Settings:
    """Everything that a trial needs but the architecture and the seed. The options are YOLOv5's of the same names.

    Args:
        model: the searchable model YAML.
        data: from `dataset.resolve_data`.
        hyp: YOLOv5's hyper-parameters. Two more keys may stand in it, for short trainings: `nominal_batch` (64) and
            `warmup_iterations` (max(warmup_epochs, 100 iterations)).
        location: the host.
        device: "cpu", "mps" or "cuda:0" (which GPU that is, is the engine's choice).
        val_period: epochs between validations; the last epoch is always validated.
        latency_backend, latency_batch, precision: see `latency.Runtime`.
        constraints: costs that must be met, or the architecture is not trained; the default one always is.
        hasty: a latency is measured once, however uncertain it is: it is one of many that something is fitted to.
        measure_all: a score without training measures latency and calls hooks too, whether needed or not.
        needed: metrics that rewards and the like name; a trial whose latency is among them and can't be measured fails.
        pruner: ends the training early.
        stock: the searchable YAML whose default architecture latency is compared with, and of whose size the weights
            are; by default `model`.
        weights: a checkpoint to inherit from: stock YOLOv5 of the space, any architecture of it, or a supernet.
        replaces: `weights` are a parent whose layers are replaced, instead of weights to inherit (see `parent`).
        inherit_hyp: hyper-parameters where weights are given, instead of `hyp`; an `optimizer` among them comes before
            that of the settings.
        base_epochs: epochs of a trial that has no parent, where others start from its weights.
        freeze: layers (in the searchable YAML's numbers) that are not trained.
        distill: a checkpoint that trainings learn from too, or "parent" for that in `weights`.
        hooks: what they measure becomes metrics; those of epochs are called in the training.
    """

    model: Mapping[str, Any]
    data: Mapping[str, Any]
    hyp: Mapping[str, float]
    location: Location
    epochs: int = 12
    batch_size: int = 16
    imgsz: int = 640
    device: str = "cpu"
    workers: int = 0
    cache: str | None = None
    optimizer: str = "SGD"
    cos_lr: bool = False
    label_smoothing: float = 0.0
    single_cls: bool = False
    rect: bool = False
    multi_scale: bool = False
    noautoanchor: bool = False
    freeze: tuple[int, ...] = ()
    distill: str | None = None
    weights: str | None = None
    replaces: bool = False
    inherit_hyp: Mapping[str, Any] | None = None
    base_epochs: int | None = None
    val_period: int = 4
    latency_backend: str = "pytorch"
    latency_batch: int = 1
    precision: str = "fp32"
    constraints: tuple[Constraint, ...] = ()
    needed: tuple[str, ...] = ()
    hasty: bool = False
    measure_all: bool = False
    pruner: Pruner | None = None
    stock: Mapping[str, Any] | None = None
    hooks: tuple[Hook, ...] = ()

    @property
    def nc(self) -> int:
        """Number of classes."""
        return 1 if self.single_cls else int(self.data["nc"])

    @cached_property
    def space(self) -> Space:
        """The search space of the model YAML."""
        return self._space_of(self.model, self.imgsz if "imgsz" in self.model else None)

    @property
    def source_space(self) -> Space:
        """The space of the weights, in the form that its default architecture has."""
        space = self._reference_space
        return space.in_form(space.forms[0])

    @property
    def is_formed(self) -> bool:
        """Whether the weights are of another form: of other widths or depths, or another activation."""
        own, theirs = self.space.multiples, self.source_space.multiples
        keys = ("width_multiple", "depth_multiple")
        return own.default_act != theirs.default_act or any(own.model[k] != theirs.model[k] for k in keys)

    def in_form(self, architecture: Mapping[str, Value]) -> tuple[Settings, Architecture]:
        """The settings for an architecture's form (see `space.forms`), and the architecture in that form's space."""
        architecture = Architecture(architecture)
        if not self.space.whole:
            return self, architecture
        form = self.space.form_of(architecture)
        model, size = self.space.in_form(form).yaml, int(form.get("imgsz", self.imgsz))
        return replace(self, model=model, imgsz=size, stock=self.as_stock()), self.space.inner(architecture)

    def as_stock(self) -> Mapping[str, Any]:
        """The YAML of the reference, for settings of another form, scale or input size."""
        if self.stock:
            return self.stock
        size = self.space.default().get("imgsz")
        return {**self.model, "imgsz": [size]} if size else self.model

    @property
    def runtime(self) -> Runtime:
        """Where latency is measured."""
        attempts = 1 if self.hasty else ATTEMPTS
        return Runtime(self.latency_backend, self.latency_batch, self.precision, self.device, attempts)

    @property
    def hyp_used(self) -> Mapping[str, Any]:
        """The hyper-parameters that the training takes."""
        return self.inherit_hyp if self.weights and self.inherit_hyp else self.hyp

    def preload(self) -> None:
        """Import what a trial needs, so that a process that is forked now has it."""
        load(self.location)

    def of_base(self) -> Settings:
        """The settings of a trial that has no parent."""
        epochs = self.base_epochs or self.epochs
        period = max(self.val_period, -(-epochs // 4))
        distill = None if self.distill == PARENT else self.distill
        return replace(self, epochs=epochs, val_period=period, base_epochs=None, distill=distill)

    @property
    def teacher(self) -> str | None:
        """The checkpoint that trainings learn from, besides the labels."""
        return self.weights if self.distill == PARENT else self.distill

    def imgsz_of(self, architecture: Mapping[str, Value]) -> int:
        """The input size of an architecture, in pixels."""
        return int(architecture.get("imgsz", self.imgsz))

    def reference(self) -> tuple[dict[str, Any], int]:
        """The stock model whose latency others are compared with, and its input size."""
        space = self._reference_space
        return derive(space, space.default()), self.imgsz_of(space.default())

    @cached_property
    def _reference_space(self) -> Space:
        return self._space_of(self.stock, None) if self.stock else self.space

    def _space_of(self, model: Mapping[str, Any], imgsz: int | None) -> Space:
        return Space.from_dict(with_anchors(model, self.hyp_used), nc=self.nc, imgsz=imgsz)


def with_anchors(model: Mapping[str, Any], hyp: Mapping[str, Any]) -> Mapping[str, Any]:
    """A model dict with the hyper-parameters' number of anchors at each place, where they have one, as in YOLOv5."""
    return {**model, "anchors": round(float(hyp["anchors"]))} if hyp.get("anchors") else model


def budget_of(settings: Settings, epochs: int | None = None) -> dict[str, Any]:
    """What a training by these settings costs, as the journal has it; `epochs` instead of theirs."""
    return {"epochs": settings.epochs if epochs is None else epochs, "weights": settings.weights}
