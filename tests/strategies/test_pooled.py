"""Several measurements of one network: what they show together, and when that is not known."""

from __future__ import annotations

import pytest

from yolov5_nas.records.journal import TrialRecord
from yolov5_nas.strategies.pooled import is_noisy, pooled

RATIO = ["latency_ratio"]


def measured(ratio, error=0.01, number=0):
    """A record with a latency whose 95 % interval is +-`error`."""
    metrics = {"latency_ratio": ratio, "latency_error": error, "gflops": 0.7}
    return TrialRecord(number, {"a": 1}, "complete", metrics=metrics, conditions={"trusted": error <= 0.02})


def test_measurements_that_agree_give_their_mean_by_errors():
    found = pooled([measured(0.75, 0.01), measured(0.76, 0.02)], RATIO)
    assert found.metrics["latency_ratio"] == pytest.approx((0.75 * 4 + 0.76) / 5, abs=1e-4)
    assert found.metrics["latency_error"] < 0.01
    assert found.conditions["measurements"] == 2 and not is_noisy(found, RATIO)
    assert found.metrics["gflops"] == 0.7


def test_one_measurement_is_as_it_is():
    record = measured(0.75, 0.03)
    assert pooled([record], RATIO) is record and is_noisy(record, RATIO) and not is_noisy(record, ["gflops"])


def test_of_two_that_disagree_neither_is_believed_and_a_third_decides():
    wrong, right = measured(0.357, 0.012), measured(0.74, 0.01)  # however sure the wrong one is of itself
    assert is_noisy(pooled([wrong, right], RATIO), RATIO)
    assert pooled([wrong, right], RATIO).metrics["latency_error"] > 0.2
    found = pooled([wrong, right, measured(0.745, 0.03)], RATIO)
    assert found.metrics["latency_ratio"] == pytest.approx(0.74, abs=0.002) and not is_noisy(found, RATIO)
    assert is_noisy(pooled([wrong, right, wrong, right], RATIO), RATIO)


def test_several_noisy_measurements_that_agree_are_not_noisy_together():
    records = [measured(value, 0.036) for value in (0.73, 0.75, 0.74, 0.745)]
    assert is_noisy(pooled(records[:2], RATIO), RATIO) and not is_noisy(pooled(records, RATIO), RATIO)


def test_what_was_not_measured_or_failed_does_not_count():
    failed = TrialRecord(1, {"a": 1}, "failed", error={"reason": "latency", "message": "no driver"})
    unmeasured = TrialRecord(0, {"a": 1}, "complete", metrics={"gflops": 0.7})
    assert pooled([unmeasured, failed], RATIO) is unmeasured
    found = pooled([unmeasured, failed, measured(0.75, number=2)], RATIO)
    assert (found.metrics["latency_ratio"], found.number) == (0.75, 0)


def test_a_metric_of_a_hook_is_pooled_too():
    records = [TrialRecord(n, {"a": 1}, "complete", metrics={"energy": e}) for n, e in enumerate((5.0, 9.0, 5.02))]
    assert is_noisy(pooled(records[:2], ["energy"]), ["energy"])
    assert pooled(records, ["energy"]).metrics["energy"] == pytest.approx(5.01, abs=0.001)
