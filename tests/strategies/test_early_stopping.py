"""Early stopping: the rules on curves made by hand, in the loop, in a real training and on every engine's way."""

import math
import pickle
from dataclasses import replace

import fake_trials
import pytest
from fake_trials import EPOCHS
from loops import SPACE, loop

from yolov5_nas.engines.contract import Job, Outcome, call_trial
from yolov5_nas.records.journal import Journal, TrialRecord, TrialResult
from yolov5_nas.records.reward import SoftReward, Target, accuracy, make_reward
from yolov5_nas.space.architecture import Architecture
from yolov5_nas.strategies.early_stopping import MIN_COMPLETE, Curves, best_so_far
from yolov5_nas.strategies.random_search import RandomSearch

SCORES = [0.1 + 0.05 * n for n in range(9)]


def curve(final, epochs=EPOCHS):
    return fake_trials.points(final)[:epochs]


def record(number, final, cost=1.0):
    metrics = {"map50_95": final, "map50": 0.9, "latency_ratio": cost}
    return TrialRecord(number, {"a": number}, "complete", final, metrics, curve(final))


def learnt(records, objectives=(), reward=accuracy):
    curves = Curves(reward, objectives)
    for r in records:
        curves.observe(r)
    return curves.pruner()


def test_nothing_is_pruned_while_little_is_known():
    assert learnt([record(n, 0.5) for n in range(MIN_COMPLETE - 1)]) is None
    assert learnt([record(n, 0.5) for n in range(MIN_COMPLETE)]) is not None


def test_the_median_rule_worked_out_by_hand():
    pruner = learnt([record(n, score) for n, score in enumerate(SCORES)])
    assert pruner.medians[5] == pytest.approx(0.15)
    assert pruner.why(curve(0.31, epochs=5), {}) is None
    assert pruner.why(curve(0.29, epochs=5), {}) == "its best reward up to epoch 5 is 0.1450, the median 0.1500"


def test_a_dip_does_not_count_since_the_best_so_far_does():
    pruner = learnt([record(n, score) for n, score in enumerate(SCORES)])
    dipped = (*curve(0.4, epochs=4), {"epoch": 5, "map50_95": 0.0, "map50": 0.0})
    assert best_so_far(dipped) == {"map50_95": pytest.approx(0.16), "map50": 0.9}
    assert pruner.why(dipped, {}) is None


def test_the_reward_weighs_the_cost_that_is_known_already():
    reward = SoftReward([Target("latency_ratio", 1.0)], -1.0)
    pruner = learnt([record(n, 0.3) for n in range(MIN_COMPLETE)], reward=reward)
    assert pruner.why(curve(0.5, epochs=5), {"latency_ratio": 1.5}) is None
    assert pruner.why(curve(0.5, epochs=5), {"latency_ratio": 2.0})


def test_with_several_objectives_an_optimistic_outlook_must_be_dominated():
    trained = ((0.5, 1.0), (0.4, 0.8), (0.3, 0.6), (0.3, 1.2), (0.2, 0.9), (0.1, 1.5), (0.1, 1.6), (0.1, 1.7))
    known = [record(n, score, cost) for n, (score, cost) in enumerate(trained)]
    pruner = learnt(known, ("map50_95", "latency_ratio"))
    assert [point["latency_ratio"] for point in pruner.front] == [1.0, 0.8, 0.6]
    assert pruner.rises["map50_95"][5] == pytest.approx(0.2)  # of 0.25, 0.2, 0.15, 0.15, 0.1 and 0.05: the 0.9 quantile
    assert pruner.why(curve(0.3, epochs=5), {"latency_ratio": 0.7}) is None  # 0.15 + 0.2 is more than 0.3 at 0.6
    why = pruner.why(curve(0.3, epochs=5), {"latency_ratio": 0.9})
    assert why == "even an optimistic outlook at epoch 5 (map50_95 0.35, latency_ratio 0.9) is dominated"
    assert pruner.why(curve(0.1, epochs=5), {"latency_ratio": 0.5}) is None  # none is as cheap


def test_pruned_and_failed_trials_teach_nothing():
    curves = Curves(accuracy)
    for state in ("pruned", "failed", "infeasible", "started"):
        curves.observe(TrialRecord(0, {}, state, curve=curve(0.5)))
    assert curves.count == 0


def test_on_inherited_weights_the_lead_of_stock_ends_no_other():
    known = [record(0, 0.9, 0.5), *(record(n, 0.3, 1.0) for n in range(1, MIN_COMPLETE + 1))]
    for inherits, points in ((False, [0.9]), (True, [0.3])):
        curves = Curves(accuracy, ("map50_95", "latency_ratio"), inherits)
        for each in known:
            curves.observe(each)
        assert [point["map50_95"] for point in curves.pruner().front] == points


class Engine:
    """Calls trials as engines do, jobs pickled on the way."""

    slots = 1

    def __init__(self, folder):
        self.folder = folder

    def submit(self, job):
        self.job = pickle.loads(pickle.dumps(job))

    def wait(self, timeout=None):
        from yolov5_nas.engines.contract import Outcome

        return [
            Outcome(
                self.job.number, 1.0, call_trial(fake_trials.curved, self.job, fake_trials.Overridable(), self.folder)
            )
        ]


def search(folder, trials=30):
    made = loop(folder, trials=trials, strategy=RandomSearch(SPACE, 2))
    made.engine, made.curves = Engine(folder), Curves(made.reward)
    return made


def test_in_a_search_epochs_are_saved_and_the_best_is_found_all_the_same(tmp_path):
    made = search(tmp_path)
    made.run()
    records = list(made.journal.trials.values())
    pruned = [r for r in records if r.state == "pruned"]
    assert len(pruned) > 8
    assert all(r.reward is None and r.error["reason"] == "pruned" and r.metrics["map50_95"] > 0 for r in pruned)
    assert sum(len(r.curve) for r in records) < 0.75 * EPOCHS * len(records)
    best = max(records, key=lambda r: fake_trials.score(r.architecture))
    assert best.state == "complete"


@pytest.mark.parametrize("cut", [1, 20, 33, 44, 59])
def test_cut_off_and_resumed_the_same_trials_are_pruned_at_the_same_epochs(tmp_path, cut):
    (tmp_path / "whole").mkdir()
    (tmp_path / "part").mkdir()
    whole = search(tmp_path / "whole")
    whole.run()
    lines = whole.journal.path.read_text().splitlines(keepends=True)
    (tmp_path / "part" / "trials.jsonl").write_text("".join(lines[:cut]))
    search(tmp_path / "part").run()
    ended = [
        [(r.number, r.id, r.state, len(r.curve)) for r in Journal(tmp_path / name / "trials.jsonl").records if r.done]
        for name in ("whole", "part")
    ]
    assert ended[0] == ended[1]


@pytest.mark.parametrize("cut", [30, 41, 52])
def test_what_was_cut_off_gets_the_pruner_again_that_it_had(tmp_path, cut):
    made = search(tmp_path)
    given = {}
    submit = made.engine.submit
    made.engine.submit = lambda job: (given.update({job.number: job.overrides.get("pruner")}), submit(job))
    made.run()
    records = made.journal.records
    number = next(r.number for r in records[cut:] if not r.done)
    (tmp_path / "part").mkdir()
    journal = Journal(tmp_path / "part/trials.jsonl")
    for r in records[: cut + 12]:
        if not (r.number == number and r.done):  # others have ended while it ran
            journal.append(r)
    again = search(tmp_path / "part")
    jobs = []
    submit_again = again.engine.submit
    again.engine.submit = lambda job: (jobs.append(job), submit_again(job))
    again.run()
    assert jobs[0].number == number
    assert jobs[0].overrides["pruner"] == given[number]


def test_the_first_trial_is_never_pruned(tmp_path):
    made = search(tmp_path)
    for r in [TrialRecord(0, {"a": 0}, "started"), *(record(n, 0.3) for n in range(1, MIN_COMPLETE + 1))]:
        made.journal.append(r)
    made.strategy = RandomSearch(SPACE, 2)
    jobs = []
    made.engine.submit = lambda job: jobs.append(job)
    made.engine.wait = lambda timeout: made.__dict__.update(ending="enough") or [Outcome(0, 1.0, TrialResult({}))]
    made.trials = MIN_COMPLETE + 1
    made.run()
    assert [(job.number, job.overrides) for job in jobs] == [(0, {})]


def test_a_reward_that_fails_at_the_start_of_a_curve_prunes_by_what_it_has():
    def reward(metrics):
        return math.log(metrics["map50_95"])

    low = (({"epoch": 1, "map50_95": 0.0}), *curve(0.3)[1:])
    pruner = learnt([replace(record(n, 0.3), curve=low) for n in range(MIN_COMPLETE)], reward=reward)
    assert 1 not in pruner.medians and 5 in pruner.medians
    assert pruner.why(low[:1], {}) is None
    assert pruner.why(curve(0.2, epochs=5), {}) is not None


def test_a_reward_of_the_users_own_travels_with_its_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("def f(metrics):\n    return metrics['map50_95'] * 2\n")
    pruner = learnt([record(n, 0.3) for n in range(MIN_COMPLETE)], reward=make_reward("own.py:f"))
    job = pickle.dumps(Job(0, Architecture({"a": 1}), 0, {"pruner": pruner}))
    (tmp_path / "own.py").unlink()  # another machine has no such file
    again = pickle.loads(job).overrides["pruner"]
    assert again.medians == pruner.medians
    assert again.why(curve(0.1, epochs=5), {}) == "its best reward up to epoch 5 is 0.1000, the median 0.3000"
