"""What replacing one of its layers costs a trained network: the rise of its loss, without training.

Replaced layers are solved on some training images, and scored on others; validation images are not looked at. Every
option sees the same pixels, without mosaic, mixup or copy-paste.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..host.yolov5 import Host
from ..records.journal import TrialResult
from ..space.architecture import Value
from ..weights.replacement import Prefixes
from .images import Images
from .parent import loss_of, read_parent, scoring_batches
from .process import as_trial, free_memory
from .settings import Settings, budget_of
from .trainer import accuracies
from .trial import costs_of_score, measure_architecture

RECONSTRUCTION = 2  # its version, which scores are of: 1, without a number in journals, was of last convolutions alone
BATCH = 8  # images over which the loss is averaged; the error of a score is that of the mean over batches
AT_ONCE = 8 * 320 * 320  # pixels that go through a network at a time
KEPT = 5e8  # bytes of what the baseline's layers give for these images, for options that share these layers


class ReplacementScorer:
    """Scores networks that differ from a parent in some layers.

    Args:
        settings: with the parent's file as `weights`, and a space whose default architecture is the parent's.
        imgsz: input size in pixels.
    """

    def __init__(self, host: Host, settings: Settings, imgsz: int, seed: int):
        self.parent = read_parent(host, settings, imgsz, seed)
        batches = scoring_batches(host, settings, imgsz, seed, BATCH)
        self.compute_loss = loss_of(host, self.parent.model, settings, imgsz)
        self.targets, self.count = [targets for _, targets in batches], sum(len(images) for images, _ in batches)
        parts = [images.split(max(1, AT_ONCE // imgsz**2)) for images, _ in batches]
        self.parts = [len(images) for images in parts]  # of each batch
        self.prefixes = Prefixes(self.parent.model, list(itertools.chain(*parts)), KEPT)
        self.losses = self._losses(self.parent.outputs(self.parent.default, self.parent.model, self.prefixes))

    def score(self, architecture: Mapping[str, Value]) -> dict[str, float]:
        """Of an architecture's network, untrained.

        Returns:
            `loss`: mean over the images of YOLOv5's loss for one (box, objectness and class, with their gains).
            `rise`: by how much it is above the parent's in the same form; `rise_error`: the standard error of that.
            `form_rise`: by how much the parent's is in this form above what it was in its own.
            `scored_images`: on how many.
        """
        model = self.parent.child(architecture)
        losses = self._losses(self.parent.outputs(architecture, model, self.prefixes))
        rise, error = _mean([a - b for a, b in zip(losses, self.losses)])
        scores = {"loss": _mean(losses)[0], "rise": rise, "rise_error": error, "form_rise": self.form_rise}
        return {**scores, "scored_images": float(self.count)}

    @cached_property
    def form_rise(self) -> float:
        """By how much the loss rose when the parent was brought into its form."""
        if self.parent.reference is self.parent.model:
            return 0.0
        with torch.no_grad():
            before = self._losses(self.parent.reference(images)[1] for images, _ in self.prefixes.before(0))
        return _mean([a - b for a, b in zip(self.losses, before)])[0]

    def _losses(self, outputs: Iterator[Sequence[torch.Tensor]]) -> list[float]:
        """Return the loss of each batch, whose images went through a network in parts."""
        losses = []
        for parts, targets in zip(self.parts, self.targets):
            strides = zip(*itertools.islice(outputs, parts))
            with torch.no_grad():
                losses.append(float(self.compute_loss([torch.cat(raw) for raw in strides], targets)[1].sum()))
        return losses


def score_replacement(
    architecture: Mapping[str, Value],
    settings: Settings,
    seed: int = 0,
    folder: Path | None = None,
    costs: TrialResult | None = None,
) -> TrialResult:
    """Score an architecture by its parent's network, replaced where it differs; nothing is trained.

    Latency is measured only where `settings.needed` names it, or with `settings.measure_all`.

    Raises:
        TrialError: as `run_trial`.
    """
    with as_trial(settings, folder) as host:
        costs = costs or costs_of_score(architecture, settings)
        settings, architecture = settings.in_form(architecture)
        scorer = _opened(settings, host, settings.imgsz, seed)
        metrics = {**costs.metrics, **scorer.score(architecture)}
        budget = {**budget_of(settings, epochs=0), "reconstruction": RECONSTRUCTION}
        return replace(costs, state="complete", metrics=metrics, budget=budget)


def validate_parent(
    architecture: Mapping[str, Value],
    settings: Settings,
    seed: int = 0,
    folder: Path | None = None,
    costs: TrialResult | None = None,
) -> TrialResult:
    """Validate the network in `settings.weights` as it is, and measure it; nothing is trained.

    The metric `epoch_seconds` says how long an epoch of training it would take, by three steps of it.

    Raises:
        TrialError: as `run_trial`.
    """
    with as_trial(settings, folder) as host:
        costs = costs or measure_architecture(architecture, settings)
        settings, _ = settings.in_form(architecture)
        imgsz = settings.imgsz
        model = host.load_checkpoint(Path(settings.weights or "")).to(settings.device)
        loss, stride = loss_of(host, model, settings, imgsz), int(model.stride.max())
        images = Images(host, settings, imgsz, settings.batch_size, stride, settings.hyp_used, seed)
        try:
            metrics = {**costs.metrics, **accuracies(images.validate(model.eval(), loss))}
            metrics["epoch_seconds"] = _epoch_seconds(model, loss, images)
        finally:
            images.close()
        return replace(
            costs, state="complete", metrics=metrics, classes=images.classes, budget=budget_of(settings, epochs=0)
        )


def _epoch_seconds(model: Any, compute_loss: Any, images: Images, steps: int = 3) -> float:
    """What an epoch takes, with its validation, by some steps; the model's gradients are of no use afterwards."""
    model.train().requires_grad_(True)
    seconds = []
    for _, (batch, targets, _, _) in zip(range(steps + 1), images.train):
        start = time.perf_counter()
        batch = batch.to(images.settings.device).float() / 255
        compute_loss(model(batch), targets.to(images.settings.device))[0].backward()
        seconds.append((time.perf_counter() - start) / len(batch))
    each = min(seconds[1:] or seconds)
    validated = len(images.val.loader.loader.dataset)
    return each * (len(images.dataset) + validated / 3)  # a pass forward is a third of a step


_scorers: dict[Any, ReplacementScorer] = {}


def _opened(settings: Settings, host: Host, imgsz: int, seed: int) -> ReplacementScorer:
    """The scorer of this process, with the images and the parent in memory."""
    path = Path(settings.weights or "")
    stamp = path.stat().st_mtime_ns if path.exists() else 0
    key = (path, stamp, imgsz, seed, repr(settings.model))
    if key not in _scorers:
        _scorers.clear()  # of another parent, another space, or another form of it
        free_memory()
        _scorers[key] = ReplacementScorer(host, settings, imgsz, seed)
    return _scorers[key]


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and its standard error."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, 0.0  # there is nothing to tell it by; of so few images the search warns
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))
