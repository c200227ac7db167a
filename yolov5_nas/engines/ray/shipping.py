"""The files of a data set: which they are, their hash, and their copy on a machine that lacks them."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from ...errors import UserError

IMAGES = {".bmp", ".dng", ".jpeg", ".jpg", ".mpo", ".pfm", ".png", ".tif", ".tiff", ".webp"}  # YOLOv5's IMG_FORMATS
SPLITS = ("train", "val")
PIECE = 32 * 2**20  # bytes in a piece of a packed data set, or one file if that is larger


def images_of(data: Mapping[str, Any], split: str) -> list[Path]:
    """The images of a split, which is a folder, a file that lists images, or several of these; absolute paths."""
    entries = data[split] if isinstance(data[split], list) else [data[split]]
    return [image for entry in entries for image in _images(Path(entry))]


def listed(data: Mapping[str, Any], split: str) -> bool:
    """Whether a file lists the images of a split."""
    entries = data[split] if isinstance(data[split], list) else [data[split]]
    return any(Path(entry).is_file() for entry in entries)


def files_of(data: Mapping[str, Any]) -> list[Path]:
    """All images of a data set and the labels that there are, sorted."""
    images = [image for split in SPLITS for image in images_of(data, split)]
    return sorted({*images, *filter(Path.is_file, map(label_of, images))})


def size_hash(files: Iterable[Path]) -> str:
    """A hash of the files' names and sizes, which takes a moment."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file} {file.stat().st_size}\n".encode())
    return digest.hexdigest()


def content_hash(files: Iterable[Path], root: Path = Path("/")) -> str:
    """A hash of the files' names below `root` and their contents."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(root)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def pack(files: Iterable[Path]) -> Iterator[bytes]:
    """The files as tar archives of about `PIECE` bytes each."""
    for group in _groups(files):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for file in group:
                archive.add(file.resolve(), arcname=str(file.relative_to("/")), recursive=False)
        yield buffer.getvalue()


def unpack(pieces: Iterable[bytes], folder: Path, digest: str) -> None:
    """Write packed files below a folder, which appears whole and with the right content, or not at all.

    Raises:
        UserError: the content is another than that of the `digest`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):  # several nodes may share a disk
        if folder.is_dir():
            return
        temporary = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            for piece in pieces:
                with tarfile.open(fileobj=io.BytesIO(piece)) as archive:
                    archive.extractall(temporary, filter="data")
            if content_hash(sorted(f for f in temporary.rglob("*") if f.is_file()), temporary) != digest:
                raise UserError("the copy of the data is not as the original", file=folder)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _groups(files: Iterable[Path]) -> Iterator[list[Path]]:
    group, size = [], 0
    for file in files:
        group.append(file)
        size += file.stat().st_size
        if size >= PIECE:
            yield group
            group, size = [], 0
    if group:
        yield group


def _images(entry: Path) -> list[Path]:
    if entry.is_dir():
        return sorted(f for f in entry.rglob("*") if f.suffix.lower() in IMAGES)
    text = entry.read_text(encoding="utf-8", errors="surrogateescape")
    lines = filter(None, map(str.strip, text.splitlines()))
    return [entry.parent / line if line.startswith("./") else Path(line) for line in lines]


def label_of(image: Path) -> Path:
    """Where YOLOv5 looks for an image's labels: the last folder `images` in its path made `labels`."""
    head, found, tail = str(image).rpartition("/images/")
    return Path(f"{head}/labels/{tail}" if found else image).with_suffix(".txt")
