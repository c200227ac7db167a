"""Searches whose leading trials are trained once more."""

import random
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


@pytest.fixture
def noisy():
    """Trials that train nothing; what they find depends on the seed too."""

    def train(architecture, settings, seed, *rest):
        result = searches._no_training(architecture, settings, seed, *rest)
        shift = random.Random(f"{sorted(architecture.items())} {seed}").gauss(0, 0.2)
        return replace(result, metrics={**result.metrics, "map50_95": result.metrics["map50_95"] + shift})

    with inline(), untrained(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "_train", train)
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


@pytest.mark.parametrize("where", [("exp", 3), ("confirmed", 0), ("confirmed", 2)])
def test_a_search_that_is_interrupted_confirms_the_same(noisy, host, digits_yaml, tmp_path, where):
    flags = [*FLAGS, "--trials", 5, "--confirm", 2, "--data", digits_yaml]
    assert search(*flags, "--project", tmp_path / "whole") == 0
    with inline({where}):
        assert search(*flags, "--project", tmp_path / "cut") == 130
    assert search("--resume", tmp_path / "cut/exp") == 0
    for folder in ("exp", "exp/confirmed"):
        assert lines(tmp_path / "cut" / folder) == lines(tmp_path / "whole" / folder)
    whole, cut = ((tmp_path / name / "exp/best/architecture.json").read_text() for name in ("whole", "cut"))
    assert whole == cut
    assert (tmp_path / "cut/exp/best/weights/best.pt").exists()


def test_stock_keeps_its_weights_and_a_trial_0_that_failed_is_left_out(noisy, host, digits_yaml, tmp_path):
    flags = [*FLAGS, "--trials", 4, "--confirm", 2, "--data", digits_yaml]
    assert search(*flags, "--project", tmp_path) == 0
    assert RunFolder(tmp_path / "exp").trial(0).weights.exists()
    own = trial._train

    def train(architecture, settings, seed, folder, *rest):
        if folder.name == "0" and folder.parents[1].name == "exp":
            raise TrialError("crash", "broken on purpose")
        return own(architecture, settings, seed, folder, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "_train", train)
        assert search(*flags, "--project", tmp_path / "failed") == 1
    run = tmp_path / "failed/exp"
    again = read_journal(RunFolder(run).confirmed.path)
    assert [r.state for r in again] == ["complete"] * 2 and "to be expected" in RunFolder(run).report.read_text()


def test_without_a_journal_of_its_own_or_cut_short_it_says_nothing(noisy, host, digits_yaml, tmp_path):
    flags = [*FLAGS, "--trials", 5, "--confirm", 2, "--data", digits_yaml, "--project", tmp_path]
    run = RunFolder(tmp_path / "exp")
    with inline({("confirmed", 1)}):
        assert search(*flags) == 130
    assert "expected" not in run.report.read_text()
    number = max(read_journal(run.path), key=lambda r: r.reward).number
    assert f"Trial {number} of" in (run.best / "model.yaml").read_text()
    assert search("--resume", run.path, "--confirm", 0) == 0
    assert "expected" not in run.report.read_text()
    assert search("--resume", run.path, "--confirm", 2) == 0
    assert "to be expected" in run.report.read_text()
