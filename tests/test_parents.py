from yolov5_nas.journal import TrialRecord
from yolov5_nas.parents import KEPT, base, candidates, nearest, needed


def record(number, a, b, reward=0.5, state="complete", **kwargs):
    return TrialRecord(number, {"a": a, "b": b}, state, reward=reward if state == "complete" else None, **kwargs)


def test_the_nearest_is_the_one_with_the_fewest_differing_labels_then_the_better_then_the_earlier():
    records = [record(0, 1, 1), record(1, 2, 1, 0.6), record(2, 2, 3, 0.7), record(3, 1, 3, 0.6), record(4, 9, 9, 0.9)]
    assert nearest({"a": 1, "b": 1}, records) == 0
    assert nearest({"a": 2, "b": 2}, records) == 2
    assert nearest({"a": 1, "b": 3}, records) == 3
    assert nearest({"a": 5, "b": 5}, records) == 4
    assert nearest({"a": 3, "b": 1}, [record(0, 1, 1), record(1, 2, 1)]) == 0
    assert base({"a": 3, "b": 1}, records) == 0


def test_what_has_no_result_is_nobodys_parent():
    ended = [record(n, 2, 2, state=state) for n, state in enumerate(("failed", "infeasible", "started"), 1)]
    assert nearest({"a": 2, "b": 2}, [record(0, 1, 1), *ended]) == 0


def test_as_many_as_are_kept_may_become_parents_the_first_and_the_best():
    records = [record(n, n, 0, reward=n / 100) for n in range(KEPT + 8)]
    assert {r.number for r in candidates(records)} == {0, *range(9, KEPT + 8)}
    assert nearest({"a": 5, "b": 0}, records) != 5
    assert needed(records, nearest) == {0, *range(9, KEPT + 8)}
    assert needed(records, base) == {0}


def test_the_parents_of_what_still_runs_are_kept():
    records = [record(n, n, 0, reward=n / 100) for n in range(KEPT + 8)]
    assert 5 in needed([*records, record(99, 1, 1, state="started", parent=5)], nearest)
    assert 5 not in needed([*records, record(99, 1, 1, parent=5)], nearest)
