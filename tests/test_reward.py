import pytest

from yolov5_nas.errors import UserError
from yolov5_nas.reward import SoftReward, Target


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
