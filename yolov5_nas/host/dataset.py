"""The data set: read its YAML, resolve its paths, make it where it makes itself, check it before anything trains."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import find_file, shipped
from ..space.model_yaml import load_yaml
from .yolov5 import Host

SPLITS = ("train", "val")


def find_data(name: str | Path, host_root: Path) -> Path:
    """A data YAML by name: in the working directory, in the plugin's `data/`, in the host's `data/`."""
    return find_file(name, [shipped("data"), host_root / "data"], "data YAML (--data)")


def read_data(path: Path) -> dict[str, Any]:
    """A data YAML with `names` as `{class: name}` and `nc`.

    Raises:
        UserError: it is no data set's YAML.
    """
    data, _ = load_yaml(path)
    if not isinstance(data, dict) or not {"train", "val"} <= set(data):
        hint = " (this is a model YAML: were --cfg and --data mixed up?)" if _is_model(data) else ""
        raise UserError(f"a data YAML must have the keys train, val and names{hint}", file=path)
    names = data.get("names")
    if names is None and isinstance(data.get("nc"), int):
        names = [f"class{i}" for i in range(data["nc"])]
    if isinstance(names, list):
        names = dict(enumerate(map(str, names)))
    if not isinstance(names, dict) or not names or sorted(names) != list(range(len(names))):
        raise UserError("names must list the classes 0, 1, 2, ...", got=data.get("names"), file=path)
    if data.get("nc") not in (None, len(names)):
        raise UserError(f"nc must be the number of names ({len(names)})", got=data["nc"], file=path)
    return {**data, "names": names, "nc": len(names)}


def resolve_data(path: Path, host: Host, download: bool = True) -> dict[str, Any]:
    """A data YAML as YOLOv5's `check_dataset` gives it, every path absolute; its `download:` entry runs if needed.

    A relative `path:` means, as in YOLOv5, a folder relative to the clone; with the PyPI package, whose own folder is
    no place for data, one relative to the data YAML or else to the working directory.

    Raises:
        UserError: images are missing and there is no way to get them.
    """
    data = read_data(path)
    given = data.get("path")
    root = _root(str(given or ""), path, host)
    data["path"] = str(root)
    missing = _missing(data, root)
    if missing and not (download and data.get("download")):
        relative = not Path(str(given or "")).expanduser().is_absolute() and host.location.kind == "clone"
        hint = f" (path: is relative, and so below {host.location.root})" if relative else ""
        raise UserError(f"the images of {missing[0]} do not exist{hint}", got=str(missing[1]), file=path)
    try:
        return host.check_dataset(data, download=bool(missing))
    except UserError:
        raise
    except Exception as e:  # a download script can fail in any way
        raise UserError(f"the data set could not be made ready ({type(e).__name__}: {e})", file=path) from e


def check_data(data: Mapping[str, Any], host: Host, imgsz: int, file: Path, single_cls: bool = False) -> dict[str, int]:
    """Read all labels once, which also writes YOLOv5's label caches, and return the number of images by split.

    The caches are written here, by one process, because YOLOv5's writer is not safe against a second one.

    Raises:
        UserError: a split has no images or no labels, or a label's class is out of range.
    """
    counts = {}
    for split in SPLITS:
        labels, counts[split] = _labels(data, split, host, imgsz, file, single_cls)
        worst = max((int(c) for label in labels for c in label[:, 0]), default=None)
        if worst is None:
            raise UserError(f"no labels found for the images of {split}", got=str(data[split]), file=file)
        if worst >= data["nc"] and not single_cls:
            raise UserError(f"the classes in the labels of {split} must be 0 to {data['nc'] - 1}", got=worst, file=file)
    return counts


def take_subset(
    data: Mapping[str, Any], host: Host, imgsz: int, share: float, seed: int, folder: Path
) -> dict[str, Any]:
    """The data with a random share of its training images, listed in `folder/train_subset.txt`."""
    with host.compatible(), host.quiet():
        images = host.dataloaders.LoadImagesAndLabels(data["train"], imgsz).im_files
    drawn = random.Random(seed).sample(images, max(1, round(share * len(images))))
    listed = folder / "train_subset.txt"
    listed.write_text("".join(f"{Path(image).resolve()}\n" for image in sorted(drawn)))
    return {**data, "train": str(listed)}


def _labels(data: Mapping[str, Any], split: str, host: Host, imgsz: int, file: Path, single_cls: bool) -> Any:
    try:
        with host.compatible(), host.quiet():
            found = host.dataloaders.LoadImagesAndLabels(data[split], imgsz, single_cls=single_cls, prefix=f"{split}: ")
    except Exception as e:
        problem = str(e).split(". See ")[0].split("\n")[0]
        raise UserError(f"the images and labels of {split} can't be read ({problem})", file=file) from None
    return found.labels, len(found.im_files)


def _is_model(data: Any) -> bool:
    return isinstance(data, dict) and bool({"backbone", "head", "depth_multiple"} & set(data))


def _root(path: str, file: Path, host: Host) -> Path:
    given = Path(path).expanduser()
    if given.is_absolute():
        return given
    if host.location.kind == "clone":
        return (host.location.root / given).resolve()
    beside = (file.parent / given).resolve()
    installed = shipped("data") in (file.parent, *file.parents) or host.location.root in file.parents
    return beside if beside.exists() and not installed else (Path.cwd() / given).resolve()


def _missing(data: Mapping[str, Any], root: Path) -> tuple[str, Path] | None:
    for split in SPLITS:
        entries = data[split] if isinstance(data[split], list) else [data[split]]
        for entry in entries:
            found = root / str(entry)
            if not found.exists() and not (str(entry).startswith("../") and (root / str(entry)[3:]).exists()):
                return split, found
    return None
