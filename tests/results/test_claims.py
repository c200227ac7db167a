"""Claims of a proof: their tests, worked out on paper and simulated, and what is said of planted scores."""

import doctest
import math
import random
import runpy

import pytest
from places import ROOT

from yolov5_nas.results import claims
from yolov5_nas.results.claims import (
    EQUAL,
    Claim,
    accuracy_p,
    corrected,
    cost_p,
    hochberg,
    log_ratio,
    sequential,
    shares,
)
from yolov5_nas.results.comparison import STOCK, ByImages, verdict
from yolov5_nas.results.race import Race


def race_of(**scores_and_costs):
    names = [name.replace("_", " ") for name in scores_and_costs]
    race = Race(names[:2], names[2:], 3, 0.005)
    for name, (mean, cost) in zip(names, scores_and_costs.values()):
        for seed, noise in enumerate((-0.01, 0.0, 0.01)):
            race.add(name, seed, mean + noise, cost)
    return race


@pytest.mark.parametrize(
    ("stock", "rescaled", "trial", "words"),
    [
        ((0.6, 1.0), (0.51, 1.32), (0.56, 1.3), "No gain at equal or lower cost"),  # stock is better, and cheaper
        ((0.4, 1.0), (0.51, 1.32), (0.56, 1.3), "trial 7 detects better than stock YOLOv5 rescaled, at equal"),
        ((0.4, 1.3), (0.51, 1.32), (0.56, 1.3), "better than stock YOLOv5 and stock YOLOv5 rescaled, at equal"),
    ],
)
def test_a_gain_is_one_over_those_that_it_was_compared_with(stock, rescaled, trial, words):
    race = race_of(stock=stock, stock_rescaled=rescaled, trial_7=trial)
    assert words in verdict(race.comparisons(), "latency_ratio", race)


def test_welch_is_scipys_and_looks_share_the_level():
    from scipy.stats import ttest_ind

    own, other = (0.52, 0.55, 0.53), (0.5, 0.49, 0.52)
    expected = ttest_ind([x + 0.01 for x in own], other, equal_var=False, alternative="greater").pvalue
    assert accuracy_p(own, other, 0.01) == pytest.approx(expected)
    assert sum(shares(7).values()) == pytest.approx(1)
    assert sequential({2: 0.01, 3: 0.2}, 3) == pytest.approx(0.01 / shares(3)[2])
    assert sequential({2: 0.9, 3: 0.001}, 3) == pytest.approx(0.001 / shares(3)[3])


def test_what_has_no_spread_or_has_not_learnt_to_detect_shows_nothing():
    assert accuracy_p((0.5, 0.5), (0.4, 0.4), 0.0) == 1 == accuracy_p((0.0, 0.0), (0.0, 0.0), 0.005)
    assert accuracy_p((0.012, 0.013), (0.010, 0.009), 0.005) == 1


def test_a_costs_upper_bound_has_the_spread_of_seeds_or_of_the_measurement():
    ratio = log_ratio({0: (0.8, 0.01)}, {0: (1.0, 0.01)})
    assert (math.exp(ratio.value), ratio.error) == pytest.approx((0.8, 0.01 * 2**0.5))
    assert cost_p(ratio, 1) < 1e-6 and ratio.bound(0.95) == pytest.approx(1.645 * ratio.error, rel=1e-3)
    counted = log_ratio({0: (8.0, 0.0), 1: (8.0, 0.0)}, {0: (10.0, 0.0)})
    assert counted.error == 0 and cost_p(counted, 1 / EQUAL) == 0
    spread = log_ratio({0: (0.7, 0.0), 1: (0.9, 0.0)}, {0: (1.0, 0.0), 1: (1.0, 0.0)})
    assert spread.df == pytest.approx(1) and cost_p(spread, 1) > 0.1
    assert log_ratio({0: (0.0, 0.0)}, {0: (1.0, 0.0)}) is None and cost_p(None, EQUAL) == 1


def test_for_new_images_the_variances_of_seeds_and_of_images_add_up():
    scores = {STOCK: {"0": 0.70, "1": 0.72}, "trial 1": {"0": 0.74, "1": 0.76}}
    found = ByImages("test", 9, scores, {"trial 1, stock": 0.03}).estimate("trial 1", STOCK)
    assert found.error == pytest.approx((0.0002 + 0.0009) ** 0.5) and found.df > 2
    alone = ByImages("test", 9, scores, {"trial 1, stock": 0.0}).estimate("trial 1", STOCK)
    assert alone.df == pytest.approx(2) and alone.bound(0.975) == pytest.approx(4.303 * alone.error, rel=1e-3)


def test_a_cheaper_rival_that_may_be_as_good_takes_the_gain_away():
    race = race_of(stock=(0.4, 1.3), stock_rescaled=(0.559, 1.0), trial_7=(0.56, 1.3))
    assert "No gain" in verdict(race.comparisons(), "latency_ratio", race)
    unknown = Race((STOCK,), ("trial 1",), 2, 0.005)
    for seed, noise in enumerate((0.0, 0.01)):
        unknown.add(STOCK, seed, 0.5 + noise)
        unknown.add("trial 1", seed, 0.6 + noise)
    assert "No claim can be made: latency_ratio" in verdict(unknown.comparisons(), "latency_ratio", unknown)


def test_a_cheaper_one_is_trained_on_until_it_is_shown_to_be_better_too():
    rng, both = random.Random(0), 0
    for _ in range(40):
        race = Race((STOCK,), ("trial 1",), 5, 0.01)
        for seed in range(5):
            for name in race.left():
                race.add(
                    name, seed, rng.gauss(0.52 if name == "trial 1" else 0.5, 0.006), 0.8 if name[0] == "t" else 1.0
                )
        both += race.comparisons()[0].holds(Claim.BETTER)
    assert both > 30


SIMULATED = runpy.run_path(str(ROOT / "benchmarks/proof_errors.py"))
Made, SPREAD, MARGIN = SIMULATED["Made"], SIMULATED["SPREAD"], SIMULATED["MARGIN"]


def at_most(share, runs):
    """A share with two standard errors of a simulation."""
    return share + 2 * (share * (1 - share) / runs) ** 0.5


@pytest.mark.parametrize("noise", ["normal", "all skewed left", "all skewed right"])
@pytest.mark.parametrize("claim", list(Claim))
def test_claims_are_wrong_no_more_often_than_their_level(claim, noise):
    """A tenth of `benchmarks/proof_errors.py --table noise`."""
    weak = 10 * SPREAD if claim is Claim.BETTER else 0.0  # else both would have to be beaten by chance
    assert Made(claim, seeds=4, noise=noise, weak=weak).wrong(100, seed=1) <= at_most(claims.LEVEL, 100)


def test_equal_latencies_that_a_constant_offset_parts_are_not_called_lower():
    """Networks as good as the baseline at its latency; offsets are the same in all trainings. 0.4 before."""
    good = Made(Claim.AS_GOOD, 5 * SPREAD, 5 * SPREAD, 4, cost=1.0, offset=0.005)
    assert good.wrong(60) <= at_most(claims.LEVEL, 60)


def test_a_better_network_that_costs_more_than_equal_is_not_called_no_dearer():
    """Better by far, at the highest latency that counts as equal; by the estimate alone it was one in two."""
    better = Made(Claim.BETTER, 5 * SPREAD, 5 * SPREAD, 4, cost=EQUAL)
    assert better.wrong(60) <= at_most(claims.LEVEL, 60)


def test_a_gain_of_two_standard_deviations_is_found_in_half_of_the_proofs_of_five_seeds():
    """0.40 where all pairs were corrected for; three seeds find it in one of eight."""
    found, other, _ = Made(Claim.BETTER, 0.010, seeds=5, spread=0.005, races=False).rates(100)
    assert found >= 0.4 and other <= at_most(claims.LEVEL, 100)


def test_the_cost_of_each_claim_is_tested():
    near = dict.fromkeys((1, 2), (0.99, 0.0))  # counted, so without an error
    same = dict.fromkeys((1, 2), (1.0, 0.0))
    assert [cost_p(log_ratio(near, same), claim.cost) for claim in Claim] == [0, 1]  # equal, not cheaper
    noisy = log_ratio({1: (1.0, 0.02)}, {1: (1.0, 0.02)})
    assert cost_p(noisy, EQUAL) > 0.2  # may well cost more
    race = Race((STOCK,), ("trial 1",), 3, 0.005)
    for seed, noise in enumerate((-0.001, 0.0, 0.001)):
        race.add(STOCK, seed, 0.5 + noise, 1.0, 0.03)
        race.add("trial 1", seed, 0.6 + noise, 1.0, 0.03)
    (c,) = race.comparisons()
    assert c.accuracy <= claims.LEVEL < c.ps[Claim.BETTER]
    assert "No gain at equal or lower cost is shown" in verdict([c], "latency_ratio", race)


def test_the_difference_that_could_have_been_shown_is_found_so_often():
    """By the noncentral t distribution, beside t-tests of drawn scores."""
    found, rng, runs = claims.detectable(0.01, 4, 0.05), random.Random(0), 2000
    assert found == pytest.approx(0.0198, abs=0.0005)
    draw = lambda mean: [rng.gauss(mean, 0.01) for _ in range(4)]  # noqa: E731
    shown = sum(accuracy_p(draw(0.5 + found), draw(0.5), 0.0) <= 0.05 for _ in range(runs)) / runs
    assert shown == pytest.approx(claims.POWER, abs=0.04)
    race = race_of(stock=(0.5, 1.0), stock_rescaled=(0.5, 1.0), trial_7=(0.5, 1.0))
    expected = claims.detectable(0.01, 3, 0.05 * shares(3)[3])
    words = f"With 3 seeds each and the spread seen between them, a proof finds a true difference of {expected:.3f}"
    assert race.detectable() == pytest.approx(expected) and words in verdict(race.comparisons(), "latency_ratio", race)
    assert Race((STOCK,), ("trial 1",), 3, 0.005).detectable() is None


def test_a_gain_needs_all_rivals_beaten_and_is_corrected_over_candidates_alone():
    """Worked out on paper."""
    assert hochberg([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.04, 0.04])
    both = {("a", "x"): 0.012, ("a", "y"): 0.016, ("b", "x"): 0.03, ("b", "y"): 0.02, ("c", "x"): 0.01, ("c", "y"): 0.9}
    found = corrected(both)
    assert [found["a", r] for r in "xy"] == pytest.approx([0.048, 0.048])  # 3 x the larger: `a` leaves
    assert [found["b", r] for r in "xy"] == pytest.approx([0.06, 0.06])  # 2 x the larger
    assert [found["c", r] for r in "xy"] == pytest.approx([0.04, 1.0])  # 2 x 2 x the smaller: shown of one rival
    assert corrected({("a", "x"): 0.05}) == {("a", "x"): 0.05} and corrected({}) == {}
    assert doctest.testmod(claims).failed == 0
