from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import os
import pickle
import pickletools
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from places import MODELS

from yolov5_nas.errors import UserError
from yolov5_nas.host import yolov5 as host_module
from yolov5_nas.host.locate import Location, find
from yolov5_nas.host.yolov5 import Host, load
from yolov5_nas.space.compile import derive
from yolov5_nas.space.space import Space

CLONE = os.environ.get("YOLOV5_ROOT", "")
HOSTS = [*(["package"] if importlib.util.find_spec("yolov5") else []), *(["clone"] if CLONE else [])]

OWN = "clone" if CLONE else "package"  # the host of this process
PAIRS = [(writer, reader) for writer in HOSTS for reader in HOSTS if not CLONE or "clone" in (writer, reader)]


def fake_clone(root: Path) -> Path:
    for name in ("models/yolo.py", "utils/general.py", "val.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def python(code: str, cwd: Path, kind: str = OWN, **env: str) -> str:
    """What a fresh Python process with our package on its path prints; `kind` is the host that it may find."""
    env = {**os.environ, "YOLOV5_ROOT": CLONE if kind == "clone" else "", "YOLOV5_CONFIG_DIR": str(cwd), **env}
    env.setdefault("PYTHONPATH", str(Path(host_module.__file__).parents[1]))
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def written(code: str, cwd: Path, kind: str) -> str:
    """As `python`, in this process where its host is of that kind."""
    if kind != OWN:
        return python(code, cwd, kind)
    printed = io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(printed):
        exec(code, {"__name__": "__main__"})
    return printed.getvalue()


# Where YOLOv5 is found ------------------------------------------------------------------------------------------------


def test_the_given_path_comes_first_then_the_variable_then_the_working_directory_then_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, variable, here = (fake_clone(tmp_path / name) for name in ("given", "variable", "here"))
    monkeypatch.setenv("YOLOV5_ROOT", str(variable))
    monkeypatch.chdir(here)
    assert find(given) == Location("clone", given, "--yolov5")
    assert find() == Location("clone", variable, "YOLOV5_ROOT")
    if "package" in HOSTS:
        assert find("package").kind == "package"  # as a run keeps it, that began with the package
    monkeypatch.delenv("YOLOV5_ROOT")
    assert find() == Location("clone", here, "the working directory")
    monkeypatch.chdir(tmp_path)
    if "package" in HOSTS:
        assert find().kind == "package"
        assert str(find()).startswith("YOLOv5 package at /")
        assert find(find().root) == Location("package", find().root.resolve(), "--yolov5")


@pytest.mark.parametrize("missing", ["models/yolo.py", "utils/general.py", "val.py"])
def test_a_folder_that_is_no_clone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    (fake_clone(tmp_path) / missing).unlink()
    with pytest.raises(UserError, match=f"--yolov5 must be a clone of ultralytics/yolov5, got '{tmp_path}'"):
        find(tmp_path)
    monkeypatch.setenv("YOLOV5_ROOT", str(tmp_path))
    with pytest.raises(
        UserError, match=r"YOLOV5_ROOT must be a clone.* git clone https://github.com/ultralytics/yolov5"
    ):
        find()


def test_where_there_is_none_the_error_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("YOLOV5_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "yolov5", None)  # the package is not installed
    with pytest.raises(
        UserError, match=r"no YOLOv5 found: git clone .* --yolov5 PATH .*pip install 'yolov5-nas\[yolov5\]'"
    ):
        find()


def test_a_clone_in_a_folder_named_yolov5_is_not_taken_for_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_clone(tmp_path / "yolov5")
    monkeypatch.delenv("YOLOV5_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "yolov5", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UserError, match="no YOLOv5 found"):
        find()


def test_a_process_has_one_host(host: Host, tmp_path: Path) -> None:
    assert load() is host is load(host.location)
    with pytest.raises(UserError, match=r"one YOLOv5 per process, got 'YOLOv5 clone at .*; accepted: YOLOv5"):
        load(find(fake_clone(tmp_path)))


def test_a_clone_that_can_not_be_imported_is_one_clear_error(tmp_path: Path) -> None:
    (fake_clone(tmp_path / "broken") / "models" / "common.py").write_text("import no_such_module\n")
    code = (
        "from yolov5_nas.host.yolov5 import find, load\n"
        f"try: load(find({str(tmp_path / 'broken')!r}))\n"
        "except Exception as e: print(type(e).__name__, e)"
    )
    printed = python(code, tmp_path)
    assert printed.startswith("UserError YOLOv5 clone at") and "No module named 'no_such_module'" in printed


# What is patched is restored ------------------------------------------------------------------------------------------


def test_todays_numpy_and_pillow_serve_the_host_for_as_long_as_needed(host: Host) -> None:
    from PIL.ImageFont import FreeTypeFont

    before = hasattr(np, "trapz"), hasattr(FreeTypeFont, "getsize"), host.general.check_font
    with host.compatible():
        assert np.trapz([1, 1]) == 1  # type: ignore[attr-defined]
        assert hasattr(FreeTypeFont, "getsize")
        assert host.general.check_font("Arial.ttf") is None
    assert (hasattr(np, "trapz"), hasattr(FreeTypeFont, "getsize"), host.general.check_font) == before


def test_building_leaves_the_dict_and_the_default_activation_as_they_were(host: Host) -> None:
    space = Space.from_yaml(MODELS / "yolov5n_nas.yaml")
    cfg = {**derive(space, space.default()), "activation": "nn.ReLU()"}
    before = dict(cfg)
    model = host.build(cfg, nc=3, anchors=4)
    assert isinstance(model.model[0].act, torch.nn.ReLU)
    assert isinstance(host.common.Conv.default_act, torch.nn.SiLU)
    assert cfg == before
    assert model.model[-1].m[0].out_channels == 4 * (3 + 5)


def test_building_is_quiet(host: Host, capfd: pytest.CaptureFixture[str]) -> None:
    space = Space.from_yaml(MODELS / "yolov5n_nas.yaml")
    level = host.general.LOGGER.level
    host.build(derive(space, space.default()))
    assert "".join(capfd.readouterr()) == ""
    assert host.general.LOGGER.level == level != logging.WARNING


def test_a_location_goes_to_another_process(host: Host) -> None:
    assert pickle.loads(pickle.dumps(host.location)) == host.location


# A fresh process, offline ---------------------------------------------------------------------------------------------

FRESH = """
import json, os, pathlib, re, sys
attempts = []

def watch(event, args):
    started = event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn") and repr(args[:2])
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname", "builtins.input"):
        attempts.append((event, repr(args)))
    elif started and re.search(r"\\b(pip|uv|curl|wget|ping)\\b", started):
        attempts.append((event, started))
    else:
        return
    raise OSError(f"{event} is blocked")

sys.addaudithook(watch)  # raises, and remembers, since a host may swallow what is raised
threads = ("OMP_NUM_THREADS", "NUMEXPR_MAX_THREADS")
for name in threads:
    os.environ.pop(name, None)
import torch
torch.set_num_threads(1)
from yolov5_nas import derive, extract, register
from yolov5_nas.host.yolov5 import load
from yolov5_nas.space.space import Space
host = load()
register(host)
space = Space.from_yaml(CFG)
shared = host.build(space.yaml)
path = pathlib.Path("w.pt").resolve()
host.save_checkpoint(extract(shared, space.default()), path)
host.load_checkpoint(path).eval()(torch.zeros(1, 3, 64, 64))
stand_ins = [n for n in ("IPython", "pkg_resources") if n in sys.modules and not hasattr(sys.modules[n], "__file__")]
print(json.dumps({"attempts": attempts, "threads": [n for n in threads if n in os.environ], "stand_ins": stand_ins}))
"""


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What a process did and left behind that loads the host, registers, builds, saves and loads."""
    code = FRESH.replace("CFG", repr(str(MODELS / "yolov5n_nas.yaml")))
    return json.loads(python(code, tmp_path_factory.mktemp("fresh")).splitlines()[-1])


def test_nothing_reaches_for_the_network_or_for_pip_or_asks(fresh: dict[str, list[Any]]) -> None:
    assert fresh["attempts"] == []


def test_loading_leaves_no_stand_in_and_no_thread_setting_behind(fresh: dict[str, list[Any]]) -> None:
    assert (fresh["threads"], fresh["stand_ins"]) == ([], [])


# Checkpoints ----------------------------------------------------------------------------------------------------------

SAVE = """
import pathlib, random, torch, yaml
from yolov5_nas import derive, extract, register
from yolov5_nas.weights.elastic import unregister
from yolov5_nas.host.yolov5 import load
from yolov5_nas.space.space import Space
torch.manual_seed(0)
host = load()
register(host)
space = Space.from_yaml(CFG, nc=3)
shared = host.build(space.yaml).eval()
architecture = space.sample(random.Random(7))
stock = extract(shared, architecture)
host.save_checkpoint(stock, pathlib.Path("best.pt").resolve())
pathlib.Path("model.yaml").write_text(yaml.safe_dump(derive(space, architecture)))
x = torch.rand(1, 3, 64, 64)
with torch.no_grad():
    torch.save((x, stock.half().float()(x)[0]), "expected.pt")
unregister(host)
"""
# An untouched YOLOv5. What it lacks on today's dependencies is no matter of ours and is given to it: v7.0 imports
# IPython, the package asks huggingface_hub for any file first (which says that a path is no name of a repository).
DETECT = """
import sys, types
class Blocked:
    def find_spec(self, name, *_):
        if name.split(".")[0] == "yolov5_nas":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
try:
    import IPython
except ImportError:
    sys.modules["IPython"] = ipython = types.ModuleType("IPython")
    sys.modules["IPython.display"] = ipython.display = types.ModuleType("IPython.display")
    ipython.get_ipython, ipython.display.display = (lambda: None), print
hub = {name: types.ModuleType(name) for name in ("huggingface_hub", "huggingface_hub.utils",
       "huggingface_hub.utils._errors", "huggingface_hub.utils._validators")}
hub["huggingface_hub.utils._errors"].RepositoryNotFoundError = FileNotFoundError
hub["huggingface_hub.utils._validators"].HFValidationError = ValueError
def list_repo_files(repo_id, **_):
    raise ValueError(repo_id)
hub["huggingface_hub"].list_repo_files = hub["huggingface_hub"].hf_hub_download = list_repo_files
sys.modules.update(hub)
from pathlib import Path
import torch
if ROOT:
    sys.path.insert(0, ROOT)
    import models.common as common, models.yolo as yolo, models.experimental as experimental
else:
    import yolov5.models.common as common, yolov5.models.yolo as yolo, yolov5.models.experimental as experimental
x, expected = torch.load("expected.pt")
weights = str(Path("best.pt").resolve())
detected = common.DetectMultiBackend(weights, device=torch.device("cpu"))(x)
detected = detected[0] if isinstance(detected, (list, tuple)) else detected
loaded = experimental.attempt_load(weights, device=torch.device("cpu"), fuse=False)
built = yolo.Model("model.yaml").eval()
built.load_state_dict(loaded.state_dict())
with torch.no_grad():
    print((detected - expected).abs().max().item(), (built(x)[0] - expected).abs().max().item())
print(any(name.startswith("yolov5_nas") for name in sys.modules))
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder into which a host (by its kind) saved a checkpoint, its model YAML and outputs."""
    folders: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp(kind)
            written(SAVE.replace("CFG", repr(str(MODELS / "yolov5n_elastic.yaml"))), folders[kind], kind)
        return folders[kind]

    return folder


# What the package reads of the package's is also read in test_search.py, by its `detect.py`.
@pytest.mark.parametrize(
    ("writer", "reader"),
    [pytest.param(*pair, marks=pytest.mark.slow if pair == ("package", "package") else ()) for pair in PAIRS],
)
def test_a_checkpoint_detects_in_an_untouched_yolov5_without_the_plugin(
    saved: Callable[[str], Path], writer: str, reader: str
) -> None:
    code = DETECT.replace("ROOT", repr(CLONE if reader == "clone" else ""))
    env = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "PYTHONPATH": "", "YOLOV5_AUTOINSTALL": "false"}
    differences, ours = python(code, saved(writer), reader, **env).strip().split("\n")[-2:]
    detected, built = map(float, differences.split())
    assert detected < 1e-3 and built < 1e-5  # DetectMultiBackend fuses batch norms into convolutions
    assert ours == "False"


@pytest.mark.parametrize("writer", HOSTS)
def test_a_checkpoint_names_classes_of_yolov5_torch_and_python_only(saved: Callable[[str], Path], writer: str) -> None:
    with zipfile.ZipFile(saved(writer) / "best.pt") as archive:
        pickled = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    found = [(op.name, arg) for op, arg, _ in pickletools.genops(pickled)]
    assert not any(name == "STACK_GLOBAL" for name, _ in found)  # so the names below are all
    names = {str(arg) for name, arg in found if name == "GLOBAL"}
    assert "models.yolo DetectionModel" in names and "models.common Conv" in names
    assert {name.split()[0].split(".")[0] for name in names} <= {"models", "torch", "collections", "__builtin__"}
    assert not any("yolov5_nas" in str(arg) for _, arg in found)


PACKAGE_SAVES = """
import torch, yolov5.models.yolo as yolo
from pathlib import Path
model = yolo.Model(str(Path(yolo.__file__).parent / "yolov5n.yaml"))
torch.save({"model": model.half(), "ema": None}, "theirs.pt")
"""
LOADS = """
from pathlib import Path
from yolov5_nas.host.yolov5 import load
host = load()
model = host.load_checkpoint(Path("theirs.pt"))
print(type(model) is host.yolo.Model, type(model.model[0]) is host.common.Conv)
"""


@pytest.mark.skipif("package" not in HOSTS, reason="the package yolov5 is not installed")
@pytest.mark.parametrize("reader", HOSTS)
def test_a_checkpoint_that_the_package_itself_wrote_is_read_by_each_host(tmp_path: Path, reader: str) -> None:
    written("from yolov5_nas.host.yolov5 import load; load()\n" + PACKAGE_SAVES, tmp_path, "package")
    assert written(LOADS, tmp_path, reader).split()[-2:] == ["True", "True"]


def test_saving_and_loading_leave_the_process_as_it_was(host: Host, tmp_path: Path) -> None:
    def state() -> list[Any]:
        return [sorted(n for n in sys.modules if n.split(".")[0] in ("models", "utils")), host.common.Conv.__module__]

    space = Space.from_yaml(MODELS / "yolov5n_nas.yaml")
    model = host.build(derive(space, space.default()))
    before = state()
    host.save_checkpoint(model, tmp_path / "new" / "w.pt", best_fitness=0.5)
    loaded = host.load_checkpoint(tmp_path / "new" / "w.pt")
    assert state() == before
    assert type(loaded) is type(model) and type(loaded.model[0]) is host.common.Conv
    assert next(loaded.parameters()).dtype == next(model.parameters()).dtype == torch.float32
    assert next(model.parameters()).requires_grad
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["w.pt"]


def test_a_file_that_is_no_checkpoint_is_refused(host: Host, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.pt: the weights file does not exist"):
        host.load_checkpoint(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("no weights")
    torch.save({"model": {"weight": torch.zeros(1)}}, tmp_path / "state.pt")
    for name in ("text.pt", "state.pt"):
        with pytest.raises(UserError, match=f"{name}: no YOLOv5 checkpoint of a detection model") as error:
            host.load_checkpoint(tmp_path / name)
        assert "\n" not in str(error.value)


def test_the_first_boxes_that_nms_keeps_are_the_same_when_it_ends_early() -> None:
    from torchvision.ops import nms

    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(6000, 2, generator=generator) * 100
    boxes = torch.cat([corners, corners + 5 + 20 * torch.rand(6000, 2, generator=generator)], 1)
    scores = torch.rand(6000, generator=generator).round(decimals=2).sort(descending=True)[0]  # with ties
    first = host_module.first_kept(nms, 50)
    for count in (1, 150, 6000):
        assert first(boxes[:count], scores[:count], 0.6)[:50].equal(nms(boxes[:count], scores[:count], 0.6)[:50])
    assert len(first(boxes, scores, 0.6)) < len(nms(boxes, scores, 0.6))
