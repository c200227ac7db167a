"""What a user named, found and checked: what can't be taken is one line, exit code 2, and nothing is written."""

import pytest
import yaml
from datasets import write_data
from inline import inline, untrained

from yolov5_nas.cli import main
from yolov5_nas.files import shipped
from yolov5_nas.records.options import Options
from yolov5_nas.run.check_parent import with_method
from yolov5_nas.run.prepare import prepare

GOOD = "0 .5 .5 .1 .1"
TINY = ["--imgsz", "64", "--epochs", "1", "--trials", "1", "--device", "cpu", "--engine", "local"]

DATA = {
    "a subset without objects": ({"labels": (GOOD, *("",) * 40)}, ("--subset", "0.1"), "--subset must leave"),
    "names of mixed keys": ({"names": {0: "a", "b": "b"}}, (), "names must list the classes"),
    "sizes in a list": ({"imgsz": [64, 64]}, (), "imgsz must be a whole number"),
    "splits in a mapping": ({"train": {"a": "images"}}, (), "train must be a folder or file"),
    "a test split that is none": ({"test": [3]}, (), "test must be a folder or file"),
    "a download that brings nothing": (
        {"train": "none", "download": "print(1)"},
        (),
        "download: has left no images of",
    ),
    "a download that ends": (
        {"train": "none", "download": "raise SystemExit(3)"},
        (),
        "download: has left no images of",
    ),
    "a number of classes that is none": ({"names": None, "nc": True}, (), "names must list the classes"),
    "a name longer than any file's": ({"train": "a" * 400}, (), "can't be read (File name too long)"),
    "six columns in all labels": ({"labels": (GOOD + " 0",) * 2}, (), "labels require 5 columns"),
    "layers that are not there": ({}, ("--freeze", "99"), "--freeze must name layers of the model"),
    "a size below zero": ({}, ("--imgsz", "-64"), "--imgsz must be at least 1"),
    "loaders below zero": ({}, ("--workers", "-1"), "--workers must be at least 0"),
    "another folder's file": ({}, ("--cfg", "mnie/yolov5n_nas.yaml"), "model YAML (--cfg) does not exist"),
    "a run of too long a name": ({}, ("--name", "a" * 400), "(File name too long)"),
    "weights that are not there": ({}, ("--weights", "~/none.pt"), "the weights file does not exist"),
}


@pytest.mark.parametrize("name", DATA)
def test_it_is_one_line_and_nothing_is_written(host, tmp_path, capsys, name):
    entries, flags, words = DATA[name]
    data = write_data(tmp_path / "set", **entries)
    with inline(), untrained():
        argv = ["search", *TINY, "--data", data, "--project", tmp_path / "runs", *flags]
        assert main(list(map(str, argv))) == 2
    *progress, line = capsys.readouterr().err.splitlines()
    assert all("Scanning" in text for text in progress if text)  # YOLOv5's bar
    assert line.startswith("error: ") and words in line
    assert not (tmp_path / "runs").exists()


def test_a_subset_is_drawn_once_and_kept_as_it_was_checked(host, tmp_path):
    data = write_data(tmp_path / "set", labels=(GOOD,) * 10)
    options = Options(data=str(data), subset=0.3, device="cpu", engine="local", imgsz=64)
    assert len(prepare(options).subset) == 3
    with inline(), untrained():
        argv = ["search", *TINY, "--data", data, "--project", tmp_path / "runs", "--subset", "0.3"]
        assert main(list(map(str, argv))) == 0
    lines = (tmp_path / "runs/exp/train_subset.txt").read_text().splitlines()
    assert lines == prepare(options).subset


def test_the_input_size_is_the_checkpoints(host, trained_n, digits_yaml, tmp_path, capsys):
    """Whatever the data YAML says; one that does not know its size has the data YAML's."""
    given = {"weights": str(trained_n), "data": str(digits_yaml), "target": ["params=1.5e6"], "device": "cpu"}
    assert prepare(Options().with_given(with_method({**given, "engine": "local"}))).options.imgsz == 64
    assert f"input size: 64 px, at which {trained_n} was trained" in capsys.readouterr().out
    host.save_checkpoint(host.load_checkpoint(trained_n), tmp_path / "nameless.pt")
    model = yaml.safe_load((shipped("models") / "yolov5n_elastic.yaml").read_text())
    for sizes, size in (([64, 96], 64), ([96, 128], 128)):
        (tmp_path / "sizes.yaml").write_text(yaml.safe_dump({**model, "imgsz": sizes}))
        sized = {**given, "cfg": str(tmp_path / "sizes.yaml"), "engine": "local"}
        assert prepare(Options().with_given(with_method(sized))).options.imgsz == size
    assert "input size: 128 px; the model YAML does not list 64 px" in capsys.readouterr().out
    given["weights"] = str(tmp_path / "nameless.pt")
    assert prepare(Options().with_given(with_method({**given, "engine": "local"}))).options.imgsz == 128
    assert f"input size: 128 px; {tmp_path / 'nameless.pt'} does not say which" in capsys.readouterr().out


def test_both_hyper_parameter_files_have_the_same_anchors(host, tmp_path, capsys):
    data, text = write_data(tmp_path / "set"), (shipped("data") / "hyp.inherit.yaml").read_text()
    for name, anchors in (("three", 3), ("four", 4)):
        (tmp_path / f"{name}.yaml").write_text(f"{text}\nanchors: {anchors}\n")
    common = {"data": str(data), "device": "cpu", "engine": "local", "imgsz": 64, "base_epochs": 1}
    found = prepare(Options(hyp=str(tmp_path / "four.yaml"), inherit_hyp="hyp.inherit.yaml", **common))
    assert found.inherit_hyp["anchors"] == found.model["anchors"] == 4
    argv = ["search", *TINY, "--data", data, "--hyp", tmp_path / "four.yaml", "--inherit-hyp", tmp_path / "three.yaml"]
    with inline(), untrained():
        assert main([*map(str, argv), "--base-epochs", "1", "--project", str(tmp_path / "runs")]) == 2
    assert "anchors must be those of --hyp, got 3; accepted: 4" in capsys.readouterr().err


def test_the_sets_of_the_host_itself_are_read(host, tmp_path, monkeypatch):
    """Each of its data YAMLs: the images are not there, and that is all that is said."""
    from yolov5_nas.errors import UserError
    from yolov5_nas.host.dataset import read_data

    files = sorted((host.location.root / "data").glob("*.yaml"))
    assert len(files) > 5
    for file in files:
        if "train" not in yaml.safe_load(file.read_text(errors="ignore")):
            continue  # ImageNet's, of classification
        try:
            assert read_data(file)["nc"] > 0
        except UserError as e:
            raise AssertionError(file) from e
