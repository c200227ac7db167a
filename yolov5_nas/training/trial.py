"""A trial: train one architecture as YOLOv5's own `train.py` does, and validate it with YOLOv5's `val.run`.

It knows nothing of the search. What it trains is the derived stock model, so what it saves needs no plugin.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import math
import os
import random
import re
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import lr_scheduler
from tqdm import tqdm

from ..cost.device_lock import DeviceLock, TakingTurns
from ..cost.latency import Runtime
from ..cost.measure import measure
from ..engines.contract import CURVE, ONNX
from ..errors import TrialError, UserError
from ..files import MODEL, WEIGHTS, write_whole
from ..host.yolov5 import Host, Location, load, patched
from ..records.hooks import Hook, Hooks
from ..records.journal import TrialResult
from ..records.metrics import ACCURACIES, LATENCIES, is_own
from ..records.reward import Constraint, broken
from ..space.architecture import Architecture, Value
from ..space.compile import derive, dump_model, weight_names
from ..space.space import Space
from ..strategies.early_stopping import Pruner
from ..weights import supernet
from ..weights.elastic import extract
from ..weights.mapping import BATCHES, Inherited, estimate_batch_norm, fitting, inherit, read_source
from ..weights.reconstruction import PIXELS, refit

LOSSES = ("box_loss", "obj_loss", "cls_loss")
VALIDATED = ("precision", "recall", "map50", "map50_95", "val_box_loss", "val_obj_loss", "val_cls_loss")
EMA_ATTRIBUTES = ("yaml", "nc", "hyp", "names", "stride", "class_weights")
AUGMENTATION = (  # the hyper-parameters that a data set reads
    *("hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear", "perspective", "flipud", "fliplr"),
    *("mosaic", "mixup", "copy_paste"),
)
NOMINAL_BATCH = 64  # gradients are accumulated up to this many images, as in YOLOv5
LOG = "log.txt"


@dataclass(frozen=True)
class Settings:
    """Everything that a trial needs but the architecture and the seed. The options are YOLOv5's of the same names.

    Args:
        model: the searchable model YAML.
        data: from `data.resolve_data`.
        hyp: YOLOv5's hyper-parameters. Two more keys may stand in it, for short trainings: `nominal_batch` (64) and
            `warmup_iterations` (max(warmup_epochs, 100 iterations)).
        location: the host.
        device: "cpu", "mps" or "cuda:0" (which GPU that is, is the engine's choice).
        val_period: epochs between validations; the last epoch is always validated.
        latency_backend, latency_batch, half: see `latency.Runtime`.
        constraints: costs that must be met, or the architecture is not trained; the default one always is.
        measure_all: a score by a shared network measures latency and calls hooks too, whether needed or not.
        needed: metrics that rewards and the like name; a trial whose latency is among them and can't be measured fails.
        pruner: ends the training early.
        stock: the searchable YAML whose default architecture latency is compared with; by default `model`.
        weights: a checkpoint to inherit from: stock YOLOv5 of the space, any architecture of it, or a shared network.
        inherit_hyp: hyper-parameters where weights are given, in place of `hyp`; an `optimizer` among them comes before
            that of the settings.
        base_epochs: epochs of a trial that has no parent, where others start from its weights.
        freeze: layers (in the searchable YAML's numbers) that are not trained.
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
    weights: str | None = None
    inherit_hyp: Mapping[str, Any] | None = None
    base_epochs: int | None = None
    val_period: int = 4
    latency_backend: str = "pytorch"
    latency_batch: int = 1
    half: bool = False
    constraints: tuple[Constraint, ...] = ()
    needed: tuple[str, ...] = ()
    measure_all: bool = False
    pruner: Pruner | None = None
    stock: Mapping[str, Any] | None = None
    hooks: tuple[Hook, ...] = ()

    @property
    def nc(self) -> int:
        """Number of classes."""
        return 1 if self.single_cls else int(self.data["nc"])

    @property
    def space(self) -> Space:
        """The search space of the model YAML."""
        return self._space_of(self.model)

    @property
    def runtime(self) -> Runtime:
        """Where latency is measured."""
        return Runtime(self.latency_backend, self.latency_batch, self.half, self.device)

    @property
    def hyp_used(self) -> Mapping[str, Any]:
        """The hyper-parameters that the training takes."""
        return self.inherit_hyp if self.weights and self.inherit_hyp else self.hyp

    def of_base(self) -> Settings:
        """The settings of a trial that has no parent."""
        epochs = self.base_epochs or self.epochs
        return replace(self, epochs=epochs, val_period=max(self.val_period, -(-epochs // 4)), base_epochs=None)

    def imgsz_of(self, architecture: Mapping[str, Value]) -> int:
        """The input size of an architecture, in pixels."""
        return int(architecture.get("imgsz", self.imgsz))

    def reference(self) -> tuple[dict[str, Any], int]:
        """The stock model whose latency others are compared with, and its input size."""
        space = self._space_of(self.stock or self.model)
        return derive(space, space.default()), self.imgsz_of(space.default())

    def _space_of(self, model: Mapping[str, Any]) -> Space:
        return Space.from_dict(model, nc=self.nc, imgsz=self.imgsz if "imgsz" in model else None)


def preload(settings: Settings) -> None:
    """Import what a trial needs, so that a process that is forked now has it."""
    load(settings.location)


def run_trial(
    architecture: Mapping[str, Value],
    settings: Settings,
    seed: int = 0,
    folder: Path | None = None,
    costs: TrialResult | None = None,
) -> TrialResult:
    """Measure, train and validate one architecture.

    Args:
        folder: gets `log.txt`, `curve.jsonl`, and, both stock, `model.yaml` (with the anchors it was trained with) and
            `weights.pt`.
        costs: what `measure_trial` found; then it is not measured here.

    Returns:
        The metrics of the best validated epoch (by YOLOv5's fitness), and the costs. Or, where a constraint refused it
        before training, the costs and the state `infeasible`.

    Raises:
        TrialError: with the reason `oom` (also at half the batch), `nan`, `latency`, `hook` or `crash`.
    """
    if settings.base_epochs:
        settings = settings.of_base()
    with as_trial(settings, folder) as host:
        costs = costs or measure_architecture(architecture, settings)
        if costs.state == "infeasible":
            return costs
        try:
            return _train(Architecture(architecture), settings, seed, folder, host, costs)
        finally:
            _free_memory()


def measure_trial(
    architecture: Mapping[str, Value], settings: Settings, seed: int = 0, folder: Path | None = None
) -> TrialResult:
    """The part of `run_trial` that measures, for a machine that does nothing else; what comes of it is its `costs`.

    Raises:
        TrialError: with the reason `latency` or `crash`.
    """
    with as_trial(settings, folder):
        return measure_architecture(architecture, settings)


@contextlib.contextmanager
def as_trial(settings: Settings, folder: Path | None) -> Iterator[Host]:
    """The host, logging into the folder; what is raised leaves as a TrialError."""
    with _log_to(folder), global_state_kept():
        try:
            host = load(settings.location)
            with host.compatible():
                yield host
        except TrialError as e:
            traceback.print_exc()
            traceback.clear_frames(e.__traceback__)  # whoever keeps the error does not keep a model with it
            raise
        except Exception as e:
            traceback.print_exc()
            traceback.clear_frames(e.__traceback__)
            reason = "oom" if _is_out_of_memory(e) else "crash"
            raise TrialError(reason, f"{type(e).__name__}: {e}".splitlines()[0][:500]) from e


def run_trial_with_onnx(
    architecture: Mapping[str, Value], settings: Settings, seed: int, folder: Path, costs: TrialResult | None = None
) -> TrialResult:
    """As `run_trial`; `folder` gets `model.onnx` too. Needs the package onnx."""
    result = run_trial(architecture, settings, seed, folder, costs)
    if (folder / WEIGHTS).exists():
        with _log_to(folder):
            host = load(settings.location)
            model = host.load_checkpoint(folder / WEIGHTS)
            host.export(
                model, (folder / ONNX).with_suffix(".pt"), "onnx", settings.imgsz_of(architecture), 1, False, "cpu"
            )
    return result


def measure_architecture(
    architecture: Mapping[str, Value], settings: Settings, with_latency: bool = True
) -> TrialResult:
    """What an architecture costs, without training: params, gflops and latency, the state `infeasible` where it breaks
    a constraint. Then, if no constraint is broken, what hooks measure.

    A latency that can't be measured is absent; `conditions` then hold the error.

    Args:
        with_latency: measure latency, and by hooks what nothing needs.

    Raises:
        TrialError: with the reason `latency` or `hook`, if what they measure is needed and can't be measured.
    """
    host, architecture = load(settings.location), Architecture(architecture)
    model = host.build(derive(settings.space, architecture))
    stock, stock_imgsz = settings.reference()
    sizes = settings.imgsz_of(architecture), stock_imgsz

    def refused(costs: Mapping[str, float]) -> bool:
        return not is_default and broken(settings.constraints, costs) is not None

    def enough(costs: Mapping[str, float]) -> bool:
        return not with_latency or refused(costs)

    is_default = architecture.id == settings.space.default().id
    costs, conditions = measure(model, host.build(stock), sizes, settings.runtime, host, enough)
    if "error" in conditions and set(settings.needed) & set(LATENCIES):
        raise TrialError("latency", conditions["error"])
    needed = set(filter(is_own, settings.needed))
    if settings.hooks and not refused(costs) and (with_latency or needed):
        own, conditions["hooks"] = _measure_by_hooks(model, sizes[0], settings, host)
        if missing := needed - set(own):
            problems = "; ".join(f"{name}: {problem}" for name, problem in conditions["hooks"].items())
            reason = problems or f"they measured {', '.join(own) or 'nothing'}"
            raise TrialError("hook", f"no hook measured {', '.join(sorted(missing))} ({reason})")
        costs |= own
    conditions = {name: value for name, value in conditions.items() if value != {}}
    why = broken(settings.constraints, costs)
    return TrialResult(costs, (), "infeasible" if why and not is_default else "complete", conditions, why)


def _measure_by_hooks(
    model: Any, imgsz: int, settings: Settings, host: Host
) -> tuple[dict[str, float], dict[str, str]]:
    """What hooks measure of a model as it is deployed, while trainings wait, and what went wrong."""
    hooks = Hooks(settings.hooks)
    with host.quiet():
        fused = deepcopy(model).to(settings.device).float().eval().fuse()
    with DeviceLock(settings.device).measuring(), torch.no_grad():
        return hooks.measured(fused, imgsz, settings.device), hooks.problems


def _train(
    architecture: Architecture, settings: Settings, seed: int, folder: Path | None, host: Host, costs: TrialResult
) -> TrialResult:
    space, device = settings.space, torch.device(settings.device)
    cfg = derive(space, architecture)
    batch_size = settings.batch_size
    for last in (False, True):
        try:
            training = Training(host, cfg, settings, settings.imgsz_of(architecture), batch_size, device, seed, folder)
            training.costs = costs.metrics
            training.is_settled, training.parent = _load_weights(training.model, space, architecture, settings, host)
            training.run()
            break
        except Exception as e:
            if last or batch_size < 2 or not _is_out_of_memory(e):
                raise
            print(f"out of memory at batch {batch_size}, once more at {batch_size // 2} with doubled accumulation")
            batch_size //= 2
        training = None  # type: ignore[assignment]  # its memory goes before the next attempt
        _free_memory()
    metrics = {**training.results, **costs.metrics, "batch_size": batch_size}
    if problems := {**costs.conditions.get("hooks", {}), **training.hooks.problems}:
        costs = replace(costs, conditions={**costs.conditions, "hooks": problems})
    if training.pruned:
        return replace(costs, metrics=metrics, curve=tuple(training.curve), state="pruned", why=training.pruned)
    if folder:
        host.save_checkpoint(training.best, folder / WEIGHTS)
        write_model_yaml(training.best, cfg, folder / MODEL)
    return replace(costs, metrics=metrics, curve=tuple(training.curve))


class Training:
    """One training run, step for step as in YOLOv5's `train.py` on one device, without its loggers and files.

    After `run`, `best` is the EMA model of the best validated epoch, `results` its metrics, `curve` all validations.
    """

    def __init__(
        self,
        host: Host,
        cfg: Mapping[str, Any],
        s: Settings,
        imgsz: int,
        batch_size: int,
        device: torch.device,
        seed: int,
        folder: Path | None = None,
    ):
        self.host, self.settings, self.imgsz, self.batch_size, self.device = host, s, imgsz, batch_size, device
        self.hyp: dict[str, Any] = {**s.hyp_used, "label_smoothing": s.label_smoothing}
        self.optimizer_name = self.hyp.pop("optimizer", s.optimizer)
        self.costs: Mapping[str, float] = {}
        self.pruned: str | None = None  # why it was ended early
        self.is_settled = True  # or batch norm statistics don't belong to the weights that were put in
        self.parent: Any = None  # the model they came from, which these may be refitted to
        self.seed, self.curve = seed, []  # type: ignore[var-annotated]
        self.hooks, self.folder = Hooks(s.hooks), folder
        self.curve_file = folder / CURVE if folder else None
        host.general.init_seeds(seed, deterministic=True)
        self.model = self._build(cfg).to(device)
        self.first = 0  # epoch
        self.fitness = -1.0  # of `best`
        self.best, self.results = self.model, {}  # type: ignore[var-annotated]

    def _build(self, cfg: Mapping[str, Any]) -> Any:
        return self.host.build(cfg, nc=self.settings.nc, anchors=self.hyp.get("anchors"))

    def run(self) -> None:
        """Train all epochs.

        Raises:
            TrialError: the loss is not finite.
        """
        self._prepare()
        if self.curve_file and not self.first:
            self.curve_file.write_text("")  # of an attempt that a kill cut off, or that had no memory
        try:
            if not self.is_settled:
                self._settle()
            self._train()
        finally:
            for loader in (self.loader, self.val_loader):
                loader.close()
                # Ends its worker processes now. Where the garbage collector does, each takes 5 s: its queue goes first.
                loader.loader.iterator = None

    def _train(self) -> None:
        start = time.perf_counter()
        s = self.settings
        for epoch in range(self.first, s.epochs):
            self._begin_epoch(epoch)
            loss = self._train_epoch(epoch)
            rates = [group["lr"] for group in self.optimizer.param_groups]
            self.scheduler.step()
            self.hooks.call("on_train_epoch_end", epoch=epoch, model=self.model, folder=self.folder)
            self.ema.update_attr(self.model, include=list(EMA_ATTRIBUTES))
            if epoch + 1 == s.epochs or (epoch + 1) % s.val_period == 0:
                point = {"epoch": epoch + 1, **self._validate(), **loss}
                point["seconds"] = round(time.perf_counter() - start, 3)
                self.curve.append(point)
                self._write_point(point)
                self._take(point)
                self._tell_hooks(epoch, point, rates)
                if s.pruner and epoch + 1 < s.epochs and (why := s.pruner.why(self.curve, self.costs)):
                    self.pruned = why
                    return
            self._end_epoch(epoch)

    def _begin_epoch(self, epoch: int) -> None:
        """Nothing to do: an epoch goes on with the random numbers of the one before."""

    def _tell_hooks(self, epoch: int, point: Mapping[str, float], rates: list[float]) -> None:
        """YOLOv5's callback, with its arguments: `vals` are losses, what validation gave, and learning rates."""
        vals = [*(point[name] for name in (*LOSSES, *VALIDATED)), *rates]
        given = {"epoch": epoch, "model": self.ema.ema, "folder": self.folder}
        self.hooks.call("on_fit_epoch_end", vals=vals, best_fitness=self.fitness, fi=fitness(point), **given)

    def _take(self, point: Mapping[str, float]) -> None:
        """Keep the model if this validation is the best so far."""
        if (found := fitness(point)) > self.fitness:
            self.fitness, self.best, self.results = found, deepcopy(self.ema.ema), accuracies(point)

    def _end_epoch(self, epoch: int) -> None:
        """Nothing to keep: a trial that is killed starts again."""

    def _write_point(self, point: Mapping[str, float]) -> None:
        """A validation as a line of `curve.jsonl`, for whoever follows the trial."""
        if self.curve_file:
            with self.curve_file.open("a") as file:
                file.write(json.dumps(point) + "\n")

    def _prepare(self) -> None:
        """Optimizer, schedule, EMA, loaders, anchors, loss: in train.py's order, which random numbers depend on."""
        s, hyp, host, model = self.settings, self.hyp, self.host, self.model
        self.nominal_batch = int(hyp.get("nominal_batch", NOMINAL_BATCH))
        self.accumulate = max(round(self.nominal_batch / self.batch_size), 1)
        hyp["weight_decay"] *= self.batch_size * self.accumulate / self.nominal_batch
        self.optimizer = host.torch_utils.smart_optimizer(
            model, self.optimizer_name, hyp["lr0"], hyp["momentum"], hyp["weight_decay"]
        )
        self.scheduler = lr_scheduler.LambdaLR(self.optimizer, lr_lambda=self._schedule)
        self.ema = host.torch_utils.ModelEMA(model)
        self.loader, self.dataset = self._loader("train")
        self.val_loader, _ = self._loader("val")
        if not s.noautoanchor:
            host.autoanchor.check_anchors(self.dataset, model=model, thr=hyp["anchor_t"], imgsz=self.imgsz)
        # Anchors get the precision that a checkpoint holds; so do weights, as in train.py, but not what was shared out.
        (model.model[-1] if s.weights else model).half().float()
        layers = model.model[-1].nl
        hyp["box"] *= 3 / layers
        hyp["cls"] *= s.nc / 80 * 3 / layers
        hyp["obj"] *= (self.imgsz / 640) ** 2 * 3 / layers
        model.nc, model.hyp = s.nc, hyp
        model.class_weights = host.general.labels_to_class_weights(self.dataset.labels, s.nc).to(self.device) * s.nc
        model.names = {0: "item"} if s.single_cls and len(s.data["names"]) != 1 else dict(s.data["names"])
        batches = len(self.loader)
        self.warmup = int(hyp.get("warmup_iterations", max(round(hyp["warmup_epochs"] * batches), 100)))
        self.amp = self.device.type == "cuda"
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.amp)
        self.compute_loss = host.ComputeLoss(model)
        self.last_step = -1

    def _settle(self) -> None:
        """Refit the weights to the parent and estimate batch norm statistics, on training images. That leaves the
        training's random numbers alone."""
        with global_state_kept():
            if self.parent is not None:
                self._refit()
            self._estimate(self.model, self._some_images())
        self.ema.ema.load_state_dict(self.model.state_dict())

    def _refit(self) -> None:
        space, weights = self.settings.space, self.settings.weights or ""
        parent, self.parent = self.parent.to(self.device).float(), None
        ours, theirs = (read_source(model, space, weights).writers() for model in (self.model, parent))
        batches = list(self._some_images())
        images = torch.cat([batch for batch in batches if batch.shape[2:] == batches[0].shape[2:]])
        images = images[: max(1, PIXELS // images[0, 0].numel())].to(self.device).float() / 255
        refit(self.model, parent, {i: (ours[i], theirs[i]) for i in ours}, images)

    def _estimate(self, model: Any, batches: Iterable[torch.Tensor]) -> None:
        """Set a model's batch norm statistics by batches of images (B, 3, H, W) of 0 to 255."""
        estimate_batch_norm(model, (images.to(self.device).float() / 255 for images in batches))

    def _some_images(self) -> Iterator[torch.Tensor]:
        """Some batches of training images, (B, 3, H, W) of 0 to 255, drawn at random by the seed."""
        size, order = self.batch_size, list(range(len(self.dataset)))
        if not self.settings.rect:  # or those of a batch have their shape in common, and their place
            random.Random(self.seed).shuffle(order)
        for i in range(0, min(len(order), BATCHES * size), size):
            yield self.dataset.collate_fn([self.dataset[j] for j in order[i : i + size]])[0]

    def _schedule(self, epoch: float) -> float:
        """Share of the first learning rate: linear or cosine from 1 to `lrf`."""
        lrf, epochs = self.hyp["lrf"], self.settings.epochs
        if self.settings.cos_lr:
            return ((1 - math.cos(epoch * math.pi / epochs)) / 2) * (lrf - 1) + 1
        return (1 - epoch / epochs) * (1.0 - lrf) + lrf

    def _loader(self, split: str) -> tuple[TakingTurns, Any]:
        """YOLOv5's loader of a split; the data set behind it, decoded images included, is kept for later trials."""
        s, train = self.settings, split == "train"
        batch = self.batch_size * (1 if train else 2)
        with _dataset_kept(self.host):
            loader, dataset = self.host.create_dataloader(
                s.data[split],
                self.imgsz,
                batch,
                max(int(self.model.stride.max()), 32),
                s.single_cls,
                hyp=self.hyp,
                augment=train,
                cache=None if s.cache == "val" and train else s.cache,
                rect=s.rect if train else True,
                pad=0.0 if train else 0.5,
                rank=-1,
                workers=s.workers if train else s.workers * 2,
                prefix=f"{split}: ",
                shuffle=train,
                **({"seed": self.seed} if train else {}),
            )
        return TakingTurns(loader, DeviceLock(s.device)), dataset

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training images; the mean losses."""
        self.model.train()
        self.optimizer.zero_grad()
        total = torch.zeros(3, device=self.device)  # box, objectness, class
        batches = len(self.loader)
        with _bar(self.loader, f"epoch {epoch + 1}/{self.settings.epochs}") as bar:
            for i, (images, targets, _, _) in enumerate(bar):
                iteration = i + batches * epoch
                if iteration <= self.warmup:
                    self._warm_up(iteration, epoch)
                images = images.to(self.device, non_blocking=True).float() / 255  # (B, 3, H, W)
                loss, items = self._backward(self._rescaled(images), targets.to(self.device), iteration)
                if not math.isfinite(loss):
                    raise TrialError("nan", f"the loss became {loss} in epoch {epoch + 1}, batch {i + 1}")
                total += items
                if iteration - self.last_step >= self.accumulate:
                    self._step()
                    self.last_step = iteration
        return dict(zip(LOSSES, (total / batches).tolist()))

    def _backward(self, images: torch.Tensor, targets: torch.Tensor, iteration: int) -> tuple[float, torch.Tensor]:
        """Add a batch's gradients; its loss, and what that consists of: box, objectness, class."""
        _, loss, items = self._forward(images, targets)
        self.scaler.scale(loss).backward()
        return float(loss.detach()), items

    def _forward(self, images: torch.Tensor, targets: torch.Tensor) -> tuple[Any, torch.Tensor, torch.Tensor]:
        """What the model predicts for a batch, and the loss as `_backward` has it."""
        with torch.amp.autocast("cuda", enabled=self.amp):
            predicted = self.model(images)
            return predicted, *self.compute_loss(predicted, targets)

    def _step(self) -> None:
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=10.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.ema.update(self.model)

    def _warm_up(self, iteration: int, epoch: int) -> None:
        """Accumulation, learning rate and momentum rise to their values; the biases' rate falls to its own."""
        span, hyp = [0, self.warmup], self.hyp
        self.accumulate = max(1, np.interp(iteration, span, [1, self.nominal_batch / self.batch_size]).round())
        for j, group in enumerate(self.optimizer.param_groups):
            start = hyp["warmup_bias_lr"] if j == 0 else 0.0
            # Plain floats, since a shared training's state is read again with `weights_only`.
            group["lr"] = float(np.interp(iteration, span, [start, group["initial_lr"] * self._schedule(epoch)]))
            if "momentum" in group:
                group["momentum"] = float(np.interp(iteration, span, [hyp["warmup_momentum"], hyp["momentum"]]))

    def _rescaled(self, images: torch.Tensor) -> torch.Tensor:
        """With multi-scale: images (B, 3, H, W) at 0.5 to 1.5 times their size, in multiples of the stride."""
        if not self.settings.multi_scale:
            return images
        stride = max(int(self.model.stride.max()), 32)
        size = random.randrange(int(self.imgsz * 0.5), int(self.imgsz * 1.5) + stride) // stride * stride
        factor = size / max(images.shape[2:])
        shape = [math.ceil(x * factor / stride) * stride for x in images.shape[2:]]
        return images if factor == 1 else nn.functional.interpolate(images, shape, mode="bilinear", align_corners=False)

    def _validate(self) -> dict[str, float]:
        return self._validate_model(self.ema.ema)

    def _validate_model(self, model: Any) -> dict[str, float]:
        results = self.host.validate(
            data=dict(self.settings.data),
            batch_size=self.batch_size * 2,
            imgsz=self.imgsz,
            half=self.amp,
            model=model,
            single_cls=self.settings.single_cls,
            dataloader=self.val_loader,
            plots=False,
            compute_loss=self.compute_loss,
        )
        return dict(zip(VALIDATED, results))


def fitness(point: Mapping[str, float]) -> float:
    """Of a validation, with YOLOv5's weights."""
    return 0.1 * point["map50"] + 0.9 * point["map50_95"]


def accuracies(point: Mapping[str, float]) -> dict[str, float]:
    """Those of a validation."""
    return {name: point[name] for name in ACCURACIES}


def write_model_yaml(model: Any, cfg: Mapping[str, Any], path: Path) -> None:
    """The stock YAML of a trained model, with the anchors that it was trained with (in pixels)."""
    detect = model.model[-1]
    pixels = (detect.anchors * detect.stride.view(-1, 1, 1)).flatten(1)  # (layers, 2 x anchors)
    given = torch.tensor(cfg["anchors"]) if isinstance(cfg["anchors"], list) else None
    changed = given is None or given.shape != pixels.shape or not torch.allclose(pixels.cpu(), given.float(), rtol=1e-2)
    anchors = [[round(x, 2) for x in row] for row in pixels.tolist()] if changed else cfg["anchors"]
    write_whole(path, dump_model({**cfg, "anchors": anchors}))


def check_weights(weights: Path, space: Space, nc: int, host: Host) -> str:
    """What trials will inherit of a checkpoint, in words.

    Args:
        nc: number of classes of the data.

    Raises:
        UserError: there is no such file, or it is no checkpoint of this space.
    """
    if found := supernet.read(weights):
        supernet.restore(found, space.yaml, nc, host, weights)
        return f"{weights}: a shared network of this space; trials start from their slices of it"
    model = host.load_checkpoint(weights)
    source = read_source(model, space, weights)
    own = host.build(derive(space, space.default()), nc=nc).state_dict()
    taken, left = fitting(inherit(source, space, space.default()).state, own)
    detection = f"model.{max(int(name.split('.')[1]) for name in own)}."
    if any(not name.startswith(detection) for name in left):
        raise UserError(
            "the weights must be of a model of the same size and channels as --cfg", got=left[0], file=weights
        )
    said = f"{weights}: {len(taken)} of {len(own)} tensors are inherited"
    return f"{said}; the detection layer is for {model.nc} classes, not {nc}, and starts anew" if left else said


def _load_weights(
    model: Any, space: Space, architecture: Architecture, settings: Settings, host: Host
) -> tuple[bool, Any]:
    """Inherit from a checkpoint where one is given, and freeze layers.

    Returns:
        Whether batch norm statistics belong to the weights, and the model that they came from (None if there is none).

    Raises:
        UserError: the checkpoint is none of the space.
    """
    exact, parent = True, None
    if settings.weights:
        inherited, parent = _inherited(Path(settings.weights), space, architecture, settings, host)
        taken, left = fitting(inherited.state, model.state_dict())
        if settings.hyp_used.get("anchors"):  # asks for new ones
            taken = {name: value for name, value in taken.items() if "anchor" not in name}
        model.load_state_dict(taken, strict=False)
        exact = inherited.exact
        how = "exactly" if exact else "refitted to them" if parent else "batch norm estimated again"
        print(f"inherited {len(taken)}/{len(taken) + len(left)} tensors from {settings.weights}, {how}")
    freeze(model, settings.freeze, weight_names(space, architecture))
    return exact, None if exact else parent


def freeze(model: nn.Module, layers: Iterable[int], names: Mapping[str, str] | None = None) -> None:
    """Let all layers be trained but these, numbered as in the searchable YAML.

    Args:
        names: the layers of a derived model in it, from `derive.weight_names`.
    """
    frozen = {f"model.{i}" for i in layers}
    for key, parameter in model.named_parameters():
        layer = ".".join(key.split(".")[:2])
        origin = names[layer] if names else layer
        parameter.requires_grad = ".".join(origin.split(".")[:2]) not in frozen


def _inherited(
    weights: Path, space: Space, architecture: Architecture, settings: Settings, host: Host
) -> tuple[Inherited, Any]:
    """An architecture's weights of a checkpoint and the model in it, or its slice of a shared network."""
    if found := supernet.read(weights):
        shared = supernet.restore(found, settings.model, settings.nc, host, weights)
        return Inherited(extract(shared, architecture, host).state_dict(), exact=False), None
    model = host.load_checkpoint(weights)
    return inherit(read_source(model, space, weights), space, architecture), model


# The process ----------------------------------------------------------------------------------------------------------

_datasets: dict[str, Any] = {}


@contextlib.contextmanager
def _dataset_kept(host: Host) -> Iterator[None]:
    """Within this block the host's `create_dataloader` gets a data set that an earlier trial of this process loaded."""
    stock = host.dataloaders.LoadImagesAndLabels

    def kept(path: Any, imgsz: int, batch: int, **kwargs: Any) -> Any:
        hyp = [(name, kwargs["hyp"].get(name)) for name in AUGMENTATION]
        key = repr((path, imgsz, batch, hyp, sorted((k, v) for k, v in kwargs.items() if k != "hyp")))
        if key not in _datasets:
            # Reading images draws random numbers, which a trial that finds them read does not.
            state = random.getstate()
            _datasets[key] = stock(path, imgsz, batch, **kwargs)
            random.setstate(state)
        return _datasets[key]

    kept.collate_fn, kept.collate_fn4 = stock.collate_fn, stock.collate_fn4  # type: ignore[attr-defined]
    with patched(host.dataloaders, LoadImagesAndLabels=kept):
        yield


def _bar(loader: Any, text: str) -> Any:
    """A progress bar on the terminal, one line below the search's for each slot; none where there is no terminal."""
    slot = int(os.environ.get("YOLOV5_NAS_SLOT", "0"))
    return tqdm(loader, desc=f"  slot {slot} {text}", position=slot + 1, leave=False, disable=None, file=sys.__stderr__)


@contextlib.contextmanager
def _log_to(folder: Path | None) -> Iterator[None]:
    """What the host prints goes into the trial's log."""
    if folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG).open("a", buffering=1) as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} process {os.getpid()}\n")
        for handler in _stream_handlers():
            handler.setStream(file)
        try:
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield
        finally:
            for handler in _stream_handlers():  # also those of a host that was imported in the block
                handler.setStream(sys.__stderr__)


def _stream_handlers() -> list[Any]:
    """The handlers through which the hosts write to the terminal."""
    loggers = [logging.getLogger(name) for name in ("yolov5", "ultralytics", "")]
    return [h for logger in loggers for h in logger.handlers if type(h) is logging.StreamHandler]


@contextlib.contextmanager
def global_state_kept() -> Iterator[None]:
    """Seeds and determinism that YOLOv5's `init_seeds` sets are set back, since the caller may be a user's script."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    deterministic = torch.are_deterministic_algorithms_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    hash_seed = os.environ.get("PYTHONHASHSEED")
    try:
        yield
    finally:
        random.setstate(python), np.random.set_state(numpy), torch.set_rng_state(cpu)
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
        if hash_seed is None:
            os.environ.pop("PYTHONHASHSEED", None)
        else:
            os.environ["PYTHONHASHSEED"] = hash_seed


def _free_memory() -> None:
    """Give back what a training that is over had: its schedule and optimizer refer to each other in circles."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _is_out_of_memory(e: BaseException) -> bool:
    """Whether memory was short, in the words of torch or of CUDA's libraries."""
    is_said = isinstance(e, RuntimeError) and re.search("out of memory|ALLOC_FAILED", str(e)) is not None
    return is_said or isinstance(e, torch.OutOfMemoryError | MemoryError)
