"""The additive model as a strategy. What every strategy must do is in test_strategies."""

import random
import statistics
import time

import pytest

from yolov5_nas.records.journal import Journal, TrialRecord, best, front
from yolov5_nas.records.reward import Constraint
from yolov5_nas.run.loop import replay
from yolov5_nas.space.counts import count
from yolov5_nas.space.space import Space
from yolov5_nas.strategies.additive import Additive
from yolov5_nas.strategies.named import make_strategy

IMGSZ = 128


@pytest.fixture(scope="module")
def space():
    return Space.from_yaml("yolov5n_elastic.yaml", nc=10)


def effects_of(space, seed=0):
    rng = random.Random(seed)
    return {(c.label, o): rng.gauss(0, 0.01) for c in space.choices.values() for o in c.options}


def search(space, strategy, trials, noise=0.03, seed=0, constraints=()):
    """The records of a search whose rewards are sums of effects, with noise; the truth is a metric."""
    effects, rng, records = effects_of(space, seed), random.Random(f"noise {seed}"), []
    while sum(r.state == "complete" for r in records) < trials:
        a = strategy.ask()
        true = 0.5 + sum(effects[entry] for entry in a.items())
        seen, costs = true + rng.gauss(0, noise), count(space, a, IMGSZ)
        metrics = {"map50_95": seen, "true": true, "latency_ratio": 0.4 + 0.6 * costs["gflops"] / 0.1667, **costs}
        allowed = all(c.excess(metrics) <= 0 for c in constraints) or not records
        record = TrialRecord(len(records), dict(a), "complete", seen, metrics)
        if not allowed:
            record = TrialRecord(len(records), dict(a), "infeasible", None, {**costs, "latency_ratio": 2.0})
        records.append(record)
        strategy.tell(record)
    return records


def test_it_finds_better_ones_than_evolution_when_trials_are_noisy(space):
    """Noise is half of the spread; 60 trials; means of 5 seeds."""

    def winner(name, seed):
        found = best(search(space, make_strategy(name, space, seed, 16, imgsz=IMGSZ), 60, 0.045, seed))
        return found.metrics["true"]

    means = {name: statistics.mean(winner(name, seed) for seed in range(5)) for name in ("additive", "evolution")}
    assert means["additive"] > means["evolution"] + 0.09  # seen: 0.78 and 0.62, of 0.94 to 1.01


def test_within_a_constraint_none_is_refused_that_can_be_counted(space):
    constraint = Constraint("gflops", 0.13)
    strategy = make_strategy("additive", space, 0, constraints=[constraint], imgsz=IMGSZ)
    records = search(space, strategy, 20, constraints=[constraint])
    assert {r.state for r in records} == {"complete"}
    assert statistics.mean(r.metrics["true"] for r in records[10:]) > records[0].metrics["true"] + 0.05


def test_several_objectives_are_searched_along_their_front(space):
    objectives = "map50_95", "gflops"
    strategy = make_strategy("additive", space, 0, objectives=objectives, imgsz=IMGSZ)
    records = search(space, strategy, 60)
    found = front(records, *objectives)
    assert len(found) >= 5
    assert min(r.metrics["gflops"] for r in found) < 0.13 < 0.2 < max(r.metrics["gflops"] for r in found)


def test_costs_alone_are_searched_too(space):
    strategy = make_strategy("additive", space, 0, objectives=("gflops", "params"), imgsz=IMGSZ)
    assert len({r.id for r in search(space, strategy, 12)}) == 12


def test_a_journal_is_played_back_without_proposing_anything(space, tmp_path, monkeypatch):
    journal, strategy = Journal(tmp_path / "trials.jsonl"), make_strategy("additive", space, 3, imgsz=IMGSZ)
    for record in search(space, strategy, 12):
        journal.append(TrialRecord(record.number, record.architecture, "started"))
        journal.append(record)
    ahead = [strategy.ask() for _ in range(3)]
    again = make_strategy("additive", space, 3, imgsz=IMGSZ)
    with monkeypatch.context() as patched:
        patched.setattr(Additive, "propose", lambda self: pytest.fail("it proposed"))
        assert replay(journal.records, again) == []
    assert [again.ask() for _ in range(3)] == ahead


def test_a_thousand_trials_are_played_back_in_no_time(space):
    rng, strategy = random.Random(0), make_strategy("additive", space, 0, imgsz=IMGSZ)
    records = []
    for number in range(1000):
        architecture = dict(space.sample(rng))
        records.append(TrialRecord(number, architecture, "started"))
        records.append(TrialRecord(number, architecture, "complete", rng.random(), {"latency_ratio": 1.0}))
    start = time.process_time()
    replay(records, strategy)
    assert time.process_time() - start < 1.0  # seen: 0.1
    assert strategy.ask().id not in {r.id for r in records}


def test_forms_are_searched_too():
    yaml = {**Space.from_yaml("yolov5n_elastic.yaml", nc=10).yaml, "scale": [0.5, 1.0], "activation": ["SiLU", "ReLU"]}
    space = Space.from_dict(yaml)
    strategy = make_strategy("additive", space, 0, constraints=[Constraint("gflops", 0.12)], imgsz=IMGSZ)
    records = search(space, strategy, 25, constraints=[Constraint("gflops", 0.12)])
    assert {r.architecture["scale"] for r in records} == {0.5, 1.0}
    assert all(space.check(r.architecture) is None for r in records)
