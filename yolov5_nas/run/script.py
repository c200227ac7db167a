"""YOLOv5's own scripts, with the searchable layers: `yolov5-nas with train.py --cfg yolov5n_nas.yaml ...`."""

from __future__ import annotations

import contextlib
import functools
import itertools
import runpy
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from ..files import find_file, shipped
from ..host.compat import importable, patched
from ..host.dataset import find_data, read_data, resolve_data
from ..host.locate import find
from ..host.yolov5 import Host, load
from ..weights.supernet import registered

SCRIPTS = ("train.py", "val.py", "detect.py", "export.py")
FOLDERS = {"--cfg": "models", "--hyp": "data"}  # of shipped files, by the flags that name them


def run_script(script: str, argv: Sequence[str], yolov5: str | None = None) -> None:
    """Run a script of YOLOv5 in this process, as `python SCRIPT ARGV` does.

    Model and hyper-parameter YAMLs are also found among the shipped ones, and data YAMLs made ready as a search does.

    Raises:
        UserError: there is no such script, or a file is missing.
        SystemExit: from the script.
    """
    if script not in SCRIPTS:
        raise UserError("no script of YOLOv5 for detection models", got=script, accepted=SCRIPTS)
    location = find(yolov5)
    host = load(location)
    with tempfile.TemporaryDirectory() as folder, _environment(host), registered(host):
        given = _with_files(argv, host, Path(folder))
        with patched(sys, argv=[str(location.root / script), *given]):
            if location.kind == "clone":
                runpy.run_path(str(location.root / script), run_name="__main__")
            else:
                runpy.run_module(f"yolov5.{Path(script).stem}", run_name="__main__")


@contextlib.contextmanager
def _environment(host: Host) -> Iterator[None]:
    """Today's packages as the host expects them; checkpoints, which hold classes, are read as before torch 2.6."""
    import torch

    with (
        warnings.catch_warnings(),
        importable(host.location),
        host.compatible(),
        patched(torch, load=functools.partial(_load, torch.load)),
    ):
        warnings.filterwarnings("ignore", r".*torch.cuda.amp", FutureWarning)  # one for each batch
        yield


def _load(read: Any, *args: Any, **kwargs: Any) -> Any:
    return read(*args, **{"weights_only": False, **kwargs})


def _with_files(argv: Sequence[str], host: Host, folder: Path) -> list[str]:
    """Arguments whose files the script finds."""
    root = host.location.root
    found = [part for arg in argv for part in (arg.split("=", 1) if arg.startswith("--") and "=" in arg else [arg])]
    for i, (name, value) in enumerate(itertools.pairwise(found)):
        if name in FOLDERS and value:
            own = [shipped(FOLDERS[name]), *(p.parent for p in root.rglob("*.yaml") if p.name == Path(value).name)]
            found[i + 1] = str(find_file(value, own, f"file ({name})"))
        elif name == "--data":
            file = find_data(value, root)
            data = resolve_data(file, host)
            if Path(str(read_data(file).get("path") or "")).is_absolute():  # then it means the same to the script
                found[i + 1] = str(file)
                continue
            found[i + 1] = str(folder / file.name)
            Path(found[i + 1]).write_text(
                yaml.safe_dump({k: v for k, v in data.items() if k != "download"}), encoding="utf-8"
            )
    return found
