"""What several test files share: the real YOLOv5 (the package, or the clone that YOLOV5_ROOT names), never a mock."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before torch is imported: tests run side by side, and threads that spin while they wait fight for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# Latency is measured in earnest by its own tests alone.
os.environ["YOLOV5_NAS_HASTY_LATENCY"] = "1"
# Before Ray is imported: it keeps to 127.0.0.1, and the tests' cluster asks for its token.
os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

import psutil
import pytest
import yaml
from filelock import FileLock
from lent import MINUTES, Lender
from processes import LONG

# Nothing that imports torch: the process that starts pytest's others needs none of it.
from yolov5_nas.engines.nni.engine import NNIEngine
from yolov5_nas.files import shipped
from yolov5_nas.host.yolov5 import Host, load
from yolov5_nas.records.reward import SoftReward, Target
from yolov5_nas.space.model_yaml import read_model_yaml
from yolov5_nas.space.space import Space

if TYPE_CHECKING:
    from yolov5_nas.training.settings import Settings

# A shell starts jobs in the background with SIGINT ignored, which the processes of tests would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Devices' locks lie in the folder for temporary files: tests side by side don't wait for each other's. Pytest's own
# folders, of which it keeps the last few, stay where they are.
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
tempfile.tempdir = os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="t", dir="/tmp")
Finalize(None, shutil.rmtree, [tempfile.tempdir, True], exitpriority=-200)  # after multiprocessing's own folder in it

# What takes longest starts first, so that pytest's processes end together.
LONGEST = (  # noqa: SIM905
    "nni test_search ray test_replace test_docs test_trial test_supernet test_elastic test_latency test_yolov5"
    " test_prove test_doctor test_hooks test_api test_mapping test_contract test_strategies"
).split()


def group(nodeid: str) -> str:
    """The tests that run in one of pytest's processes: those of NNI, those of Ray, else those of a file."""
    file, _, parameters = nodeid.partition("[")
    stem = Path(file.partition("::")[0]).stem
    engine = re.match(r"(nni|ray)\b", parameters) or re.fullmatch(r"test_(nni|ray)", stem)
    return engine[1] if engine else stem


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[Any]:
    """What test files import is no garbage. It was looked through in a quarter of the time that collecting takes."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(group(item.nodeid), len(order)))


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, whose own groups of marked tests don't work with pytest 9.2
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = group
    return scheduler


MakeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def host() -> Host:
    return load()


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MakeOnce:
    """Makes a folder that all of pytest's processes share, by whichever asks for it first."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def make_once(name: str, make: Callable[[Path], object]) -> Path:
        folder = root / name
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                folder.mkdir()
                try:
                    make(folder)
                except BaseException:
                    shutil.rmtree(folder)
                    raise
        return folder

    return make_once


@pytest.fixture(scope="session")
def digits(host: Host, made_once: MakeOnce) -> Path:
    """The built-in data set's folder, with its labels read. Its `digits.yaml` has a fifth of the others."""
    from yolov5_nas.digits import render
    from yolov5_nas.host.dataset import check_data, resolve_data

    def make(folder: Path) -> None:
        render(folder)
        data = yaml.safe_load((shipped("data") / "digits.yaml").read_text())
        for split, name in (("val", "few.txt"), ("test", "few_test.txt")):
            few = sorted((folder / "images" / split).iterdir())[:32]
            (folder / name).write_text("".join(f"{image}\n" for image in few))
        path = folder / "digits.yaml"
        path.write_text(yaml.safe_dump({**data, "path": str(folder), "val": "few.txt", "test": "few_test.txt"}))
        check_data(resolve_data(path, host), host, 64, path)  # writes YOLOv5's caches

    return made_once("digits", make)


@pytest.fixture(scope="session")
def digits_yaml(digits: Path) -> Path:
    """Its data YAML with an absolute path."""
    return digits / "digits.yaml"


@pytest.fixture(scope="session")
def small_settings(host: Host, digits_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """yolov5n at 64 px on 64 training images, for two epochs."""
    from yolov5_nas.host.dataset import check_data, draw_subset, resolve_data, take_subset
    from yolov5_nas.training.settings import Settings

    folder = tmp_path_factory.mktemp("subset")
    data = resolve_data(digits_yaml, host)
    check_data(data, host, 64, digits_yaml)
    images = draw_subset(data, host, 64, 0.1, 0, digits_yaml)
    data = {k: v for k, v in take_subset(data, images, folder).items() if k != "download"}
    model, _ = read_model_yaml(shipped("models") / "yolov5n_nas.yaml")
    hyp = yaml.safe_load((shipped("data") / "hyp.short.yaml").read_text())
    hyp.pop("optimizer")
    return Settings(
        model, data, hyp, host.location, epochs=2, batch_size=16, imgsz=64, cache="ram", optimizer="AdamW", val_period=1
    )


@pytest.fixture(scope="session")
def trained_n(host: Host, digits_yaml: Path, made_once: MakeOnce) -> Path:
    """A checkpoint of stock yolov5n, trained on all digits at 64 px until it has begun to detect."""
    from yolov5_nas import evaluate

    def make(folder: Path) -> None:
        few = {"imgsz": 64, "epochs": 6, "val_period": 6, "device": "cpu", "yolov5": os.environ.get("YOLOV5_ROOT")}
        evaluate(cfg="yolov5n_elastic.yaml", data=str(digits_yaml), folder=folder / "trial", **few)

    return made_once("trained_n", make) / "trial" / "weights.pt"


@pytest.fixture
def in_earnest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latency is measured as for users, with fewer pairs."""
    monkeypatch.setattr("yolov5_nas.cost.latency.WARM_UP", 5)
    monkeypatch.setattr("yolov5_nas.cost.latency.PAIRS", (12, 24))


class RayCluster:
    """A Ray cluster of a head and nodes of one core each, on this machine; see `ray_cluster.py`."""

    def __init__(self, nodes: int, cache: Path):
        script = Path(__file__).with_name("ray_cluster.py")
        command = [sys.executable, str(script), str(nodes)]
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        pipe, env = subprocess.PIPE, {**os.environ, "XDG_CACHE_HOME": str(cache)}
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self.log, text=True, env=env)
        self.cache = cache  # of all nodes
        self.address: str = self._read()["address"]
        self.pids: dict[str, int] = {}  # of the nodes' raylets
        for _ in range(nodes):
            self._take_node()

    def add(self, **env: str) -> str:
        """Start one more node, and return its id."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(env) + "\n")
        self.process.stdin.flush()
        return self._take_node()

    def kill(self, node: str) -> None:
        """Kill a node, and wait until its processes are gone."""
        process = psutil.Process(self.pids.pop(node))
        children = process.children(recursive=True)
        process.kill()
        psutil.wait_procs(children, LONG)

    def _take_node(self) -> str:
        entry = self._read()
        self.pids[entry["node"]] = entry["pid"]
        return entry["node"]

    def _read(self) -> dict:
        assert self.process.stdout
        if not (line := self.process.stdout.readline()):
            self.log.seek(0)
            raise RuntimeError(f"the cluster did not start: {self.log.read()[-3000:]}")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:  # Ray ends its processes one by one, which takes its time on a busy machine
            processes = [*psutil.Process(self.process.pid).children(recursive=True), self.process]
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


@pytest.fixture(scope="module")
def nni_lender(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lender]:
    """NNI's engine with two trials at a time, on devices that are not there; its manager takes seconds to start."""
    space = Space.from_yaml(shipped("models") / "yolov5n_nas.yaml")
    reward = SoftReward([Target("latency_ratio", 1.0)])
    make = lambda: NNIEngine(("3", "5"), concurrency=2, trial_minutes=MINUTES, reward=reward)  # noqa: E731
    lender = Lender(make, tmp_path_factory.mktemp("nni"), space)
    yield lender
    lender.close()


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """A head and two nodes."""
    cluster = RayCluster(2, tmp_path_factory.mktemp("cache"))
    yield cluster
    cluster.close()
