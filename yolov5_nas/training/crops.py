"""Crops of large images, so that more of them fit in the same memory."""

from __future__ import annotations

import random

import torch


def cropped(images: torch.Tensor, targets: torch.Tensor, side: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut a square out of each image, with one of its objects, if there is any; images that are no larger stay whole.

    Args:
        images: (B, 3, H, W).
        targets: labels (n, 6): image, class, and box as centre, width and height in shares of the image.
        side: pixels.
        seed: of the places.

    Returns:
        Images and their labels: of the objects whose centres are in the crops, what is in there.
    """
    height, width = images.shape[2:]
    if max(height, width) <= side:
        return images, targets
    rng, size = random.Random(seed), targets.new_tensor([width, height])
    crops, labels = [], []
    for b, image in enumerate(images):
        own = targets[targets[:, 0] == b]
        centre, half = own[:, 2:4] * size, own[:, 4:] * size / 2
        point = centre[rng.randrange(len(own))].tolist() if len(own) else None
        x, y = (_start(rng, n, side, point and point[axis]) for axis, n in enumerate((width, height)))
        crop = image[:, y : y + side, x : x + side]
        low = own.new_tensor([x, y])
        high = low + own.new_tensor([crop.shape[2], crop.shape[1]])
        inside = ((centre >= low) & (centre < high)).all(1)
        first, last = (edge[inside].clamp(low, high) for edge in (centre - half, centre + half))
        boxes = torch.cat(((first + last) / 2 - low, last - first), 1) / (high - low).repeat(2)
        crops.append(crop)
        labels.append(torch.cat((own[inside, :2], boxes), 1))
    return torch.stack(crops), torch.cat(labels)


def _start(rng: random.Random, size: int, side: int, point: float | None) -> int:
    """Return where a crop of `side` pixels begins in `size`, so that a point is in it."""
    last = max(0, size - side)
    if point is None:
        return rng.randint(0, last)
    return rng.randint(*(min(max(0, int(edge)), last) for edge in (point - side + 1, point)))
