"""mAP by class, where the images of val lack some classes, or classes have equal names."""

import json
from dataclasses import replace

import pytest

from yolov5_nas.engines.contract import Job, Outcome, outcome_from_json, outcome_to_json
from yolov5_nas.files import shipped
from yolov5_nas.records.journal import TrialRecord, TrialResult
from yolov5_nas.records.reward import Target
from yolov5_nas.results.replacement import Winner, class_table, fallen
from yolov5_nas.space.model_yaml import read_model_yaml
from yolov5_nas.training.replacement import validate_parent

LACKING = (3, 7)


@pytest.fixture(scope="module")
def lacking(small_settings, trained_n, digits, tmp_path_factory):
    """Settings whose val images have no labels of two classes, and two classes of one name."""
    folder, names = tmp_path_factory.mktemp("lacking"), {i: "digit" if i < 2 else str(i) for i in range(10)}
    images = []
    for label in sorted((digits / "labels/val").glob("*.txt")):
        if not {int(line.split()[0]) for line in label.read_text().splitlines()} & set(LACKING):
            images += (digits / "images/val").glob(f"{label.stem}.*")
    (folder / "val.txt").write_text("".join(f"{image}\n" for image in images[:24]))
    data = {**small_settings.data, "val": str(folder / "val.txt"), "names": names}
    model, _ = read_model_yaml(shipped("models") / "yolov5n_elastic.yaml")
    return replace(small_settings, model=model, data=data, weights=str(trained_n), replaces=True)


def test_a_class_without_labels_has_no_map_where_stock_gives_the_overall_one(lacking, host, tmp_path, monkeypatch):
    maps, run = [], host.modules["val"].run

    def heard(**kwargs):
        found = run(**kwargs)
        maps.append([float(x) for x in found[1]])
        return found

    monkeypatch.setattr(host.modules["val"], "run", heard)
    found = validate_parent(lacking.space.default(), lacking, 0, tmp_path, TrialResult({}))
    names, aps = zip(*found.classes)
    assert names == ("digit", "digit", *"23456789")
    assert [i for i, ap in enumerate(aps) if ap is None] == list(LACKING)
    [stock] = maps
    overall = found.metrics["map50_95"]
    assert [stock[i] for i in LACKING] == pytest.approx([overall, overall])
    own = [ap for ap in aps if ap is not None]
    assert own == [ap for i, ap in enumerate(stock) if i not in LACKING]
    assert sum(own) / len(own) == pytest.approx(overall)  # which is that of the others


def record(classes, number=0, overall=0.6):
    architecture = {"c3_4": 1.0 if number == 0 else 0.5}
    return TrialRecord(number, architecture, "complete", metrics={"map50_95": overall}, classes=classes)


def test_nothing_is_said_of_a_class_without_labels():
    parent = record((("cat", 0.9), ("cat", 0.3), ("dog", None)))
    other = record((("cat", 0.5), ("cat", 0.1), ("dog", 0.0)), number=1)
    assert [name for name, _ in fallen(other, parent)] == ["cat", "cat"]
    assert fallen(replace(other, classes=parent.classes), parent) == []
    assert fallen(record((("cat", 0.1), ("dog", 0.1)), number=1), parent) == []  # of other classes


@pytest.mark.parametrize("classes", [(("a", 0.25), ("a", None)), (("1", 0.5), ("0", 0.25)), ()])
def test_journals_and_engines_keep_classes_by_their_place(classes):
    assert TrialRecord.from_json(record(classes).to_json()).classes == classes
    job = Job(0, {"c3_4": 1.0}, 0)
    read = outcome_from_json(outcome_to_json(job, Outcome(0, 1.0, TrialResult({}, classes=classes))), job)
    assert read.result.classes == classes


def test_a_journal_that_was_kept_by_name_is_read_without_its_fillers():
    line = json.loads(record(()).to_json()) | {"classes": {"cat": 0.9, "dog": 0.6, "cow": 0.3}}
    assert TrialRecord.from_json(json.dumps(line)).classes == (("cat", 0.9), ("dog", None), ("cow", 0.3))
    unlearnt = line | {"metrics": {"map50_95": 0.0}, "classes": {"cat": 0.0, "dog": 0.0}}
    assert TrialRecord.from_json(json.dumps(unlearnt)).classes == (("cat", 0.0), ("dog", 0.0))


def test_the_table_of_classes_has_a_dash():
    parent = record((("cat", 0.9), ("cat", 0.3), ("dog", None)))
    other = record((("cat", 0.5), ("cat", None), ("dog", None)), number=1)
    table = class_table([Winner((Target("gflops", 0.5),), other)], parent)
    assert table == [
        ["class", "parent", "gflops=0.5"],
        ["cat", "0.900", "0.500 (-0.400)"],
        ["cat", "0.300", "-"],
        ["dog", "-", "-"],
    ]
