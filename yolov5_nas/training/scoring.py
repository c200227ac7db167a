"""Scores without a training: architectures as slices of a trained supernet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import update_bn

from ..host.yolov5 import Host
from ..records.journal import TrialResult
from ..space.architecture import Architecture, Value
from ..weights import supernet
from ..weights.elastic import extract
from .images import Images
from .process import as_trial, global_state_kept
from .settings import Settings, budget_of
from .trainer import accuracies
from .trial import costs_of_score


class Scorer:
    """Scores slices of a supernet on the images of a data set.

    Args:
        images: of which some are for batch norm's statistics, and those of validation for the score.
    """

    def __init__(self, images: Images):
        self.images = images
        self.calibration: list[torch.Tensor] = []  # (B, 3, H, W) each, from 0 to 255

    def score(self, network: Any, architecture: Architecture, compute_loss: Any = None) -> dict[str, float]:
        """Validation of an architecture's slice of a supernet, with batch norm estimated for it."""
        host, device = self.images.host, self.images.settings.device
        model = extract(network, architecture, host).to(device)
        if not self.calibration:
            with global_state_kept():
                host.general.init_seeds(self.images.seed, deterministic=True)  # of the augmentation
                self.calibration = list(self.images.some())
        update_bn(self.images.scaled(self.calibration), model)
        return self.images.validate(model.eval(), compute_loss)


def score_trial(
    architecture: Mapping[str, Value],
    settings: Settings,
    seed: int = 0,
    folder: Path | None = None,
    costs: TrialResult | None = None,
) -> TrialResult:
    """Score an architecture by its slice of the supernet in `settings.weights`; nothing is trained.

    Latency is measured only where `settings.needed` names it, or with `settings.measure_all`.

    Raises:
        TrialError: as `run_trial`.
    """
    with as_trial(settings, folder) as host:
        costs = costs or costs_of_score(architecture, settings)
        if costs.state == "infeasible":
            return costs
        network, scorer = _opened(settings, host, settings.imgsz_of(architecture), seed)
        point = scorer.score(network, Architecture(architecture))
        metrics = {**costs.metrics, **accuracies(point)}
        return replace(costs, metrics=metrics, budget=budget_of(settings, epochs=0))


_scorers: dict[Any, tuple[Any, Scorer]] = {}


def _opened(settings: Settings, host: Host, imgsz: int, seed: int) -> tuple[Any, Scorer]:
    """The supernet and the scorer of this process, with the images in memory."""
    path = Path(settings.weights or "")
    key = (path, path.stat().st_mtime_ns if path.exists() else 0, imgsz, seed)
    if key not in _scorers:
        network = supernet.load(path, settings.space.yaml, settings.nc, host).to(settings.device)
        stride = int(network.stride.max())
        hyp = {name: value for name, value in settings.hyp_used.items() if name != "optimizer"}
        _scorers[key] = network, Scorer(Images(host, settings, imgsz, settings.batch_size, stride, hyp, seed))
    return _scorers[key]
