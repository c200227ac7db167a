"""Files that a user names: the one that is meant, or none."""

from pathlib import Path

import pytest
from datasets import write_data
from inline import inline, untrained

from yolov5_nas.cli import main
from yolov5_nas.errors import UserError
from yolov5_nas.files import absolute, find_file, shipped


@pytest.fixture
def folders(tmp_path):
    for name in ("known/data/digits.yaml", "known/data/hub/other.yaml", "mine/data/digits.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def found(folders, name, monkeypatch):
    monkeypatch.chdir(folders / "mine")
    return str(find_file(name, [folders / "known/data"], "data YAML (--data)").relative_to(folders))


def test_a_name_alone_is_found_below_the_known_folders(folders, monkeypatch):
    assert found(folders, "digits.yaml", monkeypatch) == "known/data/digits.yaml"
    assert found(folders, "other.yaml", monkeypatch) == "known/data/hub/other.yaml"


def test_a_name_with_a_folder_is_that_file_alone(folders, monkeypatch):
    assert found(folders, "data/digits.yaml", monkeypatch) == "mine/data/digits.yaml"
    assert found(folders, "hub/other.yaml", monkeypatch) == "known/data/hub/other.yaml"
    assert found(folders, "data/hub/other.yaml", monkeypatch) == "known/data/hub/other.yaml"


@pytest.mark.parametrize("name", ["./digits.yaml", "./data/hub/other.yaml", "../known/hub/other.yaml", "~/digits.yaml"])
def test_a_name_that_begins_with_a_place_is_no_other_file(folders, monkeypatch, name):
    monkeypatch.setenv("HOME", str(folders / "mine"))
    with pytest.raises(UserError, match=r"data YAML \(--data\) does not exist"):
        found(folders, name, monkeypatch)
    place = (folders / "mine" / name).parent if name.startswith(".") else folders / "mine"
    place.mkdir(parents=True, exist_ok=True)
    (place / Path(name).name).write_text("")
    assert found(folders, name, monkeypatch) == str((place / Path(name).name).resolve().relative_to(folders))


@pytest.mark.parametrize(
    "name", ["mnie/digits.yaml", "./mnie/digits.yaml", "../mnie/digits.yaml", "~/mnie/digits.yaml", "*.yaml"]
)
def test_no_other_file_of_its_last_part_is_taken(folders, monkeypatch, name):
    with pytest.raises(UserError, match=r"data YAML \(--data\) does not exist") as e:
        found(folders, name, monkeypatch)
    assert name in str(e.value)


def test_names_like_it_are_listed(folders, monkeypatch):
    with pytest.raises(UserError, match=r"accepted: .*digits\.yaml"):
        found(folders, "digit.yaml", monkeypatch)
    with pytest.raises(UserError, match=r"mine/data/digits\.yaml"):
        found(folders, folders / "mine/data/digitz.yaml", monkeypatch)


@pytest.mark.parametrize("name", ["a" * 300 + ".yaml", "a/" * 3000 + "b.yaml", "nul\0.yaml"])
def test_a_name_that_no_file_can_have_does_not_exist(folders, monkeypatch, name):
    with pytest.raises(UserError, match="does not exist"):
        found(folders, name, monkeypatch)


def test_a_folder_is_no_file(folders, monkeypatch):
    for name in ("", ".", "data"):
        with pytest.raises(UserError, match="must be a file, not a folder"):
            found(folders, name, monkeypatch)


def test_home_is_meant_by_a_tilde(folders, monkeypatch):
    monkeypatch.setenv("HOME", str(folders / "mine"))
    assert found(folders, "~/data/digits.yaml", monkeypatch) == "mine/data/digits.yaml"
    with pytest.raises(UserError, match="no path"):
        found(folders, "~nobody-of-that-name/x.yaml", monkeypatch)


def test_a_link_is_not_followed(folders, monkeypatch):
    (folders / "mine/linked.yaml").symlink_to(folders / "known/data/digits.yaml")
    assert found(folders, "linked.yaml", monkeypatch) == "mine/linked.yaml"
    assert absolute(folders / "mine/../mine/linked.yaml") == folders / "mine/linked.yaml"


def test_the_shipped_folders_are_there():
    assert all(shipped(name).is_dir() for name in ("models", "data", "hooks"))


# Names that no file can have, wherever one is asked for ---------------------------------------------------------------

IMPOSSIBLE = ("a" * 300, "a/" * 3000, "nul\0", "file/run", "loop/run", "loop")
COMMANDS = (
    ["search", "--resume", ...],
    ["search", "--config", ...],
    ["search", "--weights", ..., "--data", "set/data.yaml"],
    ["search", "--weights", ..., "--data", "set/data.yaml", "--method", "trials", "--trials", "1"],
    *(["search", flag, ...] for flag in ("--data", "--cfg", "--hyp", "--yolov5", "--hook")),
    ["search", "--base-epochs", "1", "--inherit-hyp", ...],
    ["search", "--distill", ..., "--data", "set/data.yaml", "--imgsz", "64"],
    ["prove", ...],
    ["report", ...],
    ["report", ..., "--remeasure"],
    ["export", ...],
    ["export", ..., "--include", "onnx"],
    ["space", ...],
    ["with", "train.py", "--cfg", ...],
    ["with", "train.py", "--data", ...],
    ["with", "--yolov5", ..., "val.py"],
)
NEW = ["search", "--data", "set/data.yaml", "--imgsz", "64", "--epochs", "1", "--trials", "1", "--engine", "local"]


def refused(argv, name, capsys):
    with inline(), untrained():
        assert main([name if word is ... else word for word in argv]) == 2, argv
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and len(line) < 3000


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A working directory with a file, a link to itself, and a data set."""
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("loop").symlink_to("loop")
    write_data(Path("set"), path=str(tmp_path / "set"))
    return tmp_path


@pytest.mark.parametrize("argv", COMMANDS, ids=lambda argv: " ".join(word for word in argv if word is not ...))
def test_a_name_that_can_be_no_files_is_one_line(host, places, capsys, argv):
    before = sorted(places.iterdir())
    for name in IMPOSSIBLE:
        refused(argv, name, capsys)
        assert sorted(places.iterdir()) == before


@pytest.mark.parametrize("name", ["a" * 300, "nul\0", "../file/run", "../loop"])
def test_so_is_that_of_a_new_run(host, places, capsys, name):
    before = sorted(places.iterdir())
    refused([*NEW, "--project", "runs", "--name", ...], name, capsys)
    assert sorted(places.iterdir()) == before
    refused([*NEW, "--project", f"runs/{name}"], name, capsys)
    assert sorted(places.iterdir()) == before


@pytest.mark.parametrize("flag", ["--yolov5", "--project"])
def test_the_doctor_says_what_is_wrong_with_one(host, places, capsys, flag):
    for name in IMPOSSIBLE:
        assert main(["doctor", flag, name]) == 1
        assert "to fix: " in capsys.readouterr().out


def test_an_export_to_one_is_refused(host, places, capsys):
    with inline(), untrained():
        assert main([*NEW, "--project", "runs"]) == 0
    run = Path("runs/exp")
    before = sorted(run.rglob("*"))
    for name in IMPOSSIBLE:
        refused(["export", str(run), "--trial", "0", "--out", ...], name, capsys)
    assert sorted(run.rglob("*")) == before
