"""Which form of the parent is a winner's rival; whole searches with rivals are in tests/run/test_replace.py."""

from __future__ import annotations

import pytest

from yolov5_nas.results.rivals import nearest


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
