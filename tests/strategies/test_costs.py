"""What architectures cost before they are measured, and draws that keep to what is allowed."""

import random
import statistics

import numpy as np
import pytest

from yolov5_nas.records.journal import TrialRecord
from yolov5_nas.records.reward import Constraint
from yolov5_nas.space.counts import count
from yolov5_nas.space.space import Space
from yolov5_nas.strategies.costs import Costs, tilted
from yolov5_nas.strategies.named import make_strategy

IMGSZ = 128


@pytest.fixture(scope="module")
def space():
    return Space.from_yaml("yolov5n_elastic.yaml", nc=10)


def gflops(space, architecture):
    return count(space, architecture, IMGSZ)["gflops"]


def latency(space, architecture):
    """Made up: a part that GFLOPs don't say, and activations that cost something."""
    own, stock = (count(space, a, IMGSZ) for a in (architecture, space.default()))
    acts = sum(value != "SiLU" for label, value in architecture.items() if label.endswith("_act"))
    ratio = 0.5 * own["gflops"] / stock["gflops"] + 0.1 * own["params"] / stock["params"] + 0.4
    return ratio - 0.003 * acts + 0.05 * (architecture["c3_2_depth"] - 1)


def told(costs, space, architectures):
    for number, architecture in enumerate(architectures):
        metrics = {"latency_ratio": latency(space, architecture), "latency_error": 0.002, "latency_ms": 7.0}
        state = "infeasible" if number else "complete"
        costs.tell(TrialRecord(number, dict(architecture), state, metrics=metrics))


def test_counted_costs_are_sums(space):
    costs, rng = Costs(space, IMGSZ, metrics=["gflops", "params"]), random.Random(0)
    stock = count(space, space.default(), IMGSZ)
    for architecture in (space.sample(rng) for _ in range(20)):
        own = count(space, architecture, IMGSZ)
        for metric in own:
            assert costs.share(architecture, metric) == pytest.approx(own[metric] / stock[metric])


def test_latencies_are_learned_also_from_those_that_were_refused(space):
    costs, rng = Costs(space, IMGSZ, metrics=["latency_ratio"]), random.Random(0)
    others = [space.sample(rng) for _ in range(30)]
    before = statistics.mean(abs(costs.share(a, "latency_ratio") - latency(space, a)) for a in others)
    told(costs, space, [space.default(), *(costs.draw(rng) for _ in range(40))])
    after = statistics.mean(abs(costs.share(a, "latency_ratio") - latency(space, a)) for a in others)
    assert after < 0.03 and after < 0.5 * before  # seen: 0.016 and 0.083


@pytest.mark.parametrize("text", ["gflops<=0.13", "params<=1.2e6", "gflops>=0.5"])
def test_nothing_is_drawn_that_is_known_to_break_a_constraint(space, text):
    constraint, rng = Constraint.parse(text), random.Random(0)
    costs = Costs(space, IMGSZ, [constraint])
    drawn = [costs.draw(rng) for _ in range(30)]
    assert all(constraint.excess(count(space, a, IMGSZ)) <= 0 for a in drawn)
    assert len({a.id for a in drawn}) == 30


def test_draws_reach_from_cheap_to_dear_where_a_cost_matters(space):
    """By the logarithm of the cost; drawn uniformly, hardly any is cheaper than stock."""
    rng, stock = random.Random(0), gflops(space, space.default())
    spread, uniform = (
        [gflops(space, costs.draw(rng)) / stock for _ in range(200)]
        for costs in (Costs(space, IMGSZ, metrics=["gflops"]), Costs(space, IMGSZ))
    )
    assert 0.3 < statistics.mean(ratio < 1 for ratio in spread) < 0.6 and max(spread) > 2.5
    assert statistics.mean(ratio < 1 for ratio in uniform) < 0.05


def test_two_constraints_are_both_kept_to(space):
    costs, rng = Costs(space, IMGSZ, [Constraint("gflops", 0.14), Constraint("params", 1.3e6)]), random.Random(0)
    for own in (count(space, costs.draw(rng), IMGSZ) for _ in range(20)):
        assert own["gflops"] <= 0.14 and own["params"] <= 1.3e6


def test_what_is_not_known_yet_forbids_nothing(space):
    """Milliseconds compare with nothing before the stock architecture is measured."""
    costs = Costs(space, IMGSZ, [Constraint("latency_ms", 5.0)])
    assert costs.allows(space.default())
    told(costs, space, [space.default()])
    assert not costs.allows(space.default())


def test_opposite_constraints_are_kept_to_where_something_does(space):
    constraints = [Constraint.parse("gflops<=0.13"), Constraint.parse("params>=1.7e6")]
    costs, rng = Costs(space, IMGSZ, constraints), random.Random(0)
    for own in (count(space, costs.draw(rng), IMGSZ) for _ in range(8)):
        assert own["gflops"] <= 0.13 and own["params"] >= 1.7e6


@pytest.mark.parametrize("name", ["additive", "evolution", "tpe"])
@pytest.mark.parametrize("text", ["latency_ratio<=0.6", "energy<=1", "params<=1000"])
def test_what_seems_impossible_is_tried_all_the_same(space, name, text):
    """A guess is no knowledge; and what is impossible ends a search by its refusals."""
    constraint = Constraint.parse(text, own=True)
    strategy = make_strategy(name, space, 0, 4, constraints=[constraint], imgsz=IMGSZ)
    for number in range(6):
        architecture = strategy.ask()
        metrics = {"latency_ratio": 1.0, "energy": 3.0, "params": 2e6}
        strategy.tell(TrialRecord(number, dict(architecture), "infeasible" if number else "complete", 0.5, metrics))
    assert len(strategy.seen) == 6


def test_a_forms_own_activation_counts():
    """Where a form's default activation is an option of the layers, what it costs is in all of that form."""
    acts = {"act": ["ReLU", "Hardswish"]}
    yaml = Space.from_yaml("yolov5n_elastic.yaml", nc=10).yaml
    rows = [[*r[:3], [*r[3][:-1], {**r[3][-1], **acts}]] if r[2] == "NASConv" else r for r in yaml["backbone"]]
    space = Space.from_dict({**yaml, "backbone": rows, "activation": ["SiLU", "ReLU", "Hardswish"]})
    costs, rng = Costs(space, IMGSZ, metrics=["latency_ratio"]), random.Random(0)

    def slow(architecture):
        inner = space.inner(architecture)
        acts = sum(value == "Hardswish" for label, value in inner.items() if label.startswith("nasconv"))
        return count(space, architecture, IMGSZ)["gflops"] / 0.1667 + 0.01 * acts

    for number in range(120):
        architecture = space.sample(rng) if number else space.default()
        metrics = {"latency_ratio": slow(architecture) / slow(space.default()), "latency_error": 0.002}
        costs.tell(TrialRecord(number, dict(architecture), "complete", 0.5, metrics))
    form = {**space.default(), "activation": "Hardswish"}
    assert costs.share(form, "latency_ratio") == pytest.approx(slow(form) / slow(space.default()), abs=0.1)


def test_what_a_form_makes_of_a_layer_that_has_no_such_option_is_left_out():
    own = {"nasconv_2-1": "k3p1", "nasconv_2-1_act": "Hardswish", "c3_4_depth": 5}
    yaml = {**Space.from_yaml("yolov5n_elastic.yaml", nc=10).yaml, "default": own}
    space, rng = Space.from_dict({**yaml, "scale": [0.25, 1.0], "activation": ["SiLU", "ReLU"]}), random.Random(0)
    costs = Costs(space, IMGSZ, metrics=["gflops"])
    assert all(space.check(costs.draw(rng)) is None for _ in range(40))


def test_each_form_has_its_sums():
    yaml = {**Space.from_yaml("yolov5n_elastic.yaml", nc=10).yaml, "scale": [0.5, 1.0], "activation": ["SiLU", "ReLU"]}
    space, rng = Space.from_dict({**yaml, "imgsz": [96, 128]}), random.Random(0)
    costs = Costs(space, 128, [Constraint("gflops", 0.1)])
    stock = count(space, space.default(), 128)["gflops"]
    for architecture in (costs.draw(rng) for _ in range(20)):
        assert space.check(architecture) is None
        own = count(space, architecture, 128)["gflops"]
        assert own <= 0.1 and costs.share(architecture, "gflops") == pytest.approx(own / stock)


def test_a_yaml_with_layers_of_unknown_cost_is_learned_altogether():
    yaml = dict(Space.from_yaml("yolov5n_elastic.yaml", nc=10).yaml)
    yaml["backbone"] = [row if row[2] != "SPPF" else [-1, 1, "SPP", [1024, [5, 9, 13]]] for row in yaml["backbone"]]
    space, rng = Space.from_dict(yaml), random.Random(0)
    costs = Costs(space, IMGSZ, [Constraint("gflops", 0.2)])
    assert costs.learned == ["gflops"]
    for number in range(60):
        architecture = space.sample(rng) if number else space.default()
        wide = sum(float(architecture[label]) for label in architecture if label.startswith("c3_") and "d" not in label)
        costs.tell(TrialRecord(number, dict(architecture), "infeasible", metrics={"gflops": 0.02 * wide}))
    assert costs.share(space.default(), "gflops") == pytest.approx(1.0)
    wide = {**space.default(), **{c: 1.5 for c in space.choices if c in ("c3_2", "c3_4", "c3_6", "c3_8")}}
    assert not costs.allows(wide, 0.0) and costs.allows(space.default())


def test_a_tilted_distribution_has_the_mean_that_is_asked_for():
    rng = np.random.default_rng(0)
    costs, starts = rng.normal(size=30), [0, 2, 10, 11, 25]
    lowest = np.minimum.reduceat(costs, starts).sum()
    for mean in (lowest + 0.01, -1.0, 0.0, 1.0):
        chances = tilted(costs, starts, mean)
        assert np.add.reduceat(chances, starts) == pytest.approx(1.0)
        assert chances @ costs == pytest.approx(mean, abs=1e-3)
