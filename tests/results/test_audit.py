"""The audit of a search's proxy: who is trained in full, what the comparison says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from yolov5_nas.errors import UserError
from yolov5_nas.records.journal import Journal, TrialRecord
from yolov5_nas.records.options import Options
from yolov5_nas.results import audit

INHERITED = Options(base_epochs=36, epochs=3)
ONE_SHOT = Options(one_shot=50)
PRUNED = Options(prune=True, epochs=3)


def record(number, score, gflops=0.0, state="complete", curve=()):
    metrics = {"map50_95": score, "gflops": gflops}
    points = tuple({"epoch": e, "map50_95": value} for e, value in enumerate(curve, 1))
    reward = score if state == "complete" else None
    return TrialRecord(number, {"a": number}, state, reward, metrics, points)


def write(folder, records):
    folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder / "trials.jsonl")
    for each in records:
        journal.append(each)


def full(run, scores):
    """Write full trainings, by the number that the architecture has in the search."""
    records = [TrialRecord(i, {"a": n}, "complete", s, {"map50_95": s}) for i, (n, s) in enumerate(scores.items())]
    write(run / "audit", records)


def test_a_random_draw_of_the_scored_is_trained_in_full_but_not_the_base(tmp_path):
    write(tmp_path, [record(0, 0.5), record(1, 0.4, state="failed"), *(record(n, 0.1) for n in range(2, 30))])
    drawn = [a["a"] for a in audit.sample(tmp_path, INHERITED)]
    assert len(set(drawn)) == 5 and set(drawn) < set(range(2, 30)) and drawn != [2, 3, 4, 5, 6]
    assert [a["a"] for a in audit.sample(tmp_path, INHERITED)] == drawn
    assert [a["a"] for a in audit.sample(tmp_path, replace(INHERITED, seed=1))] != drawn
    assert INHERITED.full_epochs == 36


def test_a_larger_draw_begins_with_what_was_trained_already(tmp_path):
    write(tmp_path, [record(0, 0.5), *(record(n, 0.1) for n in range(1, 30))])
    full(tmp_path, {9: 0.3, 4: 0.2})
    drawn = [a["a"] for a in audit.sample(tmp_path, replace(INHERITED, audit=8))]
    assert drawn[:2] == [9, 4] and len(set(drawn)) == 8


def test_a_draw_that_was_cut_off_goes_on_as_it_would_have(tmp_path):
    write(tmp_path, [record(0, 0.5), *(record(n, 0.1) for n in range(1, 30))])
    whole = audit.sample(tmp_path, INHERITED)
    full(tmp_path, {a["a"]: 0.3 for a in whole[:2]})
    assert audit.sample(tmp_path, INHERITED) == whole


def test_stock_leads_on_inherited_weights():
    assert INHERITED.inherits and not ONE_SHOT.inherits


def test_scores_of_trials_that_were_also_ended_early_compare_with_no_others(tmp_path):
    both = replace(INHERITED, prune=True)
    write(tmp_path, [record(0, 0.5), record(1, 0.1, state="pruned", curve=(0.1,)), record(2, 0.4), record(3, 0.3)])
    assert sorted(a["a"] for a in audit.sample(tmp_path, both)) == [2, 3]


def test_early_stopping_that_ended_none_tells_nothing(tmp_path):
    write(tmp_path, [record(n, 0.1 * n, curve=(0.1, 0.1 * n)) for n in range(6)])
    assert audit.read(tmp_path, PRUNED) is None


def test_equal_results_of_full_training_tell_nothing(tmp_path):
    write(tmp_path, [record(0, 0.5), *(record(n, 0.1 * n, n) for n in range(1, 7))])
    full(tmp_path, dict.fromkeys(range(1, 7), 0.0))
    found = audit.read(tmp_path, INHERITED)
    assert not found.loses
    assert "all are equal, so nothing can be said" in audit.verdict(found)


def test_of_one_shot_they_are_those_that_the_supernet_scored(tmp_path):
    write(tmp_path, [record(0, 0.5), record(1, 0.4)])
    assert audit.sample(tmp_path, ONE_SHOT) == []
    write(tmp_path / "scores", [record(0, 0.5), record(7, 0.4)])
    assert [a["a"] for a in audit.sample(tmp_path, ONE_SHOT)] == [7]
    assert ONE_SHOT.full_epochs == 36  # three times a trial's twelve
    assert Options(weights="w.pt", epochs=3).full_epochs == 24  # nine are no full training
    assert Options(weights="w.pt", epochs=3, base_epochs=5).full_epochs == 24  # nor are five that started from weights


def test_of_early_stopping_they_are_those_that_it_ended(tmp_path):
    ended = [record(n, 0.1, state="pruned", curve=(0.1,)) for n in (2, 4)]
    write(tmp_path, sorted([*ended, *(record(n, 0.3, curve=(0.2, 0.3)) for n in (0, 1, 3))], key=lambda r: r.number))
    assert [a["a"] for a in audit.sample(tmp_path, PRUNED)] == [2, 4]
    full(tmp_path, {2: 0.25, 4: 0.35})
    found = audit.read(tmp_path, PRUNED)
    assert found.truths == (0.3, 0.25, 0.3, 0.35)  # what was not ended was trained in full already
    assert found.scores == (0.2, 0.1, 0.2, 0.1)  # where the others were when it ended these


@pytest.mark.parametrize(
    ("scores", "gflops", "loses", "words"),
    [
        ((0.1, 0.2, 0.3, 0.4, 0.5, 0.6), (1, 3, 2, 4, 6, 5), False, "better than GFLOPs and better than chance"),
        ((0.2, 0.1, 0.4, 0.3, 0.6, 0.5), (6, 5, 4, 3, 2, 1), False, "its interval holds 0"),
        ((0.1, 0.2, 0.3, 0.4, 0.5, 0.6), (1, 2, 3, 4, 5, 6), True, "loses to GFLOPs"),
        ((0.6, 0.5, 0.4, 0.3, 0.2, 0.1), (1, 2, 3, 4, 6, 5), True, "loses to GFLOPs"),
    ],
)
def test_a_proxy_must_rank_better_than_gflops(tmp_path, scores, gflops, loses, words):
    write(tmp_path, [record(0, 0.5), *(record(n, s, g) for n, (s, g) in enumerate(zip(scores, gflops), 1))])
    full(tmp_path, {n: n / 10 for n in range(1, 7)})
    found = audit.read(tmp_path, INHERITED)
    assert found.loses == loses
    assert words in audit.verdict(found)
    assert audit.verdict(found).startswith("A training of 3 epochs on inherited weights against full training of 36")
    ((_, html),) = audit.sections(tmp_path, INHERITED)
    assert words in html


def test_who_has_weights_trains_in_full_from_them(tmp_path):
    own = replace(INHERITED, weights="best.pt", base_epochs=None)
    write(tmp_path, [record(0, 0.5), *(record(n, n / 10, n) for n in range(1, 4))])
    assert audit.is_from_weights(tmp_path, own) and not audit.is_from_weights(tmp_path, INHERITED)
    full(tmp_path, {1: 0.1, 2: 0.2, 3: 0.3})  # as earlier versions began it
    assert not audit.is_from_weights(tmp_path, own)
    (tmp_path / "audit/trials.jsonl").unlink()
    budget = {"epochs": 36, "weights": "best.pt"}
    lines = [
        TrialRecord(i, {"a": i + 1}, "complete", s, {"map50_95": s}, budget=budget) for i, s in enumerate((0.1, 0.2))
    ]
    write(tmp_path / "audit", lines)
    assert audit.is_from_weights(tmp_path, own)
    assert "from the same weights, over 2 architectures" in audit.verdict(audit.read(tmp_path, own))


def test_nothing_is_said_of_fewer_than_two(tmp_path):
    write(tmp_path, [record(0, 0.5), record(1, 0.4)])
    full(tmp_path, {1: 0.4})
    assert audit.read(tmp_path, INHERITED) is None
    assert audit.sections(tmp_path, INHERITED) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"audit": 3}, "need a proxy to check"),
        ({"prune": True, "audit_epochs": 9}, "--audit-epochs is not for --prune alone"),
        ({"audit": -1, "prune": True}, "--audit must be at least 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        Options(**options)
