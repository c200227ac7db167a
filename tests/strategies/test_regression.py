"""What a linear model says of options, on numbers with known effects."""

import numpy as np
import pytest

from yolov5_nas.strategies.regression import fence, fit, posterior

LABELS, OPTIONS = 12, 3


def drawn(trials, noise, seed):
    """Features, numbers, and the effects behind them."""
    rng = np.random.default_rng(seed)
    x = np.concatenate([np.eye(OPTIONS)[rng.integers(0, OPTIONS, trials)] for _ in range(LABELS)], 1)
    effects = rng.normal(size=LABELS * OPTIONS)
    y = x @ effects
    return x, y + noise * y.std() * rng.normal(size=trials), effects


def differences():
    """(labels, columns): the second option of each label less its first."""
    rows = np.zeros((LABELS, LABELS * OPTIONS))
    rows[np.arange(LABELS), OPTIONS * np.arange(LABELS)] = -1
    rows[np.arange(LABELS), OPTIONS * np.arange(LABELS) + 1] = 1
    return rows


@pytest.mark.parametrize("trials, noise", [(20, 0.5), (40, 0.1), (40, 0.5), (40, 1.0), (200, 0.5)])
def test_intervals_hold_the_truth_about_as_often_as_they_say(trials, noise):
    held = []
    for seed in range(100):
        x, y, effects = drawn(trials, noise, seed)
        means, errors = fit(x, y).of(differences())
        held.append(np.mean(abs(means - differences() @ effects) < 1.96 * errors))
    assert 0.86 < np.mean(held) < 0.99  # seen: 0.89 to 0.97


def test_many_trials_find_the_effects():
    x, y, effects = drawn(400, 0.1, 0)
    means, _ = fit(x, y).of(differences())
    assert abs(means - differences() @ effects).max() < 0.3


def test_draws_have_the_mean_and_the_spread_that_are_said():
    x, y, _ = drawn(30, 0.5, 0)
    model, rng = fit(x, y), np.random.default_rng(0)
    draws = np.array([model.draw(rng) for _ in range(4000)]) @ differences().T
    means, errors = model.of(differences())
    assert draws.mean(0) == pytest.approx(means, abs=0.1)
    assert draws.std(0) == pytest.approx(errors, rel=0.1)
    narrow = np.array([model.draw(rng, 0.0) for _ in range(50)])
    assert len({row.tobytes() for row in narrow}) <= len(model.likely)


def test_two_trials_are_enough_and_equal_ones_say_nothing():
    x, y, _ = drawn(2, 0.5, 0)
    assert np.isfinite(fit(x, y).mean).all()
    assert abs(fit(x, np.full(2, 0.5)).mean).max() < 1e-5


def test_a_known_prior_gives_ridge_regression():
    x, y, _ = drawn(15, 0.5, 1)
    _, mean, covariance = posterior(x, y, np.full(x.shape[1], 2.0), np.full(15, 0.5))
    precision = x.T @ x / 0.25 + np.eye(x.shape[1]) / 4
    assert mean == pytest.approx(np.linalg.solve(precision, x.T @ y / 0.25), abs=1e-8)
    assert covariance == pytest.approx(np.linalg.inv(precision), abs=1e-8)


def test_a_training_that_broke_down_is_below_the_fence():
    assert 0.0 < fence([0.0, 0.5, 0.52, 0.55, 0.6]) < 0.5
