"""What several test files share: the real YOLOv5 (the package, or the clone that YOLOV5_ROOT names), never a mock."""

from __future__ import annotations

import os
from pathlib import Path

# Before torch is imported: tests run side by side, and threads that spin while they wait fight for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import pytest
import yaml

from yolov5_nas.digits import render
from yolov5_nas.files import shipped
from yolov5_nas.host import Host, load


@pytest.fixture(scope="session")
def host() -> Host:
    return load()


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in data set's folder."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    render(folder)
    return folder


@pytest.fixture(scope="session")
def digits_yaml(digits: Path) -> Path:
    """Its data YAML with an absolute path."""
    data = yaml.safe_load((shipped("data") / "digits.yaml").read_text())
    path = digits / "digits.yaml"
    path.write_text(yaml.safe_dump({**data, "path": str(digits)}))
    return path
