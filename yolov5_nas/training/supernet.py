"""One-shot search: a supernet is trained once, and scores each architecture without training it.

Each step trains the largest architecture on the labels, and the smallest and some drawn at random on the labels and on
what the largest predicts (sandwich rule and in-place distillation: Yu & Huang 2019; Yu et al. 2020, BigNAS). To score
one, its slice is copied out, its batch norm statistics are estimated on some batches, and YOLOv5 validates it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..files import write_whole
from ..host.yolov5 import Host
from ..records.journal import TrialResult
from ..records.run_folder import TrialFolder
from ..space.architecture import Architecture, Value
from ..space.space import Space
from ..weights import supernet
from ..weights.elastic import set_architecture
from ..weights.mapping import fitting, shared_state
from ..weights.source import read_source
from .distillation import distillation
from .initial import freeze
from .process import as_trial
from .scoring import Scorer
from .settings import Settings, budget_of
from .trainer import Training, accuracies

STUDENTS = 2  # drawn at random in each step, besides the smallest (Yu et al. 2020)


class SupernetTraining(Training):
    """Trains the supernet, as `Training` does one architecture.

    Each epoch has its own random numbers and leaves `last.pt` in the folder, from where the next attempt goes on: a
    training that was killed ends as one that was not.
    """

    def __init__(self, host: Host, s: Settings, seed: int, folder: Path | None = None):
        self.space = s.space
        self.default = self.space.default()
        self.largest, self.smallest = (supernet.extreme(self.space, pick) for pick in (max, min))
        host.general.init_seeds(seed, deterministic=True)
        network = _initial(host, s, self.space, self.largest)
        super().__init__(host, network, s, s.imgsz_of(self.default), s.batch_size, seed, folder)

    def _prepare(self) -> None:
        freeze(self.model, self.settings.freeze)
        super()._prepare()
        self.scorer = Scorer(self.images)
        if self.folder and (last := TrialFolder(self.folder).last).exists():
            self._go_on(torch.load(last, map_location="cpu", weights_only=True))

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
        seed, loader = (self.seed * 10_000 + epoch) % 2**32, self.images.train.loader
        self.host.general.init_seeds(seed, deterministic=True)
        loader.generator.manual_seed(seed)
        loader.iterator = torch.utils.data.DataLoader.__iter__(loader)  # YOLOv5's keeps one for all epochs

    def _validate(self) -> dict[str, float]:
        return self.scorer.score(self.ema.ema, self.default, self.compute_loss)

    def _take(self, point: Mapping[str, float]) -> None:
        """Take the last averaged weights as the best: this validation of one slice says nothing about the others."""
        self.best, self.results = self.ema.ema, accuracies(point)

    def _end_epoch(self, epoch: int) -> None:
        """Leave what an attempt after a kill goes on from."""
        if not self.folder:
            return
        parts = {n: getattr(self, n).state_dict() for n in ("model", "optimizer", "scheduler", "scaler")}
        parts |= {"epoch": epoch + 1, "last_step": self.last_step, "accumulate": float(self.accumulate)}
        parts |= {"updates": self.ema.updates, "curve": self.curve}
        supernet.save(self.ema.ema, self.settings.space.yaml, TrialFolder(self.folder).last, **parts)

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


def _initial(host: Host, s: Settings, space: Space, largest: Architecture) -> Any:
    """A supernet with random weights, a given one to train further, or one initialised with stock YOLOv5's weights."""
    if s.weights and supernet.read(Path(s.weights)):
        return supernet.load(Path(s.weights), s.space.yaml, s.nc, host)
    network = supernet.build(host, s.space.yaml, s.nc)
    if s.weights:
        source = read_source(host.load_checkpoint(Path(s.weights)), space, s.weights)
        taken, left = fitting(shared_state(source, space, largest), network.state_dict())
        network.load_state_dict(taken, strict=False)
        print(f"supernet: {len(taken)}/{len(taken) + len(left)} tensors from {s.weights}")
    return network


def train_supernet(
    architecture: Mapping[str, Value], settings: Settings, seed: int = 0, folder: Path | None = None
) -> TrialResult:
    """Train the supernet of `settings.model`; `folder` gets it as `weights.pt`.

    Args:
        architecture: the default one, whose slice is validated meanwhile.

    Returns:
        The metrics of that slice at the end.

    Raises:
        TrialError: as `run_trial`.
    """
    with as_trial(settings, folder) as host:
        training = SupernetTraining(host, settings, seed, folder)
        training.run()
        if folder:
            supernet.save(training.best, settings.space.yaml, TrialFolder(folder).weights)
        return TrialResult(training.results, tuple(training.curve), budget=budget_of(settings))
