import json
import math
from dataclasses import replace

import pytest

from yolov5_nas.errors import UserError
from yolov5_nas.records.journal import Journal, TrialRecord, best, front, latest, read_journal

GOLDEN = (
    '{"version":1,"number":2,"id":"1a0a7559a3","architecture":{"c3_2":1.5,"nasconv_0":"k6p2"},"state":"complete",'
    '"reward":0.5,"metrics":{"map50_95":0.5,"latency_ratio":1.25},"curve":[{"epoch":1,"map50_95":0.5}],'
    '"seconds":3.5,"seed":7,"attempt":1,"error":null}'
)


def record(number, state="complete", reward=None, **metrics):
    return TrialRecord(number, {"c3_2": 1.0 + number}, state, reward=reward, metrics=metrics)


def test_a_line_of_version_1_is_read_and_written_as_one_of_version_2():
    read = TrialRecord.from_json(GOLDEN)
    assert read.to_json() == GOLDEN.replace('"version":1', '"version":2')
    budget = {"epochs": 12, "weights": "base.pt"}
    written = replace(read, budget=budget).to_json()
    assert written.endswith('"error":null,"budget":{"epochs":12,"weights":"base.pt"}}')
    assert TrialRecord.from_json(written).budget == budget


def test_what_a_proof_of_version_1_had_among_the_labels_is_no_choice():
    labels = '{"contestant":"trial 2","seed":3,"c3_2":1.5,"nasconv_0":"k6p2"}'
    read = TrialRecord.from_json(GOLDEN.replace('{"c3_2":1.5,"nasconv_0":"k6p2"}', labels))
    assert (read.id, read.seed) == ("1a0a7559a3", 3)


def test_appended_lines_are_read_back(tmp_path):
    journal = Journal(tmp_path / "trials.jsonl")
    records = [record(0, "started"), record(0, reward=0.1, map50_95=0.1), record(1, "started")]
    for r in records:
        journal.append(r)
    assert Journal(journal.path).records == records
    assert {n: r.state for n, r in latest(records).items()} == {0: "complete", 1: "started"}
    assert [r.state for r in read_journal(tmp_path)] == ["complete", "started"]


def test_a_line_torn_by_a_kill_is_dropped_and_the_next_is_whole(tmp_path):
    path = tmp_path / "trials.jsonl"
    path.write_text(GOLDEN + "\n" + GOLDEN[:40])
    journal = Journal(path)
    assert len(journal.records) == 1
    journal.append(record(3, reward=0.2))
    assert [json.loads(line)["number"] for line in path.read_text().splitlines()] == [2, 3]


def test_a_torn_line_is_passed_over_by_readers_without_a_change_to_the_file(tmp_path):
    path = tmp_path / "trials.jsonl"
    path.write_text(GOLDEN + "\n" + GOLDEN[:40])
    assert len(read_journal(tmp_path)) == 1
    assert path.read_text().endswith(GOLDEN[:40])


@pytest.mark.parametrize("line", ["{}", "[1]", "nonsense", '{"version": 2}', GOLDEN.replace("complete", "done")])
def test_a_bad_line_in_the_middle_is_an_error_with_its_place(tmp_path, line):
    path = tmp_path / "trials.jsonl"
    path.write_text(GOLDEN + "\n" + line + "\n" + GOLDEN + "\n")
    with pytest.raises(UserError, match=r"trials\.jsonl:2: the journal can't be read"):
        Journal(path)


def test_nan_never_reaches_the_file(tmp_path):
    with pytest.raises(ValueError):
        Journal(tmp_path / "trials.jsonl").append(record(0, reward=math.nan))
    assert not (tmp_path / "trials.jsonl").exists() or not (tmp_path / "trials.jsonl").read_text()


def test_best_is_the_highest_reward_and_of_equals_the_first():
    records = [record(0, reward=0.3), record(1, reward=0.5), record(2, reward=0.5), record(3, "failed")]
    assert best(records).number == 1
    assert best([record(0, "failed")]) is None


def test_front_holds_what_nothing_beats_at_less_cost():
    points = {0: (0.5, 1.0), 1: (0.4, 0.8), 2: (0.3, 0.9), 3: (0.5, 1.2), 4: (0.6, 2.0)}
    records = [record(n, reward=m, map50_95=m, gflops=c) for n, (m, c) in points.items()] + [record(5, reward=0.9)]
    assert [r.number for r in front(records, "gflops", "map50_95")] == [1, 0, 4]


def test_a_folder_without_a_journal_is_no_run(tmp_path):
    with pytest.raises(UserError, match="no journal"):
        read_journal(tmp_path)


def test_trials_are_kept_up_with_the_lines(tmp_path):
    journal = Journal(tmp_path / "trials.jsonl")
    for r in (record(0, "started"), record(1, "started"), record(0, reward=0.1)):
        journal.append(r)
        assert journal.trials == latest(journal.records) == Journal(journal.path).trials


def test_the_front_and_the_best_of_those_kept_so_far_are_those_of_all(tmp_path):
    from random import Random

    from yolov5_nas.results.export import keep_weights

    axes = ("map50_95", "latency_ratio")
    rng, kept, seen = Random(0), [], []
    for number in range(300):
        metrics = {"map50_95": rng.randint(0, 20) / 20, "latency_ratio": rng.randint(0, 20) / 10}
        seen.append(record(number, reward=rng.randint(0, 50) / 50, **metrics))
        kept = keep_weights(tmp_path, [*kept, seen[-1]], axes)
        assert front(kept, *axes) == front(seen, *axes)
        assert best(kept) == best(seen)
