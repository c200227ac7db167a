"""What is to be expected of a search's leading architectures, by second trainings."""

import random
import statistics
from dataclasses import replace

import pytest
from loops import SPACE

from yolov5_nas.records.journal import TrialRecord, best
from yolov5_nas.results.confirmed import Confirmed, leading
from yolov5_nas.results.export import keep_weights
from yolov5_nas.results.report import summary


def trial(number, reward, **choices):
    architecture = {**SPACE.default(), "c3_2": (1.0, 1.5, 2.0)[number % 3], "c3_6": number, **choices}
    return TrialRecord(number, architecture, "complete", reward, {"map50_95": reward})


def again(records, rewards, count):
    """What leads, trained once more: rewards by number."""
    by = {r.number: r for r in records}
    found = {
        by[n].id: replace(by[n], number=i, seed=1, reward=reward, metrics={"map50_95": reward})
        for i, (n, reward) in enumerate(rewards.items())
    }
    return Confirmed(tuple(records), found, tuple(r for r in leading(records, count) if r.id in found))


def first(rewards=(0.50, 0.56, 0.60, 0.52, 0.54, 0.50, 0.55, 0.53, 0.51)):
    return [trial(i, reward) for i, reward in enumerate(rewards)]


def test_the_winner_has_the_highest_mean_of_two_trainings():
    records = first()
    found = again(records, {0: 0.49, 2: 0.50, 1: 0.57}, 2)
    assert best(records).number == 2 and found.winner.number == 1
    assert found.expected(records[0]) == pytest.approx(0.495)  # the reference is no draw of the space
    middle = statistics.fmean(r.reward for r in records[1:])
    assert middle < found.expected(records[1]) < 0.565  # drawn to the mean of all
    assert found.expected(records[2]) < 0.55
    words = summary(records, again=found)
    assert "2 of the leading architectures were trained again" in words and "then 0.570" in words
    assert f"{found.expected(records[1]) - 0.495:+.3f} to be expected against the stock architecture" in words
    assert "Each was trained once" not in words and "Each was trained once" in summary(records)


def test_of_few_or_equal_trials_nothing_is_drawn():
    for rewards in ((0.55, 0.60), (0.5, 0.6, 0.6, 0.6)):
        records = first(rewards)
        found = again(records, {0: rewards[0], 1: 0.30}, 1)
        assert found.winner.number == 0 and found.expected(records[1]) == pytest.approx(0.45)


def test_a_trial_that_was_better_with_both_seeds_wins():
    records = first((0.50, 0.60, *[0.3] * 10))
    assert again(records, {0: 0.56, 1: 0.58}, 1).winner.number == 1


@pytest.mark.parametrize("penalty", [-1e16, -1e155, -1.7e308])
def test_penalties_of_any_size_do_no_harm(penalty):
    records = [*first(), *(replace(trial(n, penalty), metrics={"map50_95": 0.0}) for n in range(9, 12))]
    found = again(records, {0: 0.49, 2: 0.50, 1: 0.57}, 2)
    assert found.winner.number == 1 and 0.5 < found.expected(records[1]) < 0.57
    assert "to be expected" in summary(records, again=found)


def test_expectations_are_nearer_to_the_truth_than_the_highest_of_single_trainings():
    """The winner of 40, noise as large as half of the spread, of which the leading five are trained again."""
    claimed, shrunk = [], []
    for seed in range(200):
        rng = random.Random(seed)
        true = [rng.gauss(0.5, 0.04) for _ in range(40)]
        seen = [trial(i, t + rng.gauss(0, 0.02)) for i, t in enumerate(true)]
        numbers = [0, *(r.number for r in leading(seen, 5))]
        found = again(seen, {n: true[n] + rng.gauss(0, 0.02) for n in numbers}, 5)
        highest, winner = leading(seen, 1)[0], found.winner
        claimed.append(highest.reward - true[highest.number])
        shrunk.append(found.expected(winner) - true[winner.number])
    assert statistics.mean(claimed) > 0.012  # seen: 0.017
    assert abs(statistics.mean(shrunk)) < 0.004


def test_weights_of_what_leads_are_kept(tmp_path):
    records = first()[:5]
    assert {r.number for r in keep_weights(tmp_path, records, ("map50_95",), first=3)} == {1, 2, 4}
    assert {r.number for r in keep_weights(tmp_path, records, ("map50_95",))} == {2}
