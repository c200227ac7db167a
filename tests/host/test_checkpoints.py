"""Checkpoints that people bring: old ones, other programs', and files that are none."""

import sys
import types
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import yaml

from yolov5_nas.errors import UserError
from yolov5_nas.files import shipped
from yolov5_nas.host.checkpoints import modernised
from yolov5_nas.host.compat import module_entry, patched
from yolov5_nas.space.compile import derive
from yolov5_nas.space.space import Space
from yolov5_nas.training.initial import check_weights

SPACE = Space.from_yaml(shipped("models") / "yolov5n_elastic.yaml", nc=10)


@pytest.fixture(scope="module")
def stock(host):
    torch.manual_seed(0)
    return host.build(derive(SPACE, SPACE.default()))


def aged(model):
    """A model as an old torch saved it: its modules lack what later versions set."""
    model = deepcopy(model)  # whose activation is one of the host's
    for module in model.modules():
        for name in ("inplace", "recompute_scale_factor", "padding_mode", "ceil_mode"):
            vars(module).pop(name, None)
    return model


def test_old_modules_get_what_todays_torch_sets(host, stock, tmp_path):
    path = tmp_path / "old.pt"
    host.save_checkpoint(aged(host.build(derive(SPACE, SPACE.default()))), path)
    with pytest.raises(AttributeError):
        torch.load(path, weights_only=False)["model"].float().eval()(torch.zeros(1, 3, 64, 64))
    model = host.load_checkpoint(path).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 64))[0].shape == (1, 252, 15)
    assert check_weights(path, SPACE, 10, host).endswith("349 of 349 tensors are inherited")


def test_a_model_of_today_stays_as_it_is(stock):
    before = [dict(vars(m)) for m in stock.modules()]
    assert [vars(m).keys() for m in modernised(stock).modules()] == [b.keys() for b in before]


def bare(path, model):
    torch.save(model.state_dict(), path)


def nested(path, model):
    torch.save({"model": model.state_dict()}, path)


def without(path, model):
    torch.save({"epoch": 3, "optimizer": None}, path)


def scripted(path, model):
    torch.jit.trace(torch.nn.Conv2d(3, 3, 1), torch.zeros(1, 3, 8, 8)).save(path)


def yolov5u(path, model):
    from ultralytics.nn.tasks import DetectionModel

    torch.save({"model": DetectionModel("yolov5n.yaml", nc=10, verbose=False).half(), "train_args": {}}, path)


def of_another_program(path, model):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1))
    torch.save({"model": network}, path)


def text(words):
    return lambda path, model: path.write_bytes(words)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (text(b"<!DOCTYPE html><html>a page</html>"), "a web page"),
        (text(b"\n  <html>"), "a web page"),
        (text(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 4\n"), "a Git LFS pointer"),
        (text(b""), "an empty file"),
        (text(b"no checkpoint"), "no YOLOv5 checkpoint of a detection model (a text)"),
        (text(b"PK\x03\x04 and then nothing"), "a damaged file"),
        (text(bytes(range(256)) * 9), "no YOLOv5 checkpoint of a detection model ("),
        (bare, "a bare state dict"),
        (nested, "a bare state dict"),
        (without, "a dict without a model (it has epoch, optimizer)"),
        (scripted, "TorchScript"),
        (of_another_program, "got 'a Sequential'"),
        (yolov5u, "a model of the package ultralytics (YOLOv5u"),
    ],
)
def test_another_file_is_refused_by_what_it_is(host, stock, tmp_path, write, words):
    path = tmp_path / "best.pt"
    write(path, stock)
    with pytest.raises(UserError, match="no YOLOv5 checkpoint of a detection model") as e:
        check_weights(path, SPACE, 10, host)
    assert words in str(e.value)
    assert "accepted: a checkpoint of YOLOv5's train.py" in str(e.value)
    assert "\n" not in str(e.value)


# What is a checkpoint and can't be read here --------------------------------------------------------------------------


@contextmanager
def class_of(module, name):
    """A class that is gone after this block, as is its module where it was not there."""
    place = sys.modules.get(module) or types.ModuleType(module)
    own = type(name, (torch.nn.Module,), {"__module__": module})
    with module_entry(module, place), patched(place, **{name: own}):
        yield own


@pytest.mark.parametrize(
    ("module", "name", "words"),
    [
        ("models.common", "SE", "trained in a clone with modules of its own (SE of {0}models.common)"),
        ("own_layers", "CBAM", "trained in a clone with modules of its own (own_layers)"),
        ("numpy._core2.numeric", "Scalar", "saved with another NumPy, whose numpy._core2 is not installed"),
        ("ultralytics.of_tomorrow", "DetectionModel", "a model of the package ultralytics (YOLOv5u"),
    ],
)
def test_what_a_checkpoint_needs_that_is_not_here_is_named(host, stock, tmp_path, module, name, words):
    prefix = "yolov5." if host.location.kind == "package" and module.startswith("models") else ""
    with class_of(prefix + module, name) as own:
        torch.save({"model": torch.nn.Sequential(stock, own())}, tmp_path / "best.pt")
    with pytest.raises(UserError) as e:
        host.load_checkpoint(tmp_path / "best.pt")
    assert words.format(prefix) in str(e.value) and "\n" not in str(e.value)
    assert "--yolov5" in str(e.value) or name not in ("SE", "CBAM")


def test_a_file_that_can_not_be_read_is_no_other_programs(host):
    with pytest.raises(UserError, match=r"/proc/self/mem: the weights can't be read \(Input/output error\)"):
        host.load_checkpoint(Path("/proc/self/mem"))


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])  # as Python 3.13 calls it
def test_a_checkpoint_of_windows_is_loaded(host, stock, tmp_path, module):
    """Its options hold a path of Windows, which no other system can make."""

    class WindowsPath:
        def __reduce__(self):
            return WindowsPath, ("C:\\\\data", "best.pt")

    place = sys.modules.get(module) or types.ModuleType(module)
    with module_entry(module, place), patched(place, WindowsPath=WindowsPath):
        WindowsPath.__module__, WindowsPath.__qualname__ = module, "WindowsPath"
        options = types.SimpleNamespace(imgsz=96, save_dir=WindowsPath())
        torch.save({"model": stock, "opt": options}, tmp_path / "best.pt")
    assert host.trained_with(tmp_path / "best.pt").imgsz == 96
    assert check_weights(tmp_path / "best.pt", SPACE, 10, host).endswith("349 of 349 tensors are inherited")


def test_a_checkpoint_of_the_package_is_loaded_beside_a_clone(host, stock, tmp_path, monkeypatch):
    """Where the package is not installed."""
    if host.location.kind == "package":
        pytest.skip("YOLOv5 is the package here")
    classes = {type(module) for module in stock.modules() if type(module).__module__.startswith("models.")}
    with ExitStack() as stack:
        stack.enter_context(module_entry("yolov5", types.ModuleType("yolov5")))
        for own in classes:
            name = own.__module__
            stack.enter_context(module_entry(f"yolov5.{name}", sys.modules[name]))
            stack.enter_context(patched(own, __module__=f"yolov5.{name}"))
        torch.save({"model": stock}, tmp_path / "best.pt")
    assert b"yolov5.models.common" in (tmp_path / "best.pt").read_bytes()
    finder = types.SimpleNamespace(find_spec=lambda name, *_: missing(name) if name.startswith("yolov5") else None)
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    for name in [name for name in sys.modules if name.split(".")[0] == "yolov5"]:
        monkeypatch.delitem(sys.modules, name)
    assert check_weights(tmp_path / "best.pt", SPACE, 10, host).endswith("349 of 349 tensors are inherited")


def missing(name):
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)


# What YOLOv5 has of it ------------------------------------------------------------------------------------------------


def test_what_trainings_wrap_around_a_model_is_taken_off(host, stock, tmp_path):
    for number, entries in enumerate(
        (
            {"model": torch.nn.DataParallel(stock), "ema": None},
            {"model": stock, "ema": stock.state_dict()},
            {"model": None, "ema": stock},
            {"model": stock, "optimizer": {"state": {}}, "epoch": 3},
        )
    ):
        path = tmp_path / f"{number}.pt"
        torch.save(entries, path)
        assert check_weights(path, SPACE, 10, host).endswith("349 of 349 tensors are inherited")
    torch.save({"model": stock}, tmp_path / "7.pt")  # has no `nc`, which only train.py sets
    vars(stock).pop("nc", None)
    assert "the detection layer is for 10 classes, not 7" in check_weights(tmp_path / "7.pt", SPACE, 7, host)


def test_what_differs_in_the_detection_layer_is_said(host, tmp_path):
    model = host.build({**derive(SPACE, SPACE.default()), "anchors": 7})
    host.save_checkpoint(model, tmp_path / "seven.pt")
    assert "is for 7 anchors at each place, not 3" in check_weights(tmp_path / "seven.pt", SPACE, 10, host)
    model = host.build(derive(SPACE, SPACE.default()))
    model.model[-1].anchors *= 1.5
    host.save_checkpoint(model, tmp_path / "own.pt")
    assert check_weights(tmp_path / "own.pt", SPACE, 10, host).endswith(
        "its anchors are taken too, and not those of --cfg"
    )


@pytest.mark.parametrize("path", ["/dev/null", "/tmp"])
def test_what_is_no_file_is_said_to_be_none(host, path):
    with pytest.raises(UserError, match="the weights must be a file"):
        host.load_checkpoint(Path(path))


@pytest.mark.parametrize("kind", ["ClassificationModel", "SegmentationModel"])
def test_a_model_of_another_task_is_refused_by_its_name(host, tmp_path, kind):
    path = tmp_path / "best.pt"
    if kind == "SegmentationModel":
        cfg = yaml.safe_load((host.location.root / "models/segment/yolov5n-seg.yaml").read_text())
        model = host.yolo.SegmentationModel(cfg)
    else:
        model = host.yolo.ClassificationModel(model=host.build(derive(SPACE, SPACE.default())), nc=3, cutoff=8)
    host.save_checkpoint(model, path)
    with pytest.raises(UserError, match=f"got .*a {kind} of YOLOv5"):
        host.load_checkpoint(path)


def test_a_checkpoint_of_the_users_home_is_found(host, stock, tmp_path, monkeypatch):
    host.save_checkpoint(stock, tmp_path / "own.pt")
    monkeypatch.setenv("HOME", str(tmp_path))
    from yolov5_nas.records.options import Options
    from yolov5_nas.run.prepare import prepare

    options = Options(cfg="yolov5n_elastic.yaml", weights="~/own.pt", device="cpu", engine="local", imgsz=64)
    assert prepare(options).options.weights == str(tmp_path / "own.pt")
