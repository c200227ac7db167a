"""What several test files share: the real YOLOv5 (the package, or the clone that YOLOV5_ROOT names), never a mock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported: tests run side by side, and threads that spin while they wait fight for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# Before Ray is imported: it keeps to 127.0.0.1, and the tests' cluster asks for its token.
os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}

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


class RayCluster:
    """A Ray cluster of a head and nodes of one core each, on this machine; see `ray_cluster.py`."""

    def __init__(self, nodes: int = 3):
        script = Path(__file__).with_name("ray_cluster.py")
        command = [sys.executable, str(script), str(nodes)]
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self.log, text=True)
        self.address: str = self._read()["address"]
        self.pids: dict[str, int] = {}  # of the nodes' raylets
        for _ in range(nodes):
            self._take_node()

    def add(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self._take_node()

    def _take_node(self) -> None:
        entry = self._read()
        self.pids[entry["node"]] = entry["pid"]

    def _read(self) -> dict:
        assert self.process.stdout
        if not (line := self.process.stdout.readline()):
            self.log.seek(0)
            raise RuntimeError(f"the cluster did not start: {self.log.read()[-3000:]}")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(60)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[RayCluster]:
    """A head and three nodes."""
    cluster = RayCluster()
    yield cluster
    cluster.close()
