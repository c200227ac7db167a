import hashlib
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from datasets import write_data

from yolov5_nas.digits import HARD_SPLITS, SPLITS, render, render_hard
from yolov5_nas.errors import UserError
from yolov5_nas.files import find_file, increment_path, make_folder, shipped
from yolov5_nas.host.dataset import (
    check_data,
    check_split,
    draw_subset,
    find_data,
    read_data,
    resolve_data,
    take_subset,
)


def test_digits_are_the_same_on_every_machine(tmp_path):
    render(tmp_path / "digits")
    images = sorted((tmp_path / "digits/images/val").iterdir())
    assert len(images) == SPLITS["val"]
    assert len(list((tmp_path / "digits/labels/train").iterdir())) == SPLITS["train"]
    assert cv2.imread(str(images[0])).shape == (128, 128, 3)
    first = (tmp_path / "digits/labels/val/00000.txt").read_text().splitlines()
    assert first[0] == "1 0.328125 0.144531 0.125000 0.195312"


def hash_of(root, *splits):
    """Of a data set's labels."""
    files = (file for split in splits for file in sorted((root / "labels" / split).glob("*.txt")))
    return hashlib.sha1(b"".join(file.read_bytes() for file in files)).hexdigest()


def test_digits_of_a_version_without_a_test_split_get_one(digits, tmp_path):
    for kind in ("images", "labels"):
        for split in ("train", "val"):
            shutil.copytree(digits / kind / split, tmp_path / "digits" / kind / split)
    before = (tmp_path / "digits/labels/val/00000.txt").stat().st_mtime_ns
    render(tmp_path / "digits")
    assert hash_of(tmp_path / "digits", "train", "val", "test") == hash_of(digits, "train", "val", "test")
    assert len(list((tmp_path / "digits/images/test").iterdir())) == SPLITS["test"]
    assert (tmp_path / "digits/labels/val/00000.txt").stat().st_mtime_ns == before


def test_digits_stay_what_they_were(digits):
    assert hash_of(digits, "train", "val") == "4e6aa9d2ec02ca61ccc65b7c4de43a04c8affeb5"
    assert hash_of(digits, "test") == "3ef66bd3663ce2758948f74cbbe4271e781a543f"
    images = [cv2.imread(str(f)) for s in ("train", "val") for f in sorted((digits / "images" / s).glob("*.png"))]
    assert sum(image.sum(dtype=np.int64) for image in images) == pytest.approx(2_585_851_260, rel=1e-6)


@pytest.fixture(scope="module")
def hard_digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "hard"
    render_hard(folder)
    return folder


def boxes_of(file):
    """Corners of an image's labels: x1, y1, x2, y2."""
    labels = np.array([line.split() for line in file.read_text().splitlines()], float)
    return np.hstack([labels[:, 1:3] - labels[:, 3:] / 2, labels[:, 1:3] + labels[:, 3:] / 2])


def test_hard_digits_are_the_same_on_every_machine(hard_digits):
    for split, count in HARD_SPLITS.items():
        assert len(list((hard_digits / "images" / split).iterdir())) == count
    assert hash_of(hard_digits, "train", "val") == "c1a41172a2a5df88265425abf73a56cd14d6129e"
    assert hash_of(hard_digits, "test") == "43450e92116dce5e35c6f13fbdc9cd2ea22afe27"
    assert cv2.imread(str(hard_digits / "images/val/00000.png")).shape == (128, 128, 3)


def test_hard_digits_are_more_and_smaller_and_overlap(digits, hard_digits):
    easy, hard = ([boxes_of(f) for f in sorted((root / "labels/val").iterdir())] for root in (digits, hard_digits))
    assert np.mean([len(b) for b in hard]) > 1.3 * np.mean([len(b) for b in easy])
    heights = [np.vstack(boxes)[:, 3] - np.vstack(boxes)[:, 1] for boxes in (easy, hard)]
    assert np.median(heights[1]) < 0.85 * np.median(heights[0])
    low, high = np.vstack(hard)[:, :2], np.vstack(hard)[:, 2:]
    assert low.min() >= -1e-6
    assert high.max() <= 1 + 1e-6
    overlapping = [
        b for b in hard for i in range(len(b)) for j in range(i)
        if (np.minimum(b[i, 2:], b[j, 2:]) > np.maximum(b[i, :2], b[j, :2]) + 1e-5).all()
    ]  # fmt: skip
    assert len(overlapping) > len(hard)


def test_digits_labels_lie_inside_their_images_and_do_not_overlap(digits):
    for file in sorted((digits / "labels/val").iterdir()):
        boxes = np.array([line.split() for line in file.read_text().splitlines()], float)
        assert set(boxes[:, 0]) <= set(range(10))
        low, high = boxes[:, 1:3] - boxes[:, 3:] / 2, boxes[:, 1:3] + boxes[:, 3:] / 2
        assert low.min() >= -1e-6
        assert high.max() <= 1 + 1e-6
        for i in range(len(boxes)):
            for j in range(i):
                apart = (high[i] <= low[j] + 1e-5) | (high[j] <= low[i] + 1e-5)
                assert apart.any(), file


@pytest.mark.parametrize(("name", "splits"), [("digits.yaml", SPLITS), ("digits_hard.yaml", HARD_SPLITS)])
def test_the_data_yaml_makes_its_own_images_through_the_host(host, tmp_path, name, splits):
    data = yaml.safe_load((shipped("data") / name).read_text())
    path = tmp_path / name
    path.write_text(yaml.safe_dump({**data, "path": str(tmp_path / "made")}))
    resolved = resolve_data(path, host)
    assert check_data(resolved, host, 128, path) == {split: splits[split] for split in ("train", "val")}
    assert check_split(resolved, "test", host, 128, path) == splits["test"]
    assert (tmp_path / "made/labels/train.cache").is_file()


def test_a_relative_path_is_taken_as_yolov5_takes_it(host, tmp_path, monkeypatch):
    write_data(tmp_path / "set")
    path = write_data(tmp_path / "set", path="../set")
    if host.location.kind == "clone":
        with pytest.raises(UserError, match="do not exist"):
            resolve_data(path, host)
    else:
        assert resolve_data(path, host)["val"] == str(tmp_path / "set/images")


def test_names_may_be_a_list_a_mapping_or_a_number_of_classes(tmp_path):
    for entries in ({"names": ["a", "b"]}, {"names": {0: "a", 1: "b"}}, {"names": None, "nc": 2}):
        assert read_data(write_data(tmp_path, **entries))["nc"] == 2


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"names": []}, "names must list the classes"),
        ({"names": {1: "a"}}, "names must list the classes"),
        ({"names": {0: "a", "one": "b"}}, "names must list the classes"),
        ({"names": {0: "a", None: "b"}}, "names must list the classes"),
        ({"names": {False: "a", True: "b"}}, "names must list the classes"),
        ({"names": "ab"}, "names must list the classes"),
        ({"imgsz": [64, 64]}, "imgsz must be a whole number of pixels"),
        ({"imgsz": -64}, "imgsz must be a whole number of pixels"),
        ({"train": {"a": "images"}}, "train must be a folder or file of images"),
        ({"train": 3}, "train must be a folder or file of images"),
        ({"val": []}, "val must be a folder or file of images"),
        ({"val": ["images", None]}, "val must be a folder or file of images"),
        ({"path": ["a"]}, "path must be a folder"),
        ({"train": "nowhere"}, "the images of train do not exist"),
        ({"val": "nowhere", "download": "raise OSError('no disk')"}, "could not be made ready .OSError: no disk"),
    ],
)
def test_bad_data_yamls(host, tmp_path, entries, message):
    with pytest.raises(UserError, match=message):
        resolve_data(write_data(tmp_path, **entries), host)


def test_a_wrong_nc_is_the_number_of_names_as_in_yolov5(host, tmp_path, capsys):
    path = write_data(tmp_path, nc=80)
    assert resolve_data(path, host)["nc"] == 2 == host.check_dataset(yaml.safe_load(path.read_text()), False)["nc"]
    assert "nc is 80, but there are 2 names: 2 classes are taken" in capsys.readouterr().out


def test_a_line_number_leads_to_the_value(tmp_path):
    path = write_data(tmp_path, imgsz="large")
    with pytest.raises(UserError) as e:
        read_data(path)
    assert path.read_text().splitlines()[e.value.line - 1] == "imgsz: large"


def test_images_that_are_links_have_their_labels_beside_the_link(host, tmp_path):
    write_data(tmp_path / "store", labels=("0 .5 .5 .1 .1",) * 4)
    (tmp_path / "set/images").mkdir(parents=True)
    (tmp_path / "store/labels").rename(tmp_path / "set/labels")
    for image in (tmp_path / "store/images").iterdir():
        (tmp_path / "set/images" / image.name).symlink_to(image)
    path = tmp_path / "set/data.yaml"
    path.write_text(yaml.safe_dump({"path": str(path.parent), "train": "images", "val": "images", "names": ["a", "b"]}))
    data = resolve_data(path, host)
    assert check_data(data, host, 64, path) == {"train": 4, "val": 4}
    half = take_subset(data, draw_subset(data, host, 64, 0.5, 0, path), tmp_path)
    assert check_data(half, host, 64, path) == {"train": 2, "val": 4}


def test_a_data_yaml_that_is_a_link_means_the_folder_of_the_link(host, tmp_path, monkeypatch):
    if host.location.kind == "clone":
        pytest.skip("a relative path is one of the clone's there")
    original = write_data(tmp_path / "set", path="files")
    (tmp_path / "linked").mkdir()
    write_data(tmp_path / "linked/files")
    (tmp_path / "linked/data.yaml").symlink_to(original)
    found = find_data(str(tmp_path / "linked/data.yaml"), host.location.root)
    assert resolve_data(found, host)["train"] == str(tmp_path / "linked/files/images")


def test_home_is_meant_by_a_tilde_in_the_file_too(host, tmp_path, monkeypatch):
    path = write_data(tmp_path / "set", path="~/set", val="~/set/images", train=["~/set/images"])
    monkeypatch.setenv("HOME", str(tmp_path))
    data = resolve_data(path, host)
    assert check_data(data, host, 64, path) == {"train": 1, "val": 1}


def test_a_subset_without_an_object_is_refused_before_anything_is_written(host, tmp_path):
    path = write_data(tmp_path / "set", labels=("0 .5 .5 .1 .1", *("",) * 19))
    data = resolve_data(path, host)
    with pytest.raises(UserError, match="--subset must leave training images with objects; none of these 2 has one"):
        draw_subset(data, host, 64, 0.1, 0, path)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("0 .5 .5 .1 .1 .9", "labels require 5 columns"),
        ("0 .5 .5 .1 -.1", "negative label values"),
        ("0 9 9 .1 .1", "9"),
    ],
)
def test_the_host_says_why_it_ignores_files(host, tmp_path, capsys, bad, reason):
    good = "0 .5 .5 .1 .1"
    path = write_data(tmp_path / "all", labels=(bad,) * 5)
    with pytest.raises(UserError, match="the images and labels of train can't be read") as e:
        check_data(resolve_data(path, host), host, 64, path)
    assert reason in str(e.value) and "0.png: " in str(e.value) and str(e.value).endswith("; and 2 more)")
    path = write_data(tmp_path / "some", labels=(good, bad, good, bad))
    for _ in range(2):  # the second time it is read from the host's cache
        assert check_data(resolve_data(path, host), host, 64, path) == {"train": 2, "val": 2}
        assert "train: 2 files are ignored (" in (out := capsys.readouterr().out) and reason in out


def test_a_model_yaml_given_as_data():
    with pytest.raises(UserError, match="were --cfg and --data mixed up"):
        read_data(shipped("models") / "yolov5n_nas.yaml")


def test_an_image_folder_without_images(host, tmp_path):
    path = write_data(tmp_path, labels=())
    with pytest.raises(UserError, match=r"the images and labels of train can't be read .*No images found"):
        check_data(resolve_data(path, host), host, 64, path)


def test_images_without_labels(host, tmp_path):
    path = write_data(tmp_path, labels=("", ""))
    with pytest.raises(UserError, match="no labels found for the images of train"):
        check_data(resolve_data(path, host), host, 64, path)


def test_a_class_out_of_range(host, tmp_path):
    path = write_data(tmp_path, labels=("0 .5 .5 .1 .1", "2 .5 .5 .1 .1"))
    with pytest.raises(UserError, match="the classes in the labels of train must be 0 to 1, got 2"):
        check_data(resolve_data(path, host), host, 64, path)


def test_a_subset_is_a_list_of_training_images_that_the_host_reads(host, tmp_path):
    path = write_data(tmp_path / "set", labels=("0 .5 .5 .1 .1",) * 10)
    data = resolve_data(path, host)
    images = draw_subset(data, host, 64, 0.3, 0, path)
    listed = take_subset(data, images, tmp_path)["train"]
    lines = Path(listed).read_text().splitlines()
    assert len(set(lines)) == 3
    assert check_data({**data, "train": listed}, host, 64, path) == {"train": 3, "val": 10}
    assert draw_subset(data, host, 64, 0.3, 0, path) == images == lines


def test_files_are_found_in_the_working_directory_the_plugin_and_the_host(host, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = host.location.root
    assert find_data("digits.yaml", root) == shipped("data") / "digits.yaml"
    assert find_data("coco128.yaml", root) == root / "data/coco128.yaml"
    hyp = find_file("hyp.scratch-low.yaml", [shipped("data"), root / "data"], "hyp")
    assert hyp == root / "data/hyps/hyp.scratch-low.yaml"
    (tmp_path / "digits.yaml").touch()
    assert find_data("digits.yaml", root) == tmp_path / "digits.yaml"
    with pytest.raises(UserError, match=r"data YAML .* does not exist, got 'none.yaml'; accepted: .*a file in"):
        find_data("none.yaml", root)


def test_runs_are_numbered_as_yolov5_numbers_them(tmp_path):
    assert increment_path(tmp_path / "exp") == tmp_path / "exp"
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp2").mkdir()
    assert increment_path(tmp_path / "exp") == tmp_path / "exp3"
    assert increment_path(tmp_path / "exp", exist_ok=True) == tmp_path / "exp"


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="the folder can't be written"):
        make_folder(tmp_path / "file" / "run")
