import doctest

import pytest

from yolov5_nas.errors import UserError
from yolov5_nas.records import reward as module
from yolov5_nas.records.reward import Constraint, HardReward, SoftReward, Target, broken, make_reward


def test_at_the_target_the_reward_is_the_map():
    assert SoftReward([Target("gflops", 4.0)])({"map50_95": 0.37, "gflops": 4.0}) == 0.37


def test_worked_out_on_paper():
    # 2 ** -0.07 = exp(-0.07 * ln 2) = exp(-0.0485203) = 0.952638
    assert SoftReward([Target("latency_ratio", 0.9)])({"map50_95": 0.5, "latency_ratio": 1.8}) == pytest.approx(
        0.476319
    )
    assert SoftReward([Target("params", 2e6)], -1.0)({"map50_95": 0.5, "params": 4e6}) == pytest.approx(0.25)


def test_several_targets_multiply():
    reward = SoftReward([Target("gflops", 1.0), Target("params", 1.0)], -0.5)
    assert reward({"map50_95": 0.8, "gflops": 4.0, "params": 4.0}) == pytest.approx(0.8 * 0.5 * 0.5)


def test_no_target_is_accuracy_alone():
    assert SoftReward([])({"map50_95": 0.8}) == 0.8


def test_a_cost_that_was_not_measured_is_never_guessed():
    with pytest.raises(KeyError, match="latency_ms"):
        SoftReward([Target("latency_ms", 1.0)])({"map50_95": 0.8})


def test_parse():
    assert Target.parse("latency_ratio=0.9") == Target("latency_ratio", 0.9)
    assert str(Target.parse("params=2e6")) == "params=2e+06"


@pytest.mark.parametrize("text", ["latency_ratio", "latency_ratio=", "speed=1", "gflops=0", "gflops=-1", "gflops=nan"])
def test_bad_targets(text):
    with pytest.raises(UserError):
        Target.parse(text)


@pytest.mark.parametrize("exponent", [0.1, float("nan"), float("-inf")])
def test_bad_exponents(exponent):
    with pytest.raises(UserError, match="exponent"):
        SoftReward([], exponent)


def test_the_hard_reward_worked_out_on_paper():
    reward = HardReward([Target("latency_ratio", 0.8), Target("params", 2e6)])
    assert reward({"map50_95": 0.5, "latency_ratio": 0.7, "params": 1e6}) == 0.5  # both met: nothing to win
    assert reward({"map50_95": 0.5, "latency_ratio": 1.0, "params": 1e6}) == pytest.approx(0.5 * 0.8)
    assert reward({"map50_95": 0.5, "latency_ratio": 1.0, "params": 4e6}) == pytest.approx(0.5 * 0.8 * 0.5)


def test_rewards_by_name(tmp_path, monkeypatch):
    metrics = {"map50_95": 0.5, "latency_ratio": 2.0}
    targets = [Target("latency_ratio", 1.0)]
    assert make_reward("soft", targets)(metrics) == pytest.approx(0.5 * 2**-0.07)
    assert make_reward("hard", targets)(metrics) == 0.25
    assert make_reward("map", targets)(metrics) == 0.5
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_reward.py").write_text("def f(metrics):\n    return metrics['map50_95'] * 10\n")
    assert make_reward("my_reward.py:f")(metrics) == make_reward("my_reward:f")(metrics) == 5.0


def test_constraints():
    at_most, at_least = Constraint.parse("latency_ratio<=0.9"), Constraint.parse(" params >= 1e6 ")
    assert (str(at_most), str(at_least)) == ("latency_ratio<=0.9", "params>=1e+06")
    assert at_most.excess({"latency_ratio": 0.99}) == pytest.approx(0.1)
    assert at_most.excess({"latency_ratio": 0.9}) == 0
    assert at_least.excess({"params": 5e5}) == pytest.approx(0.5)
    assert broken([at_most, at_least], {"latency_ratio": 0.8, "params": 2e6}) is None
    assert broken([at_most, at_least], {"params": 2e6}) is None  # not measured yet
    assert broken([at_most], {"latency_ratio": 1.25}) == "latency_ratio is 1.25, which breaks latency_ratio<=0.9"
    with pytest.raises(KeyError):
        at_most.excess({})


@pytest.mark.parametrize("text", ["params", "params<1", "params<=", "params<=x", "params<=nan", "map50<=1", "a<=1", ""])
def test_bad_constraints(text):
    with pytest.raises(UserError):
        Constraint.parse(text)


def test_the_examples():
    assert doctest.testmod(module).failed == 0


def test_a_file_that_is_no_utf_8_is_one_line(tmp_path):
    (tmp_path / "own.py").write_bytes("# für\ndef reward(metrics):\n    return 1.0\n".encode("latin-1"))
    with pytest.raises(UserError, match="the reward's file can't be read"):
        make_reward(f"{tmp_path}/own.py:reward", [])
