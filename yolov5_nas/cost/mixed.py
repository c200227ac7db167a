"""INT8 that keeps the accuracy: the layers that suffer most from it stay in FP32, as few as needed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .quantisation import layers_of, quantised

FEW = 4  # images by which layers are ranked
KEPT = (1, 2, 4, 8)  # how many layers stay in FP32: tried one after the other


def gently_quantised(
    path: Path,
    images: Sequence[np.ndarray],
    accuracy: Callable[[Path], float],
    wanted: float,
    ranking: Callable[[], Sequence[str]],
) -> tuple[Path, list[str]]:
    """Quantise what YOLOv5 exported so that it is as accurate as wanted, or as nearly so as `KEPT` layers allow.

    Args:
        path, images: see `quantised`.
        accuracy: of a quantised file; more is better.
        ranking: the layers, those first that bear it worst; asked for only where it is needed.

    Returns:
        The new file or folder, and the layers that stayed in FP32.
    """
    found = quantised(path, images)
    tried = {0: accuracy(found)}
    if tried[0] >= wanted:
        return found, []
    ranked = list(ranking())
    for count in (n for n in KEPT if n < len(ranked)):
        tried[count] = accuracy(quantised(path, images, ranked[:count]))
        if tried[count] >= wanted:
            return found, ranked[:count]
    best = max(tried, key=lambda count: tried[count])
    if best != max(tried):  # the last one tried, which is there
        quantised(path, images, ranked[:best])
    return found, ranked[:best]


def by_harm(file: Path, images: Sequence[np.ndarray]) -> list[str]:
    """The layers of an ONNX file, those first that change its predictions most when quantised alone.

    It works on a copy in another folder, since the file's quantised form may already lie next to it.
    """
    layers, plain = layers_of(file), [_predictions(file, image) for image in images]
    harm = {}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(file, folder))
        for layer in layers:
            alone = quantised(copy, images, [other for other in layers if other != layer])
            harm[layer] = float(np.mean([_change(p, _predictions(alone, i)) for p, i in zip(plain, images)]))
    return sorted(layers, key=lambda layer: -harm[layer])


def _change(before: np.ndarray, after: np.ndarray) -> float:
    """How much confidences change, and boxes as a share of their size, weighted by the confidences before.

    Args:
        before, after: (boxes, 5 + classes): x, y, width, height, objectness, classes.
    """
    weight, other = (p[:, 4] * p[:, 5:].max(1) for p in (before, after))
    boxes = np.abs(after[:, :4] - before[:, :4]).mean(1) / (before[:, 2:4].mean(1) + 1e-6)
    return float((weight * (np.abs(other - weight) + boxes)).sum() / (weight.sum() + 1e-6))


def _predictions(file: Path, image: np.ndarray) -> np.ndarray:
    import onnxruntime

    session: Any = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {session.get_inputs()[0].name: image})[0][0]
    return found
