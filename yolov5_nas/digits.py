"""The built-in data sets: scikit-learn's 1797 scanned digits on textured canvases, the same on every machine."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

SPLITS = {"train": 640, "val": 160, "test": 160}  # images
HARD_SPLITS = {"train": 512, "val": 240, "test": 240}
TRAIN_SCANS = 1400  # of the 1797 scans; val and test are made of the others


def render(root: str | Path, size: int = 128, seed: int = 0) -> None:
    """Write images and YOLO labels of all splits into a folder, all or nothing; a finished one is left as it is.

    Each image shows 4 to 8 digits of 20 to 55 pixels on `size` x `size` pixels, none overlapping another.
    """
    _render(Path(root), SPLITS, _scene, size, seed)


def render_hard(root: str | Path, size: int = 128, seed: int = 0) -> None:
    """As `render`, a harder set.

    Each image shows up to 10 digits of 16 to 47 pixels on `size` x `size` pixels, up to a quarter of one on top
    of another, among strokes and pieces of digits, under noise.
    """
    _render(Path(root), HARD_SPLITS, _hard_scene, size, seed)


Scene = Callable[[Any, Any, Any, int, np.random.Generator], tuple[Any, list[str]]]


def _render(root: Path, splits: Mapping[str, int], scene: Scene, size: int, seed: int) -> None:
    from sklearn.datasets import load_digits

    if (root / "labels" / "test").is_dir():
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    scans = load_digits()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(scans.target))
    pools = {"train": order[:TRAIN_SCANS], "val": order[TRAIN_SCANS:], "test": order[TRAIN_SCANS:]}
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=".digits-") as temporary:
        for split, count in splits.items():
            folders = [Path(temporary, "new", kind, split) for kind in ("images", "labels")]
            for folder in folders:
                folder.mkdir(parents=True)
            for i in range(count):
                image, labels = scene(scans.images / 16.0, scans.target, pools[split], size, rng)
                cv2.imwrite(str(folders[0] / f"{i:05d}.png"), image)
                (folders[1] / f"{i:05d}.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
        if root.is_dir() and not any(root.iterdir()):
            root.rmdir()
        if not root.exists():
            shutil.move(Path(temporary, "new"), root)
        elif (root / "labels" / "val").is_dir():  # of a version that had no test split
            for kind in ("images", "labels"):
                if not (root / kind / "test").exists():
                    shutil.move(Path(temporary, "new", kind, "test"), root / kind / "test")


def _scene(scans: Any, target: Any, pool: Any, size: int, rng: np.random.Generator) -> tuple[Any, list[str]]:
    """One image (size, size, 3) and its label lines."""
    texture = rng.integers(0, 90, (size // 8, size // 8, 3)).astype(np.uint8)
    image = cv2.resize(texture, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    boxes: list[tuple[int, int, int, int]] = []
    labels = []
    for _ in range(rng.integers(4, 9)):
        scan, side = rng.choice(pool), int(rng.integers(20, 56))
        ink = cv2.resize(scans[scan], (side, side), interpolation=cv2.INTER_CUBIC).clip(0, 1)
        for x, y, box in _places(ink, size, rng):
            if not any(_overlap(box, other) for other in boxes):
                colour = rng.integers(140, 256, 3)
                region = image[y : y + side, x : x + side]
                region[:] = region * (1 - ink[..., None]) + ink[..., None] * colour
                boxes.append(box)
                labels.append(_label(int(target[scan]), box, size))
                break
    return image.clip(0, 255).astype(np.uint8), labels


def _hard_scene(scans: Any, target: Any, pool: Any, size: int, rng: np.random.Generator) -> tuple[Any, list[str]]:
    """One image (size, size, 3) and its label lines."""
    texture = rng.integers(0, 110, (size // 8, size // 8, 3)).astype(np.uint8)
    image = cv2.resize(texture, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    for _ in range(rng.integers(2, 5)):
        _stroke(image, rng)
    for _ in range(rng.integers(2, 5)):
        row, column = rng.integers(0, 5, 2)
        piece = _ink(scans[rng.choice(pool)][row : row + 4, column : column + 4], int(rng.integers(8, 19)))
        x, y = rng.integers(0, size - len(piece), 2)
        _blend(image, piece, x, y, rng)
    boxes: list[tuple[int, int, int, int]] = []
    labels = []
    for _ in range(rng.integers(6, 11)):
        scan = rng.choice(pool)
        ink = _ink(scans[scan], int(16 * 3 ** rng.random()))  # as many from 16 to 27 pixels as from 28 to 47
        for x, y, box in _places(ink, size, rng):
            if all(_hidden(box, other) < 0.25 for other in boxes):
                _blend(image, ink, x, y, rng)
                boxes.append(box)
                labels.append(_label(int(target[scan]), box, size))
                break
    image += rng.normal(0, rng.uniform(5, 15), image.shape)
    return image.clip(0, 255).astype(np.uint8), labels


def _ink(scan: Any, side: int) -> Any:
    """A scan at `side` x `side` pixels: 0 where there is paper, 1 where there is ink."""
    return cv2.resize(scan, (side, side), interpolation=cv2.INTER_CUBIC).clip(0, 1)


def _stroke(image: Any, rng: np.random.Generator) -> None:
    """An arc, thin or thick, that is no digit."""
    centre, axes = rng.integers(0, len(image), 2).tolist(), rng.integers(4, 40, 2).tolist()
    angle, start, length = (int(v) for v in rng.integers((0, 0, 40), (180, 360, 200)))
    colour, width = rng.integers(0, 256, 3).tolist(), int(rng.integers(1, 4))
    cv2.ellipse(image, centre, axes, angle, start, start + length, colour, width, cv2.LINE_AA)


def _blend(image: Any, ink: Any, x: int, y: int, rng: np.random.Generator) -> None:
    """Ink of a light colour over the image at a place."""
    region = image[y : y + len(ink), x : x + len(ink)]
    region[:] = region * (1 - ink[..., None]) + ink[..., None] * rng.integers(130, 256, 3)


def _places(ink: Any, size: int, rng: np.random.Generator) -> Iterator[tuple[int, int, tuple[int, int, int, int]]]:
    """Twenty random positions of a digit, each with the box of its ink (x1, y1, x2, y2)."""
    ys, xs = np.where(ink > 0.3)
    for _ in range(20):
        x, y = (int(v) for v in rng.integers(0, size - len(ink), 2))
        yield x, y, (x + xs.min(), y + ys.min(), x + xs.max() + 1, y + ys.max() + 1)


def _overlap(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def _hidden(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """Share of the smaller of two boxes that lies in the other."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(width, 0) * max(height, 0) / smaller


def _label(digit: int, box: tuple[int, int, int, int], size: int) -> str:
    x1, y1, x2, y2 = (v / size for v in box)
    return f"{digit} {(x1 + x2) / 2:.6f} {(y1 + y2) / 2:.6f} {x2 - x1:.6f} {y2 - y1:.6f}"
