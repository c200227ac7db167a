"""Checkpoints of older versions of YOLOv5: what stock's `attempt_load` repairs is repaired; others are refused."""

import functools
import os
import subprocess
import sys
from copy import deepcopy

import pytest
import torch
import yaml
from inline import inline, untrained
from places import TESTS

from yolov5_nas import search
from yolov5_nas.cli import main
from yolov5_nas.errors import UserError
from yolov5_nas.files import shipped
from yolov5_nas.host.compat import patched
from yolov5_nas.space.compile import stock_form

OLD = {0: [-1, 1, "Focus", [64, 3]], 8: [-1, 1, "SPP", [1024, [5, 9, 13]]], 9: [-1, 3, "C3", [1024, False]]}
CLONE = os.environ.get("YOLOV5_ROOT", "")
TAGS = ("v1.0", "v2.0", "v3.1", "v4.0", "v5.0", "v6.0", "v6.1")


def image():
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def old_yaml(tmp_path_factory):
    """A searchable YAML of v5.0's network."""
    model = yaml.safe_load((shipped("models") / "yolov5n_elastic.yaml").read_text())
    for i, row in OLD.items():
        model["backbone"][i] = row
    for i, row in enumerate(model["backbone"]):
        if row[2].startswith("NAS") and i != 6:
            row[2:] = [row[2].removeprefix("NAS"), row[3][:-1]]
    model["backbone"][6][3][-1] = {"width": [0.5, 1.0], "kernel": [1], "act": ["SiLU"]}
    for row in model["head"]:
        if row[2].startswith("NAS"):
            row[2:] = [row[2].removeprefix("NAS"), row[3][:-1]]
    path = tmp_path_factory.mktemp("old") / "old.yaml"
    path.write_text(yaml.safe_dump(model))
    return path


def as_v5(model):
    """A model of today as v5.0 pickled it: a tensor of anchors, names in a list, modules of an old torch."""
    model = deepcopy(model)
    detect = model.model[-1]
    pixels = (detect.anchors * detect.stride.view(-1, 1, 1)).view(detect.nl, 1, -1, 1, 1, 2)
    del detect.anchor_grid, detect.inplace, model.inplace
    detect.register_buffer("anchor_grid", pixels)
    detect.grid, model.names = [torch.zeros(1)] * detect.nl, [str(i) for i in range(detect.nc)]
    for module in model.modules():
        vars(module).pop("recompute_scale_factor", None)
    return model


@pytest.fixture
def of_v5(host, old_yaml, tmp_path):
    """Its checkpoint and what its network computes."""
    torch.manual_seed(0)
    model = host.build(stock_form(yaml.safe_load(old_yaml.read_text())) | {"nc": 10}).eval()
    torch.save({"model": as_v5(model).half(), "opt": {"img_size": [64, 64]}}, tmp_path / "v5.pt")
    with torch.no_grad():
        return tmp_path / "v5.pt", model.half().float()(image())[0]


def test_a_network_of_v5_computes_what_it_did(host, of_v5):
    file, expected = of_v5
    model = host.load_checkpoint(file).eval()
    with torch.no_grad():
        assert torch.allclose(model(image())[0], expected, atol=1e-4)
    assert model.names == {i: str(i) for i in range(10)}
    assert host.trained_with(file) == (64, False)


def test_a_network_of_v5_is_searched(of_v5, old_yaml, digits_yaml, tmp_path):
    tiny = {"epochs": 1, "subset": 0.1, "device": "cpu", "engine": "local", "rivals": "none", "project": str(tmp_path)}
    tiny["target"] = ["gflops=0.04"]
    with inline(), untrained():
        found = search(
            cfg=str(old_yaml), weights=str(of_v5[0]), data=str(digits_yaml), method="replace", trials=1, **tiny
        )
    assert yaml.safe_load((found.folder / "search.yaml").read_text())["imgsz"] == 64
    assert [record.state for record in found.trials] == ["complete"]


def test_without_a_yaml_of_its_own_it_is_refused_by_what_is_old(of_v5, digits_yaml, tmp_path, capsys):
    argv = ["search", "--weights", of_v5[0], "--data", digits_yaml, "--project", tmp_path / "runs", "--device", "cpu"]
    assert main(list(map(str, argv))) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "older than YOLOv5 v6.0 (Focus, SPP), so --cfg must name its own model YAML" in said
    assert said.startswith("error: ") and not (tmp_path / "runs").exists()


def broken(model):
    del model.model[1].bn


def of_four_channels(model):
    model.model[0].conv.conv = torch.nn.Conv2d(16, 16, 3, padding=1)


def without_strides(model):
    model.model[-1].stride = None


@pytest.mark.parametrize("change", [broken, of_four_channels, without_strides])
def test_a_network_that_cant_be_run_is_refused_before_a_folder_is_made(
    host, of_v5, old_yaml, digits_yaml, tmp_path, capsys, change
):
    found = torch.load(of_v5[0], weights_only=False)
    change(found["model"])
    torch.save(found, of_v5[0])
    argv = ["search", "--cfg", old_yaml, "--weights", of_v5[0], "--data", digits_yaml, "--project", tmp_path / "runs"]
    assert main([*map(str, argv), "--imgsz", "64", "--device", "cpu"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "this YOLOv5 can't run the checkpoint's model (" in said
    assert said.startswith("error: ") and not (tmp_path / "runs").exists()


def written_by(tag, made_once):
    """A checkpoint that the code of a version wrote."""
    found = CLONE and subprocess.run(["git", "-C", CLONE, "archive", tag], capture_output=True, check=False)
    if not found or found.returncode:
        pytest.skip("needs a clone with tags (YOLOV5_ROOT)")

    def make(folder):
        subprocess.run(["tar", "x", "-C", folder], input=found.stdout, check=True)
        name = "yolov5n" if (folder / "models/yolov5n.yaml").exists() else "yolov5s"
        argv = [sys.executable, TESTS / "old_yolov5.py", folder, name, folder / "old.pt"]
        subprocess.run(argv, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": ""})

    return made_once(f"yolov5_{tag}", make) / "old.pt"


@pytest.mark.parametrize("tag", TAGS)
def test_what_an_old_version_wrote_computes_what_stocks_attempt_load_makes_of_it(host, made_once, tag):
    file = written_by(tag, made_once)
    if tag == "v1.0":  # stock: "'Detect' object has no attribute 'm'"
        with pytest.raises(UserError, match=r"a model of YOLOv5 v1\.0, whose Detect has no convolutions"):
            host.load_checkpoint(file)
        return
    load = functools.partial(torch.load, weights_only=False)  # as v7.0's did before torch 2.6
    with patched(torch, load=load), host.quiet():
        stock = host.modules["models.experimental"].attempt_load(str(file), device=torch.device("cpu"), fuse=False)
    ours = host.load_checkpoint(file).eval()
    with torch.no_grad():
        assert torch.equal(ours(image())[0], stock(image())[0])
    assert ours.names == stock.names and torch.equal(ours.stride, stock.stride)


def test_a_network_whose_class_the_host_has_changed_is_refused_by_its_layer(made_once, tmp_path, digits_yaml, capsys):
    """v3.1's BottleneckCSP has LeakyReLU and its Conv Hardswish; those of today have SiLU."""
    file = written_by("v3.1", made_once)
    model = yaml.safe_load((file.parent / "models/yolov5s.yaml").read_text())
    for row in (model["backbone"][1], model["backbone"][3]):
        row[2] = "NASConv"
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(model))
    argv = ["search", "--cfg", tmp_path / "own.yaml", "--weights", file, "--data", digits_yaml, "--device", "cpu"]
    assert main([*map(str, argv), "--project", str(tmp_path / "runs"), "--target", "gflops=0.9"]) == 2
    said = capsys.readouterr()
    assert "its activation is Hardswish, not SiLU, and is kept" in said.out
    assert "layer 2 computes something else" in said.err and not (tmp_path / "runs").exists()
