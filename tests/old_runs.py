"""Runs that the version before wrote, copied to where their files are as they were."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml
from places import TESTS

from yolov5_nas.host.locate import PACKAGE
from yolov5_nas.host.yolov5 import Host

OLD = TESTS / "run" / "old_runs"


def copied(name: str, host: Host, data: Path, folder: Path) -> Path:
    """One of them as a folder of its name, whose data are those of a YAML."""
    run = shutil.copytree(OLD / name, folder / name)
    options = yaml.safe_load((run / "search.yaml").read_text())
    location = host.location
    options |= {"cfg": str(OLD / "tiny.yaml"), "data": str(data), "project": str(folder)}
    options["yolov5"] = PACKAGE if location.kind == "package" else str(location.root)
    (run / "search.yaml").write_text(yaml.safe_dump(options))
    return run
