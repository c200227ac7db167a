"""What a network detects in the images of a split, and how certain its mAP is, by resampling the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..host.yolov5 import Host
from .images import Split
from .settings import Settings
from .trainer import accuracies

EPS = 1e-16  # YOLOv5's


@dataclass(frozen=True)
class Detections:
    """All detections and labels of a split, the detections by falling confidence.

    Args:
        right: (n, 10), whether a detection is right at each IoU threshold from 0.5 to 0.95.
        classes: (n), of detections; image: (n), which image they are of.
        label_classes, label_image: (m), the same of labels.
        images: how many there are.
    """

    right: np.ndarray
    classes: np.ndarray
    image: np.ndarray
    label_classes: np.ndarray
    label_image: np.ndarray
    images: int

    @classmethod
    def of(cls, by_image: Mapping[str, Any], paths: Sequence[str]) -> Detections:
        """From what `Host.validate` gives by image.

        Args:
            paths: of all images, whose places are their numbers.
        """
        right, conf, classes, labels = (
            np.concatenate([x.cpu().numpy() for x in column]) for column in zip(*by_image.values())
        )
        place = {path: i for i, path in enumerate(paths)}
        images = np.array([place[path] for path in by_image])
        image = np.repeat(images, [len(one[1]) for one in by_image.values()])
        label_image = np.repeat(images, [len(one[3]) for one in by_image.values()])
        order = np.argsort(-conf)  # as YOLOv5 sorts them
        return cls(right[order], classes[order], image[order], labels, label_image, len(paths))

    def mean_ap(self, host: Host, times: np.ndarray | None = None) -> float:
        """mAP50-95 as YOLOv5's `ap_per_class` has it.

        Args:
            times: (images), how often each counts; once by default.
        """
        times = np.ones(self.images, int) if times is None else times
        weight, label_weight = times[self.image], times[self.label_image]
        found = []
        with host.compatible():
            for own, labels in self.by_class:
                count = label_weight[labels].sum()
                own = own[weight[own] > 0]
                if not count:
                    continue
                right = (self.right[own] * weight[own, None]).cumsum(0)  # (detections, 10)
                recall, precision = right / (count + EPS), right / weight[own].cumsum()[:, None]
                found += [host.average_precision(r, p) if len(own) else 0.0 for r, p in zip(recall.T, precision.T)]
        return float(np.mean(found)) if found else 0.0

    @cached_property
    def by_class(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each class of the labels the numbers of its detections, and those of its labels."""
        classes = np.unique(self.label_classes)
        return [(np.flatnonzero(self.classes == c), np.flatnonzero(self.label_classes == c)) for c in classes]


def resampled(host: Host, networks: Sequence[Detections], draws: int, seed: int = 0) -> np.ndarray:
    """mAP50-95 of networks over images that are drawn again, the same for all: a paired bootstrap.

    Args:
        networks: what each detects in the same images.

    Returns:
        (draws, networks)
    """
    rng, count = np.random.default_rng(seed), networks[0].images
    times = [np.bincount(rng.integers(0, count, count), minlength=count) for _ in range(draws)]
    return np.array([[network.mean_ap(host, one) for network in networks] for one in times])


def detect(
    host: Host, weights: Path, s: Settings, imgsz: int, split: str, square: bool = False
) -> tuple[dict[str, float], dict[str, Any]]:
    """Validate a checkpoint on a split: its accuracies, and what `Host.validate` gives by image.

    Args:
        square: at square input, which exported models get, instead of YOLOv5's rectangular batches.
    """
    model, by_image = host.load_checkpoint(weights).to(s.device), dict[str, Any]()
    images = Split(host, s, split, imgsz, 2 * s.batch_size, max(32, int(model.stride.max())), s.hyp_used, square)
    try:
        return accuracies(images.validate(model, None, by_image)[0]), by_image
    finally:
        images.close()
