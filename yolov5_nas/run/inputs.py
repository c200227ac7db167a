"""What a run began with, by content, so that nothing else is trained or scored in its folder.

`inputs.yaml` has a digest (SHA-256) of each file that the options name, of the copies that the run trains by, and of
the images and labels of each split. Images count by their names and sizes, labels by their contents: the same data set
copied to another folder is the same, one with a relabelled image is not. It takes 0.5 s for 6000 images.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..engines.ray.shipping import SPLITS, images_of, label_of
from ..errors import UserError
from ..files import given_path, is_file, write_whole
from ..records.option import flag
from ..records.option_rules import PARENT
from ..records.options import Options
from ..records.run_folder import RunFolder
from ..space.model_yaml import load_yaml

FILES = ("cfg", "hyp", "inherit_hyp", "weights", "distill", "reward")  # options that name a file
WAY_ON = "or a new search"
JOINED = "since the run began, so its results and new ones can't be compared"


def digests_of(o: Options, data: Mapping[str, Any]) -> dict[str, str]:
    """Return the digests of the files that options name, and of the data.

    Args:
        o: the options of a new run, resolved.
        data: from `dataset.resolve_data`.
    """
    named = {name: digest for name in FILES if (digest := _digest_of_option(name, getattr(o, name)))}
    return named | _digests_of_data(data)


def write_inputs(folder: Path, digests: Mapping[str, str]) -> None:
    """Write `inputs.yaml`, with the digests of the folder's own copies besides those given."""
    own = {path.name: _digest(path) for path in _copies(folder)}
    write_whole(RunFolder(folder).inputs, yaml.safe_dump({**digests, **own}, sort_keys=False))


def read_inputs(folder: Path) -> dict[str, str] | None:
    """Return the digests that a run keeps; None for a run of an earlier version, which kept none.

    Raises:
        UserError: the file is damaged.
    """
    file = RunFolder(folder).inputs
    if not is_file(file):
        return None
    known, _ = load_yaml(file)
    if not isinstance(known, dict) or not all(isinstance(part, str) for pair in known.items() for part in pair):
        raise UserError("the digests of the run's inputs are damaged", file=file)
    return known


def check_same_files(folder: Path, o: Options, names: Iterable[str]) -> None:
    """Raise a UserError where the folder's copies, or files that options name, are not those that the run began with.

    Args:
        names: the options whose files are used now. Those of a run without digests are taken, with a warning.
    """
    if (known := read_inputs(folder)) is None:
        print(f"warning: {folder} has no inputs.yaml, so nothing shows whether its weights and data are still the same")
        return
    for path in _copies(folder):
        if known.get(path.name, "") not in ("", _digest(path)):
            raise UserError(f"it has changed {JOINED}", accepted=f"the file as it was, {WAY_ON}", file=path)
    for name in names:
        value = getattr(o, name)
        if name in known and _digest_of_option(name, value) not in (None, known[name]):
            moved = f" ({flag(name)} may name a copy of it)" if name in ("weights", "distill") else ""
            rule = f"{flag(name)}: the file's content has changed {JOINED}"
            raise UserError(rule, got=value, accepted=f"the file as it was{moved}, {WAY_ON}")


def check_same_data(folder: Path, data: Mapping[str, Any]) -> None:
    """Raise a UserError where the data are not those that the run began with.

    Args:
        data: from `dataset.resolve_data`.
    """
    known = read_inputs(folder) or {}
    now = _digests_of_data(data) if known else {}
    for what, digest in now.items():
        if known.get(what, digest) != digest:
            accepted = f"{known[what]}: the data as they were, {WAY_ON}"
            raise UserError(f"{what} of the data have changed {JOINED}", got=digest, accepted=accepted, file=folder)


def _copies(folder: Path) -> list[Path]:
    """Return the files of a run by which it trains, whatever becomes of those that they were read from."""
    files = RunFolder(folder)
    return [path for path in (files.space, files.hyp, files.inherit_hyp) if is_file(path)]


def _digest_of_option(name: str, value: str | None) -> str | None:
    """Return the digest of the file that an option names; None where it names none."""
    if name == "reward":
        value = value.rpartition(":")[0] if value and ".py:" in value else None
    if not value or value == PARENT or not is_file(path := given_path(value)):
        return None
    return _digest(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        found = hashlib.sha256()
        while piece := file.read(2**20):
            found.update(piece)
    return found.hexdigest()


def _digests_of_data(data: Mapping[str, Any]) -> dict[str, str]:
    """Return the digests of the class names, and of the images and labels of each split."""
    names = list(dict(data["names"]).values())
    found = {"names": f"{len(names)} classes {_short(repr(names).encode())}"}
    for split in SPLITS:
        images = [os.path.abspath(image) for image in images_of(data, split)]  # noqa: PTH100
        root = len(os.path.commonpath({os.path.dirname(image) for image in images})) if images else 0  # noqa: PTH120
        sizes, labels = hashlib.sha256(), hashlib.sha256()
        for image in images:
            sizes.update(f"{image[root:]} {_size(image)}\n".encode(errors="surrogateescape"))
            labels.update(b"%d " % len(content := _content(label_of(Path(image)))) + content)
        for kind, digest in (("images", sizes), ("labels", labels)):
            found[f"{split} {kind}"] = f"{len(images)} files {digest.hexdigest()}"
    return found


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _size(path: str) -> int:
    """Return a file's size in bytes, -1 where there is none."""
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError:
        return -1


def _content(path: Path) -> bytes:
    """Return a file's content, nothing where there is none."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
