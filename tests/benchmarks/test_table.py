"""The script that makes the tables, with trainings that take no time."""

import importlib.util
import itertools
import json

import fake_trials
import pytest
from places import ROOT

from yolov5_nas.engines.local import LocalEngine
from yolov5_nas.errors import UserError
from yolov5_nas.files import shipped
from yolov5_nas.space.model_yaml import read_model_yaml
from yolov5_nas.space.space import Space
from yolov5_nas.training.settings import Settings

SCRIPT = ROOT / "benchmarks/tables/make_table.py"
spec = importlib.util.spec_from_file_location("make_table", SCRIPT)
table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(table)

CONDITIONS = dict.fromkeys(table.SAME, "same")


@pytest.fixture(scope="module")
def space():
    return Space.from_yaml(shipped("models") / "yolov5n_elastic.yaml", nc=10)


def cost(architecture):
    """Stands for GFLOPs: how many of its choices are not the first of their options."""
    big = [v for k, v in architecture.items() if v in (1.5, "k5p2", "k3p1") and not k.endswith("_act")]
    return 2 ** (len(big) / 10)


def test_architectures_are_spread_over_cost_and_a_longer_list_begins_with_a_shorter(space):
    picked = table.pick(space, 12, cost)
    assert len(set(picked)) == 12
    assert picked[:7] == table.pick(space, 7, cost)
    assert picked[0] == space.default()
    costs = sorted(map(cost, picked))
    assert (cost(picked[1]), cost(picked[2])) == (costs[0], costs[-1])
    assert max(b / a for a, b in itertools.pairwise(costs)) < (costs[-1] / costs[0]) ** (2 / 10)


def test_a_few_second_seeds_come_early(space):
    work = table.work_of(list(range(10)), 7)
    assert work[:10] == [*((i, 0) for i in range(5)), *((i, 1) for i in range(5))]
    assert sorted(work) == sorted([*((i, 0) for i in range(10)), *((i, 1) for i in range(7))])


def fill(path, work, trial=fake_trials.quick, conditions=CONDITIONS):
    engine = LocalEngine(concurrency=2)
    engine.start(trial, None, path.parent)
    return table.fill(path, work, engine, conditions)


@pytest.fixture(scope="module")
def work(space):
    return table.work_of(table.pick(space, 4, cost), 2)


def test_a_table_goes_on_after_a_kill_in_the_middle_of_a_line(tmp_path, work):
    path = tmp_path / "table.jsonl"
    assert fill(path, work[:4]) == 0
    whole = path.read_bytes()
    torn = whole[: whole.rindex(b"\n", 0, -1) + 20]
    path.write_bytes(torn)
    assert fill(path, work) == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert path.read_bytes().startswith(torn[: torn.rindex(b"\n") + 1])
    assert sorted((line["id"], line["seed"]) for line in lines) == sorted((a.id, seed) for a, seed in work)
    ran = (tmp_path / "ran.txt").read_text().splitlines()
    assert len(ran) == len(work) + 1  # the torn one twice, the others once
    assert lines[0]["costs"] == {"latency_ratio": 1.0}
    assert lines[0]["curve"] == [{"epoch": 1, "map50_95": 0.1}]
    assert lines[0]["conditions"]["epochs"] == "same"


def test_a_failed_training_is_no_line_and_is_tried_again(tmp_path, work):
    path = tmp_path / "table.jsonl"
    assert fill(path, work[:2], fake_trials.out_of_memory) == 2
    assert not path.exists()
    assert fill(path, work[:2]) == 0
    assert len(path.read_text().splitlines()) == 2


def test_trainings_under_other_conditions_do_not_mix(tmp_path, work):
    path = tmp_path / "table.jsonl"
    fill(path, work[:1])
    with pytest.raises(UserError, match="must have the same epochs, got 12"):
        fill(path, work, conditions={**CONDITIONS, "epochs": 12})


def test_costs_are_measured_round_by_round(host, space, tmp_path):
    model, _ = read_model_yaml(shipped("models") / "yolov5n_elastic.yaml")
    settings = Settings(model, {"nc": 10}, {}, host.location, imgsz=64)
    architectures = table.pick(space, 2, cost)
    table.measure_costs(tmp_path / "costs.json", architectures, settings, 3)
    costs = json.loads((tmp_path / "costs.json").read_text())
    assert list(costs) == [a.id for a in architectures]
    stock, smallest = costs.values()
    assert stock["params"] == 1777447
    assert smallest["gflops"] < stock["gflops"]
    assert smallest["latency_ratios"] == sorted(smallest["latency_ratios"])
    assert smallest["latency_ratio"] == smallest["latency_ratios"][1]


def test_a_number_that_is_none_is_written_as_null():
    assert table.rounded({"loss": [float("nan"), 1 / 3], "epoch": 1}) == {"loss": [None, 0.333333], "epoch": 1}
