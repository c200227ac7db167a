"""The loop, on an engine that runs trials in this process."""

from dataclasses import replace

import fake_trials
import pytest
from loops import REWARD, SPACE, InlineEngine, loop

from yolov5_nas.engines.contract import Outcome
from yolov5_nas.errors import TrialError
from yolov5_nas.records.journal import Journal, TrialRecord, TrialResult, best, front
from yolov5_nas.records.reward import Constraint, broken
from yolov5_nas.records.run_folder import RunFolder
from yolov5_nas.run.callbacks import Progress
from yolov5_nas.run.loop import judge, replay
from yolov5_nas.space.architecture import Architecture
from yolov5_nas.space.space import Space
from yolov5_nas.strategies.evolution import Evolution
from yolov5_nas.strategies.named import make_strategy
from yolov5_nas.strategies.random_search import RandomSearch


@pytest.fixture(autouse=True)
def no_sleep(monkeypatch):
    monkeypatch.setattr(fake_trials.time, "sleep", lambda _: None)


def ids(journal):
    return [r.id for _, r in sorted(journal.trials.items())]


def test_every_trial_starts_and_ends_in_the_journal(tmp_path):
    search = loop(tmp_path)
    assert search.run() == "all 12 trials are done"
    assert [(r.number, r.state) for r in search.journal.records[:4]] == [
        (0, "started"),
        (0, "complete"),
        (1, "started"),
        (1, "complete"),
    ]
    assert len(search.journal.records) == 24
    record = search.journal.trials[5]
    assert record.reward == record.metrics["map50_95"] == fake_trials.score(record.architecture)


@pytest.mark.parametrize("name", ["additive", "evolution", "tpe", "nsga2"])
@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("cut", [0, 1, 2, 7, 8, 15, 23])
def test_a_search_cut_off_at_any_line_goes_on_as_if_it_had_not_been(tmp_path, name, slots, cut):
    whole = loop(tmp_path / "whole", slots=slots, strategy=make_strategy(name, SPACE, 1, 4))
    whole.journal.path.parent.mkdir()
    whole.run()
    lines = whole.journal.path.read_text().splitlines(keepends=True)
    part = tmp_path / "part" / "trials.jsonl"
    part.parent.mkdir()
    part.write_text("".join(lines[:cut]))
    again = loop(tmp_path / "part", slots=slots, strategy=make_strategy(name, SPACE, 1, 4))
    again.run()
    kept = [r for r in again.journal.records if r.done]
    assert len(kept) == len({r.number for r in kept}) == 12  # none lost, none twice
    if slots == 1:
        assert ids(again.journal) == ids(whole.journal)
    attempts = {r.number: r.attempt for r in again.journal.records}
    cut_off = {r.number for r in whole.journal.records[:cut]} - {
        r.number for r in whole.journal.records[:cut] if r.done
    }
    assert {number for number, attempt in attempts.items() if attempt == 2} == cut_off


def test_a_resumed_search_may_do_more_trials(tmp_path):
    loop(tmp_path, trials=3).run()
    search = loop(tmp_path, trials=5)
    search.run()
    assert [r.attempt for r in search.journal.records] == [1] * 10


def test_replay_brings_a_strategy_to_the_same_next_proposal(tmp_path):
    search = loop(tmp_path, trials=10)
    search.run()
    fresh = Evolution(SPACE, seed=1, population=4, sample=2)
    assert replay(search.journal.records, fresh) == []
    assert fresh.ask() == search.strategy.ask()


def test_failed_trials_count_and_have_their_reason_and_no_reward(tmp_path):
    search = loop(tmp_path, trials=4, trial=fake_trials.out_of_memory)
    search.run()
    records = list(search.journal.trials.values())
    assert [r.state for r in records] == ["failed"] * 4
    assert {r.reward for r in records} == {None}
    assert records[0].error == {"reason": "oom", "message": "no memory at half the batch"}


def test_it_ends_when_the_space_is_exhausted(tmp_path):
    tiny = Space.from_dict(
        {
            "nc": 1,
            "depth_multiple": 1.0,
            "width_multiple": 1.0,
            "anchors": 3,
            "backbone": [[-1, 1, "NASConv", [16, 3, 2, {"kernel": [3, 5], "act": ["SiLU"]}]]],
            "head": [[[0], 1, "Detect", ["nc", "anchors"]]],
        }
    )
    search = loop(tmp_path, trials=9, strategy=RandomSearch(tiny))
    assert search.run() == "no new architecture in 1000 tries: the space has 2, 2 were proposed"
    assert len(search.journal.trials) == 2


def test_no_trial_starts_that_would_not_end_in_time(tmp_path):
    search = loop(tmp_path, trials=9, hours=0.5 / 3600)  # a trial takes 1 s by the engine's account
    assert search.run() == "0.000138889 hours are over"
    assert len(search.journal.trials) == 1


def test_a_search_whose_trials_are_done_is_not_out_of_time(tmp_path):
    search = loop(tmp_path, trials=1, hours=0.5 / 3600)  # for another there would be no time
    assert (search.run(), search.is_out_of_time) == ("all 1 trials are done", False)


def test_listeners_hear_of_every_trial_after_it_is_in_the_journal(tmp_path):
    heard = []
    search = loop(tmp_path, trials=3)
    search.listeners = [lambda record: heard.append(search.journal.trials[record.number] == record)]
    search.run()
    assert heard == [True] * 3


LIMIT = Constraint("params", 0.5)


def refusing(architecture, settings, seed, folder):
    """Refuses about half of the architectures, as a trial with a constraint does; not the default one."""
    params = fake_trials.score(architecture)
    why = broken([LIMIT], {"params": params})
    if why and Architecture(architecture) != SPACE.default():
        return TrialResult({"params": params}, state="infeasible", why=why)
    return TrialResult({"map50_95": params, "latency_ratio": 1.0, "params": params}, why=why)


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("name", ["additive", "evolution", "random", "tpe", "nsga2"])
def test_what_a_constraint_refuses_is_recorded_and_does_not_count(tmp_path, name, slots):
    strategy = make_strategy(name, SPACE, 3, 4, ("map50_95", "params") if name == "nsga2" else (), [LIMIT])
    search = loop(tmp_path, trials=12, trial=refusing, slots=slots, strategy=strategy)
    assert search.run() == "all 12 trials are done"
    records = list(search.journal.trials.values())
    refused = [r for r in records if r.state == "infeasible"]
    assert sum(r.state == "complete" for r in records) == 12
    assert refused
    assert len({r.id for r in records}) == len(records)
    for record in refused:
        assert record.reward is None
        assert record.metrics["params"] > 0.5
        assert record.error["reason"] == "constraint"
        assert record.error["message"].endswith("which breaks params<=0.5")


def test_the_default_architecture_is_trained_though_it_breaks_a_constraint_but_does_not_win(tmp_path):
    def breaking(architecture, *_):
        default = Architecture(architecture) == SPACE.default()
        metrics = {"map50_95": 0.9 if default else 0.1, "latency_ratio": 1.0}
        return TrialResult(metrics, why="latency_ratio is 1, which breaks latency_ratio<=0.9" if default else None)

    search = loop(tmp_path, trials=3, trial=breaking)
    search.run()
    records = list(search.journal.trials.values())
    assert [r.state for r in records] == ["complete"] * 3
    assert records[0].error["reason"] == "constraint"
    assert best(records).number == 1
    assert front(records, "latency_ratio", "map50_95") == [records[1]]


def test_it_gives_up_when_every_architecture_breaks_a_constraint(tmp_path):
    def refuse(*_):
        return TrialResult({"params": 1.0}, state="infeasible", why="params is 1, which breaks params<=0")

    search = loop(tmp_path, trial=refuse)
    assert search.run() == "the last 100 architectures all broke a constraint"


def judged(metrics, reward=REWARD):
    return judge(TrialRecord(0, {}, "started"), Outcome(0, 1.0, result=TrialResult(metrics)), reward)


def test_no_reward_is_made_up():
    assert judged({"map50_95": float("nan"), "latency_ratio": 1.0}).error == {
        "reason": "nan",
        "message": "map50_95 is nan",
    }
    missing = judged({"map50_95": 0.5})
    assert (missing.state, missing.reward) == ("failed", None)
    assert missing.error["message"] == "the reward needs latency_ratio, which was not measured"
    assert judged({"map50_95": 0.5}, lambda m: float("inf")).error["reason"] == "nan"
    assert "ZeroDivisionError" in judged({"map50_95": 0.5}, lambda m: 1 / 0).error["message"]


def test_metrics_are_plain_numbers_and_those_not_measured_absent():
    np = pytest.importorskip("numpy")
    record = judged({"map50_95": np.float32(0.5), "latency_ratio": 1, "gflops": None, "params": float("inf")})
    assert dict(record.metrics) == {"map50_95": 0.5, "latency_ratio": 1}
    assert type(record.metrics["map50_95"]) is float


class LosingEngine(InlineEngine):
    """Loses the first tries of some trials, as when their machine dies."""

    def __init__(self, *args, losses):
        super().__init__(*args)
        self.losses = dict(losses)

    def wait(self, timeout=None):
        number = self.jobs[-1].number
        if self.losses.get(number, 0) > 0:
            self.losses[number] -= 1
            self.jobs.pop()
            return [Outcome(number, 0.1, error={"reason": "killed", "message": "its machine is gone"}, lost=True)]
        return super().wait(timeout)


def test_a_lost_trial_is_started_again_once_with_the_attempt_in_the_journal(tmp_path):
    search = loop(tmp_path, trials=5, slots=2)
    search.engine = LosingEngine(fake_trials.noop, tmp_path, 2, losses={1: 1, 3: 2, 4: 1})  # 4 is the last one
    assert search.run() == "all 5 trials are done"
    trials = search.journal.trials
    assert {n: (r.state, r.attempt) for n, r in trials.items()} == {
        0: ("complete", 1),
        1: ("complete", 2),
        2: ("complete", 1),
        3: ("failed", 2),
        4: ("complete", 2),
    }
    assert trials[3].error == {"reason": "killed", "message": "its machine is gone"}
    started = [(r.number, r.attempt) for r in search.journal.records if not r.done]
    assert sorted(started) == [(0, 1), (1, 1), (1, 2), (2, 1), (3, 1), (3, 2), (4, 1), (4, 2)]
    fresh = Evolution(SPACE, seed=1, population=4, sample=2)
    (again,) = replay(search.journal.records, fresh)  # a resume tries once more
    assert (again.number, again.state, again.attempt) == (3, "started", 3)
    assert fresh.ask() == search.strategy.ask()


def killed_at(*starts):
    """A trial that is killed at some of all starts, counted from 0."""
    count = iter(range(99))

    def trial(architecture, settings, seed, folder):
        if next(count) in starts:
            raise TrialError("killed", "the process ended with exit code -9")
        return fake_trials.quick(architecture, settings, seed, folder)

    return trial


def test_a_trial_that_is_killed_from_outside_is_repeated_once_in_the_same_search(tmp_path):
    search = loop(tmp_path, trials=4, trial=killed_at(0, 3, 4), reference="stock YOLOv5")
    assert search.run() == "all 4 trials are done"
    assert [(r.number, r.state, r.attempt) for r in search.journal.records] == [
        *((0, "started", 1), (0, "started", 2), (0, "complete", 2), (1, "started", 1), (1, "complete", 1)),
        *((2, "started", 1), (2, "started", 2), (2, "failed", 2), (3, "started", 1), (3, "complete", 1)),
    ]


@pytest.mark.parametrize("cut", range(10))
def test_a_search_in_which_trials_were_killed_resumes_to_the_same(tmp_path, cut):
    whole = loop(tmp_path, trials=4, trial=killed_at(0, 3), reference="stock YOLOv5")
    whole.run()
    lines = whole.journal.path.read_text().splitlines(keepends=True)
    whole.journal.path.write_text("".join(lines[:cut]))
    again = loop(tmp_path, trials=4, reference="stock YOLOv5")
    assert again.run() == "all 4 trials are done"
    assert ids(again.journal) == ids(whole.journal)
    assert {r.state for r in again.journal.trials.values()} == {"complete"}


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("trial", [fake_trials.out_of_memory, killed_at(*range(99))])
def test_where_the_reference_fails_for_good_nothing_else_is_trained(tmp_path, slots, trial):
    search = loop(tmp_path, trials=4, trial=trial, slots=slots, reference="stock YOLOv5")
    search.engine.jobs = FirstFirst()
    ending = search.run()
    assert ending.startswith("trial 0, stock YOLOv5, has failed (") and ending.count("\n") == 0
    assert ending.endswith("), and all others are compared with it: nothing else is trained")
    ended = {r.number for r in search.journal.records if r.done}
    assert (ended, len(search.journal.trials)) == ({0}, slots) and search.has_no_reference
    again = loop(tmp_path, trials=4, reference="stock YOLOv5")
    reason = search.journal.trials[0].error["reason"]
    assert again.run() == ("all 4 trials are done" if reason == "killed" else ending)


class FirstFirst(list):
    """Jobs of which the trial with the smallest number ends first."""

    def pop(self):
        self.sort(key=lambda job: job.number)
        return super().pop(0)


def test_progress_is_never_above_the_number_of_trials(tmp_path, capsys):
    """A killed trial that a resume starts again was counted twice."""
    journal = Journal(tmp_path / "trials.jsonl")
    start = [TrialRecord(n, {"a": n}, "started") for n in range(4)]
    for record in start:
        journal.append(record)
        error = None if record.number else {"reason": "killed", "message": "the process ended with exit code -9"}
        state = {"state": "failed", "error": error} if error else {"state": "complete", "reward": 0.5, "seconds": 1.0}
        journal.append(replace(record, **state))
    with Progress(4, journal) as progress:
        record = replace(start[0].again(), state="complete", reward=0.6, seconds=1.0)
        journal.append(record)
        progress(record)
    assert capsys.readouterr().out.startswith("[4/4] trial 0")


# Whose weights a trial starts from ------------------------------------------------------------------------------------


def inheriting(folder, **kwargs):
    return loop(folder, trials=8, strategy=RandomSearch(SPACE, seed=1), has_base=True, **kwargs)


def test_nothing_starts_before_the_base_is_there_and_then_all_start_from_it(tmp_path):
    search = inheriting(tmp_path, slots=3)
    search.run()
    assert [(r.number, r.state) for r in search.journal.records[:5]] == [
        *((0, "started"), (0, "complete")),
        *((1, "started"), (2, "started"), (3, "started")),
    ]
    assert [r.parent for _, r in sorted(search.journal.trials.items())] == [None] + [0] * 7
    assert '"parent":0' in search.journal.path.read_text().splitlines()[-1]


def test_a_resume_repeats_the_parent_that_the_journal_has(tmp_path):
    search = inheriting(tmp_path)
    search.run()
    path = search.journal.path
    cut = path.read_text().splitlines()[:-1]  # killed in the last trial
    assert search.journal.trials[7].parent == 0
    path.write_text("\n".join(cut) + "\n")
    seen = []
    again = inheriting(tmp_path)
    submit = again.engine.submit
    again.engine.submit = lambda job: (seen.append(job), submit(job))
    again.run()
    weights = str(RunFolder(tmp_path).trial(0).path / "weights.pt")
    assert [(job.number, job.overrides) for job in seen] == [(7, {"weights": weights, "base_epochs": None})]
    assert (again.journal.trials[7].parent, again.journal.trials[7].attempt) == (0, 2)


def test_killed_in_the_base_it_starts_again_and_failed_it_ends_the_search(tmp_path):
    Journal(tmp_path / "trials.jsonl").append(TrialRecord(0, dict(SPACE.default()), "started"))
    search = inheriting(tmp_path, trial=fake_trials.out_of_memory)
    expected = "trial 0 has failed (no memory at half the batch), and all others start from its weights"
    expected += ": nothing else is trained"
    assert search.run() == expected
    assert [(r.number, r.state, r.attempt) for r in search.journal.records] == [
        *((0, "started", 1), (0, "started", 2), (0, "failed", 2)),
    ]
    assert inheriting(tmp_path).run() == expected
