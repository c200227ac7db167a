"""Searches whose leading trials are trained once more."""

import random
from dataclasses import replace

import inline as searches
import pytest
from inline import inline, untrained

from yolov5_nas.cli import main
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
