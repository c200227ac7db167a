"""Runs that the version before wrote (`old_runs`) are resumed, reported, proved and exported."""

import shutil
from pathlib import Path

import pytest
import yaml
from inline import inline
from old_runs import copied

from yolov5_nas.cli import main
from yolov5_nas.host.locate import PACKAGE
from yolov5_nas.records.journal import TrialResult, read_journal


@pytest.fixture
def old(host, digits_yaml, tmp_path):
    """Copies a run to where its files are as they were."""
    return lambda name: copied(name, host, digits_yaml, tmp_path)


def call(*words):
    with inline():
        return main([*map(str, words)])


def test_one_that_was_finished(old, host, capsys):
    run = old("finished")
    before, audited = read_journal(run), read_journal(run / "audit")
    proved = (run / "prove/trials.jsonl").read_bytes()
    assert call("report", run) == 0
    assert "Is the gain real?" in (run / "report.html").read_text()
    assert call("export", run, "--trial", 1) == 0
    built = host.build(yaml.safe_load((run / "export/1/model.yaml").read_text()))
    assert sum(p.numel() for p in built.parameters()) == before[1].metrics["params"]
    assert (run / "export/1/weights/best.pt").exists()
    capsys.readouterr()
    assert call("prove", run, "--top", 1, "--seeds", 2, "--epochs", 1) == 0
    out = capsys.readouterr().out
    assert "trial 2 against stock: mAP50-95" in out and "another architecture" not in out
    assert (run / "prove/trials.jsonl").read_bytes().startswith(proved)
    records = read_journal(run / "prove")
    assert [r.seed for r in records] == [0, 0, 0, 1, 1, 1]
    assert [r.id for r in records[:3]] == [r.id for r in records[3:]]
    assert call("search", "--resume", run, "--trials", 4, "--audit", 2) == 0
    after = read_journal(run)
    assert after[:3] == before and (after[3].state, after[3].parent) == ("complete", 0)
    assert "tensors from" in (run / "trials/3/log.txt").read_text()  # of the base that the version before trained
    assert read_journal(run / "audit")[: len(audited)] == audited


def test_one_that_was_cut_off_in_a_trial(old, capsys):
    run = old("cut")
    lines = (run / "trials.jsonl").read_bytes()
    assert call("search", "--resume", run) == 0
    assert "another architecture" not in capsys.readouterr().out
    assert (run / "trials.jsonl").read_bytes().startswith(lines)
    records = read_journal(run)
    assert [(r.state, r.attempt) for r in records] == [("complete", n) for n in (1, 2, 1, 1)]
    assert records[2].budget == {"epochs": 1, "weights": None}
    assert call("export", run) == 0 and call("report", run) == 0


def test_a_new_proof_of_it_starts_from_its_weights(old, capsys, monkeypatch):
    run = old("finished")
    costs = lambda a, s: TrialResult({"latency_ratio": float(s.model["width_multiple"])})  # noqa: E731
    monkeypatch.setattr("yolov5_nas.run.prove.measure_architecture", costs)
    shutil.rmtree(run / "prove")
    assert call("prove", run, "--top", 1, "--seeds", 1, "--epochs", 1) == 0
    out = capsys.readouterr().out
    assert "Nothing can be said of seeds yet" in out and "from the weights that the search started from" in out
    records = read_journal(run / "prove")
    assert {Path(r.budget["weights"]).name for r in records} == {"weights.pt"} and len(records) == 3
    assert "width_multiple" in records[1].architecture
    started = [(run / f"prove/trials/{number}/log.txt").read_text() for number in range(3)]
    words = ("exactly", "sliced to another form", "refitted")  # stock, stock rescaled, the candidate
    assert all(f"{run}/trials/0/weights.pt" in log and word in log for log, word in zip(started, words))
    assert call("prove", run, "--top", 1, "--seeds", 1, "--epochs", 1, "--from", "scratch") == 2
    assert "from weights with a margin" in capsys.readouterr().err


def test_it_is_measured_again_on_a_device_without_its_data(old, host, capsys):
    run = old("finished")
    options = yaml.safe_load((run / "search.yaml").read_text())
    options |= {"data": "/gone/my.yaml", "yolov5": "/gone/yolov5", "subset": 0.5}
    (run / "search.yaml").write_text(yaml.safe_dump(options))
    assert call("report", run, "--remeasure") == 2
    assert "/gone/yolov5" in capsys.readouterr().err and not (run / "remeasured").exists()
    here = PACKAGE if host.location.kind == "package" else host.location.root
    assert call("report", run, "--remeasure", "--yolov5", here) == 0
    assert "Kendall's tau" in capsys.readouterr().out and (run / "remeasured/pytorch-cpu.jsonl").exists()
