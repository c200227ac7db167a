"""The data set: read its YAML, resolve its paths, download or generate it if need be, check it before any training."""

from __future__ import annotations

import locale
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import absolute, check_encoding, find_file, given_path, shipped
from ..space.model_yaml import load_yaml, top_level_lines
from .yolov5 import Host

SPLITS = ("train", "val")
SHOWN = 3  # of the files that YOLOv5 ignores


def find_data(name: str | Path, host_root: Path) -> Path:
    """A data YAML by name: in the working directory, in the plugin's `data/`, in the host's `data/`."""
    return find_file(name, [shipped("data"), host_root / "data"], "data YAML (--data)")


def read_data(path: Path) -> dict[str, Any]:
    """A data YAML with `names` as `{class: name}` and `nc`.

    Raises:
        UserError: it is no data set's YAML.
    """
    data, node = load_yaml(path)
    if not isinstance(data, dict) or not {"train", "val"} <= set(data):
        hint = " (this is a model YAML: were --cfg and --data mixed up?)" if _is_model(data) else ""
        raise UserError(f"a data YAML must have the keys train, val and names{hint}", file=path)
    names, lines = data.get("names"), top_level_lines(node)
    if names is None and type(data.get("nc")) is int:
        names = [f"class{i}" for i in range(data["nc"])]
    if isinstance(names, list):
        names = dict(enumerate(names))
    whole = isinstance(names, dict) and all(type(key) is int for key in names)
    if not whole or not names or sorted(names) != list(range(len(names))):
        line = lines.get("names")
        raise UserError("names must list the classes 0, 1, 2, ...", got=data.get("names"), file=path, line=line)
    names = {key: str(name) for key, name in names.items()}
    for key in ("path", *SPLITS, *(["test"] if data.get("test") is not None else [])):
        if rule := _path_rule(key, data.get(key)):
            raise UserError(rule, got=data[key], file=path, line=lines.get(key))
    imgsz = data.get("imgsz")
    if imgsz is not None and (isinstance(imgsz, bool) or not isinstance(imgsz, int) or imgsz < 1):
        raise UserError("imgsz must be a whole number of pixels", got=imgsz, file=path, line=lines.get("imgsz"))
    if data.get("nc") not in (None, len(names)):  # as YOLOv5, which says nothing
        print(f"{path}: nc is {data['nc']!r}, but there are {len(names)} names: {len(names)} classes are taken")
    return {**data, "names": names, "nc": len(names)}


def _path_rule(key: str, value: Any) -> str | None:
    """The rule that the value of `path`, `train` or `val` breaks, if it does."""
    if key == "path":
        return None if value is None or isinstance(value, str) else "path must be a folder"
    entries = value if isinstance(value, list) else [value]
    strings = entries and all(isinstance(entry, str) and entry for entry in entries)
    return None if strings else f"{key} must be a folder or file of images, or a list of some"


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
    check_encoding(root)
    data["path"] = str(root)
    for split in {*SPLITS, "test"} & set(data):
        data[split] = _each(data[split], _at_home)
    missing = _missing(data, root)
    if missing and not (download and data.get("download")):
        relative = not given_path(str(given or "")).is_absolute() and host.location.kind == "clone"
        hint = f" (path: is relative, and so below {host.location.root})" if relative else ""
        raise UserError(f"the images of {missing[0]} do not exist{hint}", got=str(missing[1]), file=path)
    try:
        found = host.check_dataset(data, download=bool(missing))
    except UserError:
        raise
    except (Exception, SystemExit) as e:  # a download script can fail in any way
        raise UserError(f"the data set could not be made ready ({type(e).__name__}: {e})", file=path) from e
    if missing and (still := _missing(data, root)):
        raise UserError(f"download: has left no images of {still[0]}", got=str(still[1]), file=path)
    return found


def check_data(data: Mapping[str, Any], host: Host, imgsz: int, file: Path, single_cls: bool = False) -> dict[str, int]:
    """Read all labels once, which also writes YOLOv5's label caches, and return the number of images by split.

    The caches are written here, by one process, because YOLOv5's writer is not safe against a second one.

    Raises:
        UserError: a split has no images or no labels, or a label's class is out of range.
    """
    return {split: check_split(data, split, host, imgsz, file, single_cls) for split in SPLITS}


def check_split(
    data: Mapping[str, Any], split: str, host: Host, imgsz: int, file: Path, single_cls: bool = False
) -> int:
    """The same of one split."""
    found = _read_split(data, split, host, imgsz, file, single_cls)
    worst = max((int(c) for label in found.labels for c in label[:, 0]), default=None)
    if worst is None:
        raise UserError(f"no labels found for the images of {split}", got=str(data[split]), file=file)
    if worst >= data["nc"] and not single_cls:
        raise UserError(f"the classes in the labels of {split} must be 0 to {data['nc'] - 1}", got=worst, file=file)
    return len(found.im_files)


def draw_subset(data: Mapping[str, Any], host: Host, imgsz: int, share: float, seed: int, file: Path) -> list[str]:
    """A random share of the training images, by their paths in order.

    Raises:
        UserError: none of them has an object.
    """
    found = _read_split(data, "train", host, imgsz, file, False)
    drawn = random.Random(seed).sample(range(len(found.im_files)), max(1, round(share * len(found.im_files))))
    if not any(len(found.labels[i]) for i in drawn):
        rule = f"--subset must leave training images with objects; none of these {len(drawn)} has one"
        raise UserError(rule, got=share, accepted="a larger share, or another --seed", file=file)
    return sorted(found.im_files[i] for i in drawn)


def take_subset(data: Mapping[str, Any], images: Sequence[str], folder: Path) -> dict[str, Any]:
    """The data with some of its training images, listed in `folder/train_subset.txt`."""
    listed = folder / "train_subset.txt"
    write_list(listed, images)
    return {**data, "train": str(listed)}


def write_list(path: Path, images: Iterable[str]) -> None:
    """Write a list of images in the encoding in which YOLOv5 reads one, which is the locale's."""
    text = "".join(f"{absolute(image)}\n" for image in images)
    path.write_text(text, encoding=locale.getpreferredencoding(False))


def _read_split(data: Mapping[str, Any], split: str, host: Host, imgsz: int, file: Path, single_cls: bool) -> Any:
    """YOLOv5's own data set of a split. What it ignores is said, with its reasons."""
    said: list[str] = []
    try:
        with host.compatible(), host.heard() as said:
            found = host.dataloaders.LoadImagesAndLabels(data[split], imgsz, single_cls=single_cls, prefix=f"{split}: ")
    except Exception as e:
        ignored = _ignored(said)
        problem = _few(ignored) if ignored else str(e).split(". See ")[0].split("\n")[0]
        raise UserError(f"the images and labels of {split} can't be read ({problem})", file=file) from None
    if ignored := _ignored(said):
        print(f"{split}: {len(ignored)} files are ignored ({_few(ignored)})")
    return found


def _ignored(said: Sequence[str]) -> list[str]:
    """What YOLOv5 says of each file that it ignores: `FILE: reason`."""
    lines = [line for text in said for line in text.splitlines() if ": ignoring corrupt image/label: " in line]
    return [line.partition("WARNING")[2].lstrip(" ⚠️:").replace("ignoring corrupt image/label: ", "") for line in lines]


def _few(lines: Sequence[str]) -> str:
    more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return "; ".join(lines[:SHOWN]) + more


def _is_model(data: Any) -> bool:
    return isinstance(data, dict) and bool({"backbone", "head", "depth_multiple"} & set(data))


def _root(path: str, file: Path, host: Host) -> Path:
    given = given_path(path)
    if given.is_absolute():
        return given
    if host.location.kind == "clone":
        return absolute(host.location.root / given)
    beside = absolute(file.parent / given)
    installed = shipped("data") in (file.parent, *file.parents) or host.location.root in file.parents
    return beside if beside.exists() and not installed else absolute(given)


def _each(entries: Any, function: Callable[[Any], Any]) -> Any:
    return list(map(function, entries)) if isinstance(entries, list) else function(entries)


def _at_home(entry: Any) -> Any:
    """A path whose `~` is the user's home."""
    return str(given_path(entry)) if isinstance(entry, str) and entry.startswith("~") else entry


def _missing(data: Mapping[str, Any], root: Path) -> tuple[str, Path] | None:
    for split in SPLITS:
        entries = data[split] if isinstance(data[split], list) else [data[split]]
        for entry in entries:
            found = root / str(entry)
            if not found.exists() and not (str(entry).startswith("../") and (root / str(entry)[3:]).exists()):
                return split, found
    return None
