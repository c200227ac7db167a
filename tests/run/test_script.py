"""YOLOv5's own scripts with searchable layers."""

import os
import subprocess
import sys

import pytest
import torch
import yaml

from yolov5_nas.cli import main
from yolov5_nas.files import shipped
from yolov5_nas.space.space import Space
from yolov5_nas.weights import supernet
from yolov5_nas.weights.elastic import extract


def test_train_makes_a_supernet_of_a_searchable_yaml(host, small_settings, tmp_path):
    """In a process of its own, as the command line runs it."""
    data = {key: small_settings.data[key] for key in ("train", "nc", "names")}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({**data, "val": data["train"]}))
    files = ["--cfg", "yolov5n_elastic.yaml", "--data=small.yaml", "--hyp", "hyp.short.yaml", "--weights", ""]
    few = ["--imgsz", "64", "--epochs", "1", "--device", "cpu", "--workers", "0", "--noplots"]
    place = ["--project", str(tmp_path / "runs/train"), "--name", "own"]  # else in the clone
    command = [sys.executable, "-m", "yolov5_nas", "with", "train.py", *files, *few, *place]
    done = subprocess.run(command, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "autocast" not in done.stderr
    assert "leaked" not in done.stderr  # as triton says of what is frozen when a process ends
    weights = tmp_path / "runs/train/own/weights/best.pt"
    found = supernet.read(weights)
    space = Space.from_yaml(shipped("models") / "yolov5n_elastic.yaml", nc=10)
    shared = supernet.restore(found, space.yaml, 10, host, weights)
    child = extract(shared, space.default(), host).eval()
    assert not any(type(module).__module__.startswith("yolov5_nas") for module in child.modules())
    assert child(torch.zeros(1, 3, 64, 64))[0].shape[-1] == 15


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["segment/train.py"], "no script of YOLOv5 for detection models, got 'segment/train.py'; accepted: train.py"),
        (["train.py", "--cfg", "none.yaml"], "none.yaml"),
        (["train.py", "--data", "none.yaml"], "none.yaml"),
        (["--yolov5", "/nowhere", "train.py"], "--yolov5 must be a clone"),
    ],
)
def test_what_is_not_there_is_one_line(argv, words, capsys):
    assert main(["with", *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("error: ") and words in line
