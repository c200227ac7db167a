"""One training run, step for step as in YOLOv5's `train.py`."""

from __future__ import annotations

import json
import math
import os
import random
import sys
import time
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import update_bn
from tqdm import tqdm

from ..errors import TrialError
from ..host.yolov5 import Host
from ..records.hooks import Hooks
from ..records.journal import ByClass
from ..records.metrics import ACCURACIES
from ..records.run_folder import TrialFolder
from ..weights.reconstruction import PIXELS, refit
from ..weights.source import read_source
from .distillation import Teacher, distillation, read_teacher
from .images import VALIDATED, Images
from .initial import Start
from .process import global_state_kept
from .settings import Settings

LOSSES = ("box_loss", "obj_loss", "cls_loss")
EMA_ATTRIBUTES = ("yaml", "nc", "hyp", "names", "stride", "class_weights")
NOMINAL_BATCH = 64  # gradients are accumulated up to this many images, as in YOLOv5


class Training:
    """One training run, step for step as in YOLOv5's `train.py` on one device, without its loggers and files.

    After `run`, `best` is the EMA model of the best validated epoch, `results` its metrics, `curve` all validations.

    Args:
        model: built after the host's `init_seeds`, with the weights that it starts from.
        imgsz: input size in pixels.
        folder: gets the curve.
        start: what those weights are.
        costs: of the architecture, which early stopping looks at.
    """

    def __init__(
        self,
        host: Host,
        model: Any,
        s: Settings,
        imgsz: int,
        batch_size: int,
        seed: int,
        folder: Path | None = None,
        start: Start | None = None,
        costs: Mapping[str, float] | None = None,
    ):
        self.host, self.settings, self.imgsz, self.batch_size = host, s, imgsz, batch_size
        self.device, self.seed, self.folder = torch.device(s.device), seed, folder
        self.hyp: dict[str, Any] = {**s.hyp_used, "label_smoothing": s.label_smoothing}
        self.optimizer_name = self.hyp.pop("optimizer", s.optimizer)
        self.start, self.costs = start or Start(), costs or {}
        self.pruned: str | None = None  # why it was ended early
        self.curve: list[dict[str, float]] = []
        self.hooks = Hooks(s.hooks)
        self.curve_file = TrialFolder(folder).curve if folder else None
        self.model = model.to(self.device)
        self.first = 0  # epoch
        self.fitness = -1.0  # of `best`
        self.best, self.results = self.model, {}  # type: ignore[var-annotated]
        self.classes: ByClass = ()  # of it

    def run(self) -> None:
        """Train all epochs.

        Raises:
            TrialError: the loss is not finite.
        """
        self._prepare()
        if self.curve_file and not self.first:
            self.curve_file.write_text("", encoding="utf-8")  # of an attempt that a kill cut off, or that had no memory
        try:
            if not self.start.is_exact:
                self._settle()
            self._train()
        finally:
            self.images.close()

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
            self.classes = self.images.classes

    def _end_epoch(self, epoch: int) -> None:
        """Nothing to keep: a trial that is killed starts again."""

    def _write_point(self, point: Mapping[str, float]) -> None:
        """A validation as a line of `curve.jsonl`, for whoever follows the trial."""
        if self.curve_file:
            with self.curve_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(point) + "\n")

    def _prepare(self) -> None:
        """Optimizer, schedule, EMA, loaders, anchors, loss: in train.py's order, which random numbers depend on."""
        s, hyp, host, model = self.settings, self.hyp, self.host, self.model
        self.nominal_batch = int(hyp.get("nominal_batch", NOMINAL_BATCH))
        self.accumulate = max(round(self.nominal_batch / self.batch_size), 1)
        hyp["weight_decay"] *= self.batch_size * self.accumulate / self.nominal_batch
        how = self.optimizer_name, hyp["lr0"], hyp["momentum"], hyp["weight_decay"]
        self.optimizer = host.optimizer(model, *how)
        self.scheduler = lr_scheduler.LambdaLR(self.optimizer, lr_lambda=self._schedule)
        self.ema = host.torch_utils.ModelEMA(model)
        stride = int(model.stride.max())
        self.images = Images(host, s, self.imgsz, self.batch_size, stride, hyp, self.seed)
        if not (s.noautoanchor or s.replaces):  # the parent's head knows its own anchors
            host.autoanchor.check_anchors(self.images.dataset, model=model, thr=hyp["anchor_t"], imgsz=self.imgsz)
        # Anchors get the precision that a checkpoint holds; so do weights, as in train.py, but not what was shared out.
        (model.model[-1] if s.weights else model).half().float()
        layers = model.model[-1].nl
        hyp["box"] *= 3 / layers
        hyp["cls"] *= s.nc / 80 * 3 / layers
        hyp["obj"] *= (self.imgsz / 640) ** 2 * 3 / layers
        model.nc, model.hyp = s.nc, hyp
        model.class_weights = (
            host.general.labels_to_class_weights(self.images.dataset.labels, s.nc).to(self.device) * s.nc
        )
        model.names = {0: "item"} if s.single_cls and len(s.data["names"]) != 1 else dict(s.data["names"])
        batches = len(self.images.train)
        self.warmup = int(hyp.get("warmup_iterations", max(round(hyp["warmup_epochs"] * batches), 100)))
        self.amp = self.device.type == "cuda"
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.amp)
        self.compute_loss = host.ComputeLoss(model)
        self.teacher = Teacher(read_teacher(Path(s.teacher), model, host), self.device) if s.teacher else None
        self.last_step = -1

    def _settle(self) -> None:
        """Refit the weights to the parent and estimate batch norm statistics, on training images. That leaves the
        training's random numbers alone."""
        parent, self.start = self.start.parent, Start()
        with global_state_kept():
            if parent is not None:
                self._refit(parent.to(self.device).float())
                del parent  # its memory goes
            update_bn(self.images.scaled(self.images.some()), self.model)
        self.ema.ema.load_state_dict(self.model.state_dict())

    def _refit(self, parent: Any) -> None:
        space, weights = self.settings.space, self.settings.weights or ""
        ours, theirs = (read_source(model, space, weights).writers() for model in (self.model, parent))
        batches = list(self.images.some())
        images = torch.cat([batch for batch in batches if batch.shape[2:] == batches[0].shape[2:]])
        (images,) = self.images.scaled([images[: max(1, PIXELS // images[0, 0].numel())]])
        refit(self.model, parent, {i: (ours[i], theirs[i]) for i in ours}, images)

    def _schedule(self, epoch: float) -> float:
        """Share of the first learning rate: linear or cosine from 1 to `lrf`."""
        lrf, epochs = self.hyp["lrf"], self.settings.epochs
        if self.settings.cos_lr:
            return ((1 - math.cos(epoch * math.pi / epochs)) / 2) * (lrf - 1) + 1
        return (1 - epoch / epochs) * (1.0 - lrf) + lrf

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training images; the mean losses."""
        self.model.train()
        self.optimizer.zero_grad()
        total = torch.zeros(3, device=self.device)  # box, objectness, class
        batches = len(self.images.train)
        with _bar(self.images.train, f"epoch {epoch + 1}/{self.settings.epochs}") as bar:
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
        predicted, loss, items = self._forward(images, targets)
        if self.teacher:
            with torch.amp.autocast("cuda", enabled=self.amp):
                taught = self.teacher.predict(images)
            loss = loss + len(images) * distillation([p.float() for p in predicted], taught, self.hyp)
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
        return self.images.validate(self.ema.ema, self.compute_loss)


def fitness(point: Mapping[str, float]) -> float:
    """Of a validation, with YOLOv5's weights."""
    return 0.1 * point["map50"] + 0.9 * point["map50_95"]


def accuracies(point: Mapping[str, float]) -> dict[str, float]:
    """Those of a validation."""
    return {name: point[name] for name in ACCURACIES}


def _bar(loader: Any, text: str) -> Any:
    """A progress bar on the terminal, one line below the search's for each slot; none where there is no terminal."""
    slot = int(os.environ.get("YOLOV5_NAS_SLOT", "0"))
    return tqdm(loader, desc=f"  slot {slot} {text}", position=slot + 1, leave=False, disable=None, file=sys.__stderr__)
