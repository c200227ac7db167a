"""The commands that a run prints, run as they are printed: in a shell of their own, by YOLOv5 without this plugin."""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib
import pytest
import yaml
from inline import inline

from yolov5_nas import search
from yolov5_nas.files import shipped
from yolov5_nas.host.locate import find
from yolov5_nas.records.journal import TrialRecord, read_journal
from yolov5_nas.records.options import Options
from yolov5_nas.results.commands import command, commands
from yolov5_nas.results.report import usage
from yolov5_nas.run.prepare import prepare
from yolov5_nas.space.compile import stock_form

SIZES = {"normal": 64, "single_cls": 64, "another size": 96}
TINY = {"epochs": 1, "trials": 1, "subset": 0.1, "device": "cpu", "engine": "local", "strategy": "random"}


@pytest.fixture(scope="module")
def runs(digits_yaml, tmp_path_factory):
    """Finished runs, by what they are like."""
    folder, found = tmp_path_factory.mktemp("runs"), {}
    with inline():
        for name, imgsz in SIZES.items():
            given = {"imgsz": imgsz, "single_cls": name == "single_cls", "project": str(folder), "name": name}
            found[name] = search(data=str(digits_yaml), **TINY, **given).folder
    return found


def printed(run):
    """The lines of a run's closing table, by their names."""
    lines = usage(run, read_journal(run)[0]).splitlines()
    return {line[:12].strip(): line[12:] for line in lines}


def ran(line, cwd):
    """Run a printed line in a shell. An old clone's scripts don't run by themselves with today's torch and numpy."""
    location = find()
    if location.kind == "clone" and "torch_load" not in (location.root / "models/experimental.py").read_text():
        line = line.replace(f"python {location.root}/", "yolov5-nas with ")
    font = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    shutil.copyfile(font, cwd / "Arial.ttf")  # which they fetch by themselves where there is a network
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "YOLOV5_CONFIG_DIR": str(cwd)}
    done = subprocess.run(line, shell=True, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["normal", "single_cls", "another size"])
def test_the_printed_line_validates_the_winner(runs, tmp_path, kind):
    line, location = printed(runs[kind])["validate"], find()
    program = f"python {location.root}/val.py" if location.kind == "clone" else "yolov5-nas with val.py"
    assert line.startswith(f"{program} --weights ") and "--device cpu" in line
    assert ("--single-cls" in line) == (kind == "single_cls") and f"--imgsz {SIZES[kind]} " in line
    assert re.search(r"^\s+all\s+32\s+\d+", ran(line, tmp_path), re.MULTILINE)


def test_the_other_lines_have_the_runs_options(runs):
    lines = printed(runs["single_cls"])
    parts = {name: shlex.split(lines[name]) for name in ("detect", "export", "train on")}
    assert all(part[part.index("--imgsz") + 1] == "64" and "--device" in part for part in parts.values())
    assert [name for name, part in parts.items() if "--single-cls" in part] == ["train on"]
    start = parts["train on"]
    assert start[start.index("--hyp") + 1] == str(runs["single_cls"] / "hyp.yaml")
    assert (
        start[start.index("--optimizer") + 1]
        == yaml.safe_load((runs["single_cls"] / "hyp.yaml").read_text())["optimizer"]
    )
    assert start[start.index("--weights") + 1] == ""  # from nothing, as trials were


def test_commands_follow_device_precision_formats_and_training():
    o = Options(
        device="1,0", precision="fp16", latency_backend="openvino", single_cls=True, yolov5="/a clone", cos_lr=True
    )
    assert command("val.py", o, 320, "--weights", "b.pt") == (
        "python '/a clone/val.py' --weights b.pt --imgsz 320 --single-cls --device 1 --half"
    )
    assert command("detect.py", replace(o, yolov5="package"), None) == "yolov5-nas with detect.py --device 1 --half"
    assert command("val.py", replace(o, device="0", engine="ray"), None).endswith("val.py' --single-cls")
    assert "--half" not in command("train.py", o, 320) and "--half" not in command(
        "val.py", replace(o, device="cpu"), 1
    )
    record = TrialRecord(0, {"imgsz": 256}, "complete", budget={"weights": "w.pt"})
    lines = commands(Path("run"), record, o)
    assert "--include openvino --imgsz 256" in lines["export"] and "--cos-lr" in lines["train on"]
    assert "--include ncnn onnx" in commands(Path("run"), record, replace(o, deploy=("ncnn", "onnx")))["export"]
    assert "--cfg" not in lines["train on"]


@pytest.mark.parametrize("kind", ["mapping", "namespace"])
def test_a_single_class_checkpoint_is_searched_as_one(host, digits_yaml, tmp_path, capsys, kind):
    entry = {"single_cls": True, "imgsz": 64}
    model = host.build(stock_form(yaml.safe_load((shipped("models") / "yolov5n_elastic.yaml").read_text())), nc=1)
    host.save_checkpoint(model, tmp_path / "one.pt", opt=entry if kind == "mapping" else argparse.Namespace(**entry))
    given = {"data": str(digits_yaml), "weights": str(tmp_path / "one.pt"), "method": "replace", "device": "cpu"}
    given |= {"cfg": "yolov5n_elastic.yaml", "target": ("gflops=0.04",), "engine": "local"}
    found = prepare(Options(**given))
    assert found.options.single_cls and found.model["nc"] == 1 and found.options.base_epochs is None
    assert "was trained with --single-cls, and so are trials" in capsys.readouterr().out
    again = prepare(Options(**given, base_epochs=3))
    assert not again.options.single_cls and again.model["nc"] == 10


def test_a_trials_checkpoint_says_what_it_was_trained_with(runs, host):
    for name, imgsz in SIZES.items():
        assert host.trained_with(runs[name] / "best/weights/best.pt") == (imgsz, name == "single_cls")
