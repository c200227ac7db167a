"""Weights, teacher, data or hyper-parameters that became others since a run began: one line, and nothing is changed."""

import shutil

import pytest
import torch
import yaml
from datasets import write_data
from inline import inline, untrained

from yolov5_nas.cli import main
from yolov5_nas.files import shipped
from yolov5_nas.records.journal import read_journal
from yolov5_nas.space.compile import derive
from yolov5_nas.space.space import Space

LABELS = ("0 .5 .5 .2 .2", "1 .5 .5 .1 .1", "0 .4 .4 .3 .3")


def call(*words, interrupts=None):
    with inline(interrupts), untrained():
        return main([*map(str, words)])


def save(host, path, seed):
    """A checkpoint of yolov5n for two classes, with other weights for each seed."""
    torch.manual_seed(seed)
    space = Space.from_yaml("yolov5n_elastic.yaml", nc=2)
    host.save_checkpoint(host.build(derive(space, space.default()), nc=2), path)


@pytest.fixture(scope="module")
def begun(host, tmp_path_factory):
    """A run of two trials, with all that it was given, in one folder."""
    folder = tmp_path_factory.mktemp("begun")
    write_data(folder / "set", labels=LABELS)
    save(host, folder / "best.pt", 0)
    save(host, folder / "teacher.pt", 1)
    shutil.copy(shipped("data") / "hyp.short.yaml", folder / "my_hyp.yaml")
    (folder / "mine.py").write_text("def reward(metrics):\n    return metrics['map50']\n")
    flags = {"imgsz": 64, "epochs": 1, "trials": 2, "device": "cpu", "engine": "local", "cfg": "yolov5n_elastic.yaml"}
    flags |= {"weights": folder / "best.pt", "distill": folder / "teacher.pt", "hyp": folder / "my_hyp.yaml"}
    flags |= {"data": folder / "set/data.yaml", "reward": f"{folder / 'mine.py'}:reward", "project": folder, "audit": 0}
    argv = [word for name, value in flags.items() for word in (f"--{name}", value)]
    assert call("search", *argv, interrupts={("exp", 1)}) == 130
    assert call("search", "--resume", folder / "exp") == 0  # with everything as it was
    return folder


@pytest.fixture
def given(begun):
    """The same, put back afterwards."""
    kept = begun.with_name("kept")
    shutil.copytree(begun, kept)
    yield begun
    shutil.rmtree(begun)
    kept.rename(begun)


def contents(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def relabel(folder):
    label = folder / "set/labels/1.txt"
    label.write_text(label.read_text().replace("1 ", "0 ", 1))  # of the same size, so that YOLOv5's cache is silent


def rename(folder):
    data = folder / "set/data.yaml"
    data.write_text(yaml.safe_dump({**yaml.safe_load(data.read_text()), "names": ["b", "a"]}))


def edit(name):
    return lambda folder: (folder / name).write_text((folder / name).read_text().replace("lr0: 0.004", "lr0: 0.4", 1))


CHANGES = {
    "--weights: the file's content": lambda folder: shutil.copy(folder / "teacher.pt", folder / "best.pt"),
    "--distill: the file's content": lambda folder: shutil.copy(folder / "best.pt", folder / "teacher.pt"),
    "train labels of the data": relabel,
    "train images of the data": lambda folder: shutil.copy(folder / "set/images/0.png", folder / "set/images/9.png"),
    "val labels of the data": lambda folder: (folder / "set/labels/2.txt").unlink(),
    "names of the data": rename,
    "exp/hyp.yaml: it": edit("exp/hyp.yaml"),
    "--reward: the file's content": lambda folder: (folder / "mine.py").write_text(
        "def reward(metrics):\n    return metrics['map50_95']\n"
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_resume_with_others_is_refused(given, capsys, what):
    CHANGES[what](given)
    before = contents(given / "exp")
    commands = [("search", "--resume", given / "exp", "--trials", 3)]
    if "--reward" not in what:  # which a proof does not use
        commands.append(("prove", given / "exp", "--seeds", 1, "--trial", 1, "--epochs", 1))
    what = "train labels of the data" if what.startswith("val") else what  # of this set both are the same files
    for command in commands:
        assert call(*command) == 2
        *_, line = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and what in line and "changed since the run began" in line
        assert contents(given / "exp") == before


def test_a_proof_from_scratch_needs_no_weights(given):
    shutil.copy(given / "teacher.pt", given / "best.pt")
    assert call("prove", given / "exp", "--seeds", 1, "--trial", 1, "--epochs", 1, "--from", "scratch") == 0


def test_what_needs_none_of_them_goes_on(given, capsys):
    for what in CHANGES:
        if "of the data" in what or what.startswith("--"):
            CHANGES[what](given)
    assert call("report", given / "exp") == 0 and call("export", given / "exp", "--trial", 0) == 0
    assert call("export", given / "exp", "--trial", 0, "--include", "torchscript") == 0
    capsys.readouterr()
    assert call("export", given / "exp", "--trial", 0, "--include", "torchscript", "--validate") == 2
    assert "changed since the run began" in capsys.readouterr().err


def test_files_of_the_same_content_are_the_same_wherever_they_lie(given):
    shutil.move(given / "set", given / "moved")
    data = yaml.safe_load((given / "moved/data.yaml").read_text()) | {"path": str(given / "moved")}
    (given / "elsewhere.yaml").write_text(yaml.safe_dump(data))
    (given / "best.pt").rename(given / "renamed.pt")
    shutil.copy(given / "teacher.pt", given / "best.pt")  # as a second training leaves it
    edit("my_hyp.yaml")(given)  # of which the run has a copy
    moved = "--data", given / "elsewhere.yaml", "--weights", given / "renamed.pt"
    assert call("search", "--resume", given / "exp", "--trials", 3, *moved) == 0
    assert [r.state for r in read_journal(given / "exp")] == ["complete"] * 3
    assert yaml.safe_load((given / "exp/search.yaml").read_text())["weights"] == str(given / "renamed.pt")


def test_a_file_that_is_named_again_must_be_what_the_run_has(given, capsys):
    assert call("search", "--resume", given / "exp", "--hyp", given / "my_hyp.yaml") == 0
    edit("my_hyp.yaml")(given)
    assert call("search", "--resume", given / "exp", "--hyp", given / "my_hyp.yaml") == 2
    assert "--hyp: the file's content has changed since the run began" in capsys.readouterr().err
    assert call("search", "--resume", given / "exp", "--weights", given / "teacher.pt") == 2
    assert "--weights: the file's content has changed" in capsys.readouterr().err


def test_a_run_of_an_earlier_version_goes_on_with_a_warning(given, capsys):
    (given / "exp/inputs.yaml").unlink()
    shutil.copy(given / "teacher.pt", given / "best.pt")
    assert call("search", "--resume", given / "exp") == 0
    out = capsys.readouterr().out
    assert out.count("warning: ") == out.count("has no inputs.yaml") == 1


@pytest.mark.parametrize("text", ["weights: [", "- a", "weights: 3", "\0"])
def test_damaged_digests_are_said(given, capsys, text):
    (given / "exp/inputs.yaml").write_text(text)
    before = contents(given / "exp")
    assert call("search", "--resume", given / "exp") == 2
    assert "inputs.yaml" in capsys.readouterr().err and contents(given / "exp") == before


def test_weights_that_only_a_base_was_trained_from_may_change(given):
    flags = "--imgsz", 64, "--epochs", 1, "--device", "cpu", "--engine", "local", "--project", given, "--audit", 0
    base = "--weights", given / "best.pt", "--base-epochs", 1, "--data", given / "set/data.yaml", "--name", "based"
    assert call("search", *flags, *base, "--cfg", "yolov5n_elastic.yaml", "--trials", 2) == 0
    shutil.copy(given / "teacher.pt", given / "best.pt")
    assert call("search", "--resume", given / "based", "--trials", 3) == 0
    assert call("prove", given / "based", "--trial", 1, "--seeds", 1, "--epochs", 1) == 0
