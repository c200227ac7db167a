"""Which form of the parent is a winner's rival; whole searches with rivals are in tests/run/test_replace.py."""

from __future__ import annotations

import pytest

from yolov5_nas.records.journal import TrialRecord
from yolov5_nas.results.rivals import doubtful, nearest


@pytest.mark.parametrize(
    ("costs", "wanted", "best"),
    [
        ((0.97, 0.77, 0.43), 0.80, 0.97),  # rather a dearer one
        ((0.97, 0.79, 0.43), 0.80, 0.79),  # as dear, as far as it can be measured
        ((0.97, 0.72, 0.43), 0.45, 0.43),  # the next dearer one costs far more
        ((0.60, 0.43), 0.80, 0.60),
        ((0.97, 0.90), 0.50, 0.90),
        ((0.72, 0.43, 0.44), 0.45, 0.43),  # which is larger than the one of 0.44
    ],
)
def test_a_rival_costs_what_the_winner_does_or_a_little_more(costs, wanted, best):
    assert costs[nearest(costs, wanted)] == best


def form(number, scale, ratio, error=0.01, **conditions):
    metrics = {"latency_ratio": ratio, "latency_error": error, "gflops": scale**2}
    conditions = {"trusted": error <= 0.02, **conditions}
    architecture = {"scale": scale, "imgsz": 64}
    return TrialRecord(number, architecture, "complete", metrics=metrics, conditions=conditions)


def test_forms_whose_latency_can_not_be_right_are_measured_again():
    """A false low one would leave out all that are smaller and, truly, cheaper."""
    zero = form(0, 1.0, 1.0)
    forms = [form(1, 0.9, 0.93), form(2, 0.8, 0.35), form(3, 0.7, 0.75), form(4, 0.6, 0.66, error=0.04)]
    assert {r.number for r in doubtful(forms, zero, "latency_ratio")} == {2, 3, 4}
    settled = [forms[0], form(2, 0.8, 0.84, measurements=2), forms[2], form(4, 0.6, 0.66, error=0.015)]
    assert doubtful(settled, zero, "latency_ratio") == []
    slower = [form(1, 0.9, 0.8, measurements=2), form(2, 0.8, 0.9, measurements=3)]  # as it is, on this runtime
    assert doubtful(slower, zero, "latency_ratio") == []
