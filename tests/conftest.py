"""What several test files share: the real YOLOv5 (the package, or the clone that YOLOV5_ROOT names), never a mock."""

from __future__ import annotations

import pytest

from yolov5_nas.host import Host, load


@pytest.fixture(scope="session")
def host() -> Host:
    return load()
