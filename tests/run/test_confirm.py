"""Searches whose leading trials are trained once more."""

import random
import shutil
from contextlib import contextmanager
from dataclasses import replace

import inline as searches
import pytest
from inline import inline, untrained

from yolov5_nas.cli import main
from yolov5_nas.errors import TrialError
from yolov5_nas.records.journal import read_journal
from yolov5_nas.records.run_folder import RunFolder
from yolov5_nas.training import trial

FLAGS = ["--epochs", "1", "--subset", "0.05", "--imgsz", "64", "--device", "cpu", "--seed", "5"]


@contextmanager
def noise():
    """Trials that train nothing; what they find depends on the seed too."""

    def train(architecture, settings, seed, *rest):
        result = searches._no_training(architecture, settings, seed, *rest)
        shift = random.Random(f"{sorted(architecture.items())} {seed}").gauss(0, 0.2)
        return replace(result, metrics={**result.metrics, "map50_95": result.metrics["map50_95"] + shift})

    with inline(), untrained(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "_train", train)
        yield


@pytest.fixture
def noisy():
    with noise():
        yield


def search(*flags):
    return main(["search", *map(str, flags)])


def lines(run):
    return [(r.id, r.seed, r.state, r.metrics["map50_95"]) for r in read_journal(run)]


def test_leading_trials_and_the_reference_are_trained_with_the_next_seed(noisy, host, digits_yaml, tmp_path, capsys):
    run = tmp_path / "exp"
    assert search(*FLAGS, "--trials", 6, "--confirm", 2, "--data", digits_yaml, "--project", tmp_path) == 0
    said = capsys.readouterr().out
    records, again = read_journal(run), read_journal(RunFolder(run).confirmed.path)
    order = sorted(records[1:], key=lambda r: -r.reward)
    assert {r.id for r in again} == {records[0].id, *(r.id for r in order[:2])}
    assert {r.seed for r in records} == {5} and {r.seed for r in again} == {6}
    assert "expected" in said and "to be expected" in said
    assert "to be expected" in RunFolder(run).report.read_text()
    assert all(RunFolder(run).trial(r.number).weights.exists() for r in order[:2])
    assert not list(RunFolder(run).confirmed.trials.rglob("weights.pt"))
    assert (RunFolder(run).best / "weights/best.pt").exists()
    # More of them later: what was trained again is not trained once more.
    assert search("--resume", run, "--confirm", 3) == 0
    more = read_journal(RunFolder(run).confirmed.path)
    assert [r.id for r in more[:3]] == [r.id for r in again] and len(more) <= 4


@pytest.fixture(scope="module")
def whole(host, digits_yaml, tmp_path_factory):
    """The options of a search, and its folder."""
    project = tmp_path_factory.mktemp("whole")
    flags = [*FLAGS, "--trials", 4, "--confirm", 2, "--data", digits_yaml]
    with noise():
        assert search(*flags, "--project", project) == 0
    return flags, project / "exp"


@pytest.mark.parametrize("where", [("exp", 3), ("confirmed", 1)])
def test_a_search_that_is_interrupted_confirms_the_same(noisy, whole, tmp_path, where):
    flags, run = whole
    with inline({where}):
        assert search(*flags, "--project", tmp_path) == 130
    assert "expected" not in (tmp_path / "exp/report.html").read_text()
    assert search("--resume", tmp_path / "exp") == 0
    for folder in (".", "confirmed"):
        assert lines(tmp_path / "exp" / folder) == lines(run / folder)
    for file in ("best/architecture.json", "best/weights/best.pt"):
        assert (tmp_path / "exp" / file).exists()
    assert (tmp_path / "exp/best/architecture.json").read_text() == (run / "best/architecture.json").read_text()


def test_stock_keeps_its_weights_and_where_it_fails_nothing_is_confirmed(noisy, whole, tmp_path):
    flags, run = whole
    assert RunFolder(run).trial(0).weights.exists()
    own = trial._train

    def train(architecture, settings, seed, folder, *rest):
        if folder.name == "0" and folder.parents[1].name == "exp":
            raise TrialError("crash", "broken on purpose")
        return own(architecture, settings, seed, folder, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "_train", train)
        assert search(*flags, "--project", tmp_path) == 1
    assert not RunFolder(tmp_path / "exp").confirmed.journal.exists()


def test_without_the_option_the_report_is_as_ever(noisy, whole, tmp_path):
    run = RunFolder(shutil.copytree(whole[1], tmp_path / "exp"))
    assert search("--resume", run.path, "--confirm", 0) == 0
    number = max(read_journal(run.path), key=lambda r: r.reward).number
    assert "expected" not in run.report.read_text()
    assert f"Trial {number} of" in (run.best / "model.yaml").read_text()
