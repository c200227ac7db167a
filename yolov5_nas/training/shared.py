"""One-shot search: a network that all architectures share is trained once, and scores each of them untrained.

Each step trains the largest architecture on the labels, and the smallest and some drawn at random on the labels and on
what the largest predicts (sandwich rule and in-place distillation: Yu & Huang 2019; Yu et al. 2020, BigNAS). To score
one, its slice is copied out, its batch norm statistics are estimated on some batches, and YOLOv5 validates it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from ..files import WEIGHTS, write_whole
from ..host.yolov5 import Host
from ..records.journal import TrialResult
from ..records.metrics import LATENCIES
from ..space.architecture import Architecture, Value
from ..weights import supernet
from ..weights.elastic import extract, set_architecture
from ..weights.mapping import fitting, read_source, shared_state
from .trial import Settings, Training, accuracies, as_trial, freeze, global_state_kept, measure_architecture
from .trial import preload as preload  # engines look for it here

STUDENTS = 2  # drawn at random in each step, besides the smallest (Yu et al. 2020)
LAST = "last.pt"  # where the training of the shared network goes on after a kill


class Scorer(Training):
    """A shared network with the images that score its slices.

    Args:
        weights: of a trained one; else it starts at random.
        imgsz: input size in pixels.
    """

    def __init__(self, host: Host, s: Settings, imgsz: int, seed: int, folder: Path | None, weights: Path | None):
        self.weights = weights
        super().__init__(host, {}, s, imgsz, s.batch_size, torch.device(s.device), seed, folder)
        self.amp = self.device.type == "cuda"

    def _build(self, cfg: Mapping[str, Any]) -> Any:
        s = self.settings
        if self.weights:
            return supernet.load(self.weights, s.model, s.nc, self.host)
        return supernet.build(self.host, s.model, s.nc, self.hyp.get("anchors"))

    def open(self) -> None:
        """Load the images, without what only a training needs."""
        self.loader, self.dataset = self._loader("train")
        self.val_loader, _ = self._loader("val")
        self.compute_loss = None

    def score(self, architecture: Architecture, shared: Any) -> dict[str, float]:
        """Validation of an architecture's slice of a shared network, with batch norm estimated for it."""
        model = extract(shared, architecture, self.host).to(self.device)
        self._estimate(model, self._calibration())
        return self._validate_model(model.eval())

    def _calibration(self) -> list[torch.Tensor]:
        if not hasattr(self, "calibration"):
            with global_state_kept():
                self.host.general.init_seeds(self.seed, deterministic=True)  # of the augmentation
                self.calibration = list(self._some_images())
        return self.calibration


class SharedTraining(Scorer):
    """Trains the shared network, as `Training` does one architecture.

    Each epoch has its own random numbers and leaves `last.pt` in the folder, from where the next attempt goes on: a
    training that was killed ends as one that was not.
    """

    def __init__(self, host: Host, s: Settings, seed: int, folder: Path | None = None):
        self.space, self.folder = s.space, folder
        self.default = self.space.default()
        self.largest, self.smallest = (supernet.extreme(self.space, pick) for pick in (max, min))
        weights = Path(s.weights) if s.weights else None
        super().__init__(host, s, s.imgsz_of(self.default), seed, folder, weights)

    def _build(self, cfg: Mapping[str, Any]) -> Any:
        """A shared network at random, another that is trained on, or one that has stock YOLOv5's weights."""
        if not self.weights or supernet.read(self.weights):
            return super()._build(cfg)
        s = self.settings
        shared = supernet.build(self.host, s.model, s.nc, self.hyp.get("anchors"))
        source = read_source(self.host.load_checkpoint(self.weights), self.space, self.weights)
        taken, left = fitting(shared_state(source, self.space, self.largest), shared.state_dict())
        shared.load_state_dict(taken, strict=False)
        print(f"shared network: {len(taken)}/{len(taken) + len(left)} tensors from {self.weights}")
        return shared

    def _prepare(self) -> None:
        freeze(self.model, self.settings.freeze)
        super()._prepare()
        if self.folder and (self.folder / LAST).exists():
            self._go_on(torch.load(self.folder / LAST, map_location="cpu", weights_only=True))

    def _go_on(self, kept: Mapping[str, Any]) -> None:
        self.model.load_state_dict(kept["model"])
        self.ema.ema.load_state_dict(kept["state"])
        self.ema.updates = kept["updates"]
        self.optimizer.load_state_dict(kept["optimizer"])
        self.scheduler.load_state_dict(kept["scheduler"])
        self.scaler.load_state_dict(kept["scaler"])
        self.first, self.last_step, self.accumulate = kept["epoch"], kept["last_step"], kept["accumulate"]
        self.best, self.curve = self.ema.ema, list(kept["curve"])
        if self.curve:
            self.results = accuracies(self.curve[-1])
        if self.curve_file:
            write_whole(self.curve_file, "")
            for point in self.curve:
                self._write_point(point)
        print(f"goes on after epoch {self.first}")

    def _begin_epoch(self, epoch: int) -> None:
        """Random numbers that depend on the epoch alone, and an order of the images and workers that do."""
        seed, loader = (self.seed * 10_000 + epoch) % 2**32, self.loader.loader
        self.host.general.init_seeds(seed, deterministic=True)
        loader.generator.manual_seed(seed)
        loader.iterator = torch.utils.data.DataLoader.__iter__(loader)  # YOLOv5's keeps one for all epochs

    def _validate(self) -> dict[str, float]:
        return self.score(self.default, self.ema.ema)

    def _take(self, point: Mapping[str, float]) -> None:
        """The last is the best: an average of weights, whose other slices this validation does not tell of."""
        self.best, self.results = self.ema.ema, accuracies(point)

    def _end_epoch(self, epoch: int) -> None:
        """Leave what an attempt after a kill goes on from."""
        if not self.folder:
            return
        parts = {n: getattr(self, n).state_dict() for n in ("model", "optimizer", "scheduler", "scaler")}
        parts |= {"epoch": epoch + 1, "last_step": self.last_step, "accumulate": float(self.accumulate)}
        parts |= {"updates": self.ema.updates, "curve": self.curve}
        supernet.save(self.ema.ema, self.settings.model, self.folder / LAST, **parts)

    def _backward(self, images: torch.Tensor, targets: torch.Tensor, iteration: int) -> tuple[float, torch.Tensor]:
        rng = random.Random(f"{self.seed} {iteration}")
        students = [self.smallest, *(self.space.sample(rng) for _ in range(STUDENTS))]
        set_architecture(self.model, self.largest)
        predicted, loss, items = self._forward(images, targets)
        self.scaler.scale(loss).backward()
        teacher = [p.detach().float() for p in predicted]
        for student in students:
            set_architecture(self.model, student)
            predicted, own, _ = self._forward(images, targets)
            own = own + len(images) * distillation([p.float() for p in predicted], teacher, self.hyp)
            self.scaler.scale(own).backward()
        return float(loss.detach()), items


def distillation(student: list[torch.Tensor], teacher: list[torch.Tensor], hyp: Mapping[str, float]) -> torch.Tensor:
    """How far a student's predictions are from a teacher's, with YOLOv5's gains; the teacher says where objects are.

    Args:
        student, teacher: raw outputs of the detection layer, (B, anchors, H, W, 5 + classes) for each stride; the
            teacher's without gradients.
        hyp: gains `box`, `obj`, `cls`.

    Returns:
        A scalar: cross entropy of objectness over all places; of classes, and squared difference of boxes (in
        YOLOv5's sigmoid form), weighted by the teacher's objectness.
    """
    total = student[0].new_zeros(())
    for s, t in zip(student, teacher):
        soft = t.sigmoid()
        weight = soft[..., 4:5] / soft[..., 4:5].sum().clamp(min=1e-6)
        obj = F.binary_cross_entropy_with_logits(s[..., 4], soft[..., 4])
        cls = (weight * F.binary_cross_entropy_with_logits(s[..., 5:], soft[..., 5:], reduction="none")).sum()
        box = (weight * (s[..., :4].sigmoid() - soft[..., :4]).square()).sum()
        total = total + hyp["obj"] * obj + hyp["cls"] * cls / soft[..., 5:].shape[-1] + 4 * hyp["box"] * box
    return total


def train_shared(
    architecture: Mapping[str, Value], settings: Settings, seed: int = 0, folder: Path | None = None
) -> TrialResult:
    """Train the shared network of `settings.model`; `folder` gets it as `weights.pt`.

    Args:
        architecture: the default one, whose slice is validated meanwhile.

    Returns:
        The metrics of that slice at the end.

    Raises:
        TrialError: as `run_trial`.
    """
    with as_trial(settings, folder) as host:
        training = SharedTraining(host, settings, seed, folder)
        training.run()
        if folder:
            supernet.save(training.best, settings.model, folder / WEIGHTS)
        return TrialResult(training.results, tuple(training.curve))


def score_trial(
    architecture: Mapping[str, Value],
    settings: Settings,
    seed: int = 0,
    folder: Path | None = None,
    costs: TrialResult | None = None,
) -> TrialResult:
    """Score an architecture by its slice of the shared network in `settings.weights`; nothing is trained.

    Latency is measured only where `settings.needed` names it, or with `settings.measure_all`.

    Raises:
        TrialError: as `run_trial`.
    """
    with as_trial(settings, folder) as host:
        with_latency = settings.measure_all or bool(set(settings.needed) & set(LATENCIES))
        costs = costs or measure_architecture(architecture, settings, with_latency)
        if costs.state == "infeasible":
            return costs
        scorer = _scorer(settings, host, settings.imgsz_of(architecture), seed)
        point = scorer.score(Architecture(architecture), scorer.model)
        return replace(costs, metrics={**costs.metrics, **accuracies(point)})


_scorers: dict[Any, Scorer] = {}


def _scorer(settings: Settings, host: Host, imgsz: int, seed: int) -> Scorer:
    """The one of this process, with the images and weights in memory."""
    path = Path(settings.weights or "")
    key = (path, path.stat().st_mtime_ns if path.exists() else 0, imgsz, seed)
    if key not in _scorers:
        _scorers[key] = Scorer(host, settings, imgsz, seed, None, path)
        _scorers[key].open()
    return _scorers[key]
