"""Scores without a training: architectures as slices of a trained supernet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..host.yolov5 import Host
from ..records.journal import TrialResult
from ..records.metrics import LATENCIES
from ..space.architecture import Architecture, Value
from ..weights import supernet
from ..weights.elastic import extract
from .process import as_trial, global_state_kept
from .settings import Settings, budget_of
from .trainer import Training, accuracies
from .trial import measure_architecture


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
        metrics = {**costs.metrics, **accuracies(point)}
        return replace(costs, metrics=metrics, budget=budget_of(settings, epochs=0))


_scorers: dict[Any, Scorer] = {}


def _scorer(settings: Settings, host: Host, imgsz: int, seed: int) -> Scorer:
    """The one of this process, with the images and weights in memory."""
    path = Path(settings.weights or "")
    key = (path, path.stat().st_mtime_ns if path.exists() else 0, imgsz, seed)
    if key not in _scorers:
        _scorers[key] = Scorer(host, settings, imgsz, seed, None, path)
        _scorers[key].open()
    return _scorers[key]
