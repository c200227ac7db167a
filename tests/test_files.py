"""Files that a user names: the one that is meant, or none."""

import pytest

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
