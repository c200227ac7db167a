"""A trained network whose layers are replaced, and the training images on which that is done and judged."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..host.yolov5 import Host
from ..weights.importance import Importances, taylor
from ..weights.replacement import Parent
from .crops import cropped
from .images import plain_dataset
from .process import global_state_kept
from .settings import Settings

SIDE = 320  # pixels: layers are reconstructed on crops of this size of larger images
SOLVED = 64 * SIDE * SIDE  # pixels that layers are reconstructed on: 64 images of 320 px or more
MOST = 128  # such images, however small: more change scores by less than a tenth
SCORED = 128  # images
COUNTED, BATCH = 64, 4  # images by which the importance of channels is counted, and in a batch of them
FEW = 32  # images to score on, below which errors are large


def split(count: int, imgsz: int, seed: int) -> tuple[list[int], list[int]]:
    """Which of `count` training images layers are solved on, and which others scores are taken on.

    >>> [len(part) for part in split(320, 320, 0)], [len(part) for part in split(21, 640, 0)]
    ([64, 128], [10, 11])
    """
    order = random.Random(seed).sample(range(count), count)
    solved = min(SOLVED // min(imgsz, SIDE) ** 2, MOST, max(1, count // 2))
    return order[:solved], order[solved : solved + SCORED] or order[:SCORED]


def read_parent(host: Host, settings: Settings, imgsz: int, seed: int) -> Parent:
    """The network in `settings.weights`, with the images that replaced layers are solved on; in the form of the
    settings' space, where the weights are of another.

    Args:
        settings: with a space whose default architecture is the network's, but for its form.
        imgsz: input size in pixels.
        seed: of which images.

    Raises:
        UserError: the weights are of another architecture.
    """
    weights, device = Path(settings.weights or ""), torch.device(settings.device)
    dataset = _dataset(host, settings, imgsz)
    solved = split(len(dataset), imgsz, seed)[0]
    batches = [cropped(*_batch(dataset, solved[i : i + BATCH]), SIDE, seed + i) for i in range(0, len(solved), BATCH)]
    images = torch.cat([batch for batch, _ in batches]).to(device).float() / 255

    def counted(model: Any) -> Importances:
        compute_loss = loss_of(host, model, settings, imgsz)
        some = ((x.to(device).float() / 255, targets.to(device)) for x, targets in batches[: COUNTED // BATCH])
        return taylor(model, some, lambda raw, targets: compute_loss(raw, targets)[0])

    model = host.load_checkpoint(weights).to(device).eval()  # as it may not have been saved
    parent = Parent(host, model, settings.source_space, images, str(weights), counted(model), frozen=settings.freeze)
    if not settings.is_formed:
        return parent
    formed = parent.formed(settings.space)
    return Parent(host, formed, settings.space, images, str(weights), counted(formed), parent.model)


def loss_of(host: Host, model: Any, settings: Settings, imgsz: int) -> Any:
    """YOLOv5's loss for a model, with the gains that `train.py` gives it."""
    layers = model.model[-1].nl
    hyp = {**settings.hyp_used, "label_smoothing": settings.label_smoothing}
    hyp["box"] *= 3 / layers
    hyp["cls"] *= settings.nc / 80 * 3 / layers
    hyp["obj"] *= (imgsz / 640) ** 2 * 3 / layers
    model.hyp = hyp
    return host.ComputeLoss(model)


def scoring_batches(
    host: Host, settings: Settings, imgsz: int, seed: int, size: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The images that scores are taken on, in batches of `size` at most, two or more where there are two images.

    Returns:
        Images (B, 3, H, W) as bytes in the CPU's memory, and labels (n, 6): image, class, box.
    """
    dataset, device = _dataset(host, settings, imgsz), torch.device(settings.device)
    _, scored = split(len(dataset), imgsz, seed)
    size = min(size, -(-len(scored) // 2))
    batches = (_batch(dataset, scored[i : i + size]) for i in range(0, len(scored), size))
    return [(images, targets.to(device)) for images, targets in batches]


def _dataset(host: Host, settings: Settings, imgsz: int) -> Any:
    with global_state_kept():
        return plain_dataset(host, settings, imgsz, 32)


def _batch(dataset: Any, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (B, 3, H, W) as bytes, and labels (n, 6): image, class, box."""
    images, targets, _, _ = dataset.collate_fn([dataset[i] for i in indices])
    return images, targets
