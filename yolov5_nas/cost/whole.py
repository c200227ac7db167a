"""Everything that `detect.py` does with one image and an exported network: from decoded pixels to boxes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..host.yolov5 import Host
from .latency import Pass

CONFIDENCE, IOU, MOST = 0.25, 0.45, 1000  # detect.py's


def detector(host: Host, network: Callable[[Any], Any], images: Sequence[np.ndarray], imgsz: int) -> Pass:
    """A pass over the next of some images: letterbox, network, non-maximum suppression, boxes in the image's pixels.

    Args:
        network: (1, 3, imgsz, imgsz) to predictions.
        images: (height, width, 3), as OpenCV reads them.
    """
    import torch

    letterbox = host.module("utils.augmentations").letterbox
    turn = itertools.cycle(images)

    def detect() -> Any:
        image = next(turn)
        square = letterbox(image, imgsz, auto=False)[0]
        planes = np.ascontiguousarray(square.transpose((2, 0, 1))[::-1])
        tensor = torch.from_numpy(planes).float()[None] / 255
        (found,) = host.suppressed(network(tensor), CONFIDENCE, IOU, MOST)
        found[:, :4] = host.general.scale_boxes(tensor.shape[2:], found[:, :4], image.shape).round()
        return found

    return detect
