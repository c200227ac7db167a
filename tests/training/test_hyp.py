"""Hyper-parameters: what is taken, and what is refused with its line before anything is written."""

import pytest
import yaml
from inline import inline

from yolov5_nas.cli import main
from yolov5_nas.errors import UserError
from yolov5_nas.files import shipped
from yolov5_nas.training.hyp import read_hyp

SHIPPED = (shipped("data") / "hyp.short.yaml").read_text()


def with_line(tmp_path, key, value):
    """The shipped file with another value, or one more."""
    path, lines = tmp_path / "hyp.yaml", SHIPPED.splitlines()
    at = next((i for i, line in enumerate(lines) if line.startswith(f"{key}:")), len(lines))
    path.write_text("\n".join([*lines[:at], f"{key}: {value}", *lines[at + 1 :]]) + "\n")
    return path, at + 1


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("lr0", "1e-3", 0.001),  # a string, for YAML
        ("lr0", "'0.01'", 0.01),
        ("weight_decay", "5E-4", 0.0005),
        ("box", "1", 1),
        ("lr0", "1e6", 1e6),  # diverges, but is a number
        ("anchors", "3", 3),
        ("anchors", "'4'", 4),
        ("anchors", "3.412", 3),  # of YOLOv5's own hyp.VOC.yaml
        ("optimizer", "adam", "Adam"),
        ("optimizer", "ADAMW", "AdamW"),
        ("mine", "[1, 2]", [1, 2]),  # nothing that YOLOv5 reads
    ],
)
def test_a_number_is_taken_however_it_is_written(tmp_path, key, text, value):
    path, _ = with_line(tmp_path, key, text)
    assert read_hyp(path)[key] == value
    assert type(read_hyp(path)[key]) is type(value)


def test_no_anchors_means_those_of_the_model(tmp_path):
    assert "anchors" not in read_hyp(with_line(tmp_path, "anchors", "0")[0])


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("lr0", "0,015", "must be a number"),
        ("lr0", "", "must be a number"),
        ("box", "[0.05]", "must be a number"),
        ("hsv_h", "{a: 1}", "must be a number"),
        ("cls", "yes", "must be a number"),
        ("obj", ".nan", "must be a number"),
        ("obj", "1e999", "must be a number"),
        ("lr0", "-0.01", "must be at least 0"),
        ("degrees", "-5", "must be at least 0"),
        ("momentum", "1", "must be below 1"),
        ("anchor_t", "0", "must be above 0"),
        ("anchors", "0.3", "must be 0, or 1 to 1000"),
        ("anchors", "-3", "must be 0, or 1 to 1000"),
        ("anchors", "1e9", "must be 0, or 1 to 1000"),
        ("anchors", "many", "must be 0, or 1 to 1000"),
        ("nominal_batch", "0", "must be a whole number of at least 1"),
        ("optimizer", "Lion", "must be one of SGD, Adam, AdamW"),
    ],
)
def test_what_no_training_can_use_is_refused_with_its_line(tmp_path, capsys, key, value, rule, host, digits_yaml):
    path, line = with_line(tmp_path, key, value)
    with pytest.raises(UserError, match=rule) as e:
        read_hyp(path)
    assert (e.value.file, e.value.line) == (path, line)
    argv = ["search", "--hyp", str(path), "--data", str(digits_yaml), "--project", str(tmp_path / "runs")]
    with inline():
        assert main([*argv, "--device", "cpu", "--engine", "local"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {path}:{line}: {key} ")
    assert not (tmp_path / "runs").exists()


def test_each_file_of_the_host_itself_is_taken(host):
    files = sorted((host.location.root / "data/hyps").glob("hyp*.yaml"))
    assert len(files) > 3
    for file in files:
        own = yaml.safe_load(file.read_text(errors="ignore"))
        expected = {**own, **({"anchors": round(own["anchors"])} if own.get("anchors") else {})}
        assert read_hyp(file) == {k: v for k, v in expected.items() if k != "anchors" or v}


def test_a_file_of_something_else_names_what_is_missing(tmp_path):
    path = tmp_path / "hyp.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in yaml.safe_load(SHIPPED).items() if k not in ("box", "fl_gamma")}))
    with pytest.raises(UserError, match="also box, fl_gamma"):
        read_hyp(path)
    path.write_text("- 1\n")
    with pytest.raises(UserError, match="must have YOLOv5's keys"):
        read_hyp(path)
