"""The replay of searches on a table: on the real one, and on scores whose outcome is known."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

SCRIPT = ROOT / "benchmarks/search_efficiency.py"
spec = importlib.util.spec_from_file_location("search_efficiency", SCRIPT)
replay = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = replay  # where dataclasses look their annotations up
spec.loader.exec_module(replay)


def test_what_is_held_is_what_the_scores_put_first():
    way = replay.Way("", 36, 3, {0: {"a": 0.1, "b": 0.2, "c": 0.3}}, {"a": 1, "b": 2, "c": 1})
    for order in range(5):
        held = way.held(order)
        assert held[0][0] == (42 if held[0][1] == "b" else 39)  # the base and one score
        assert held[-1][1] == "c"
        assert [epochs for epochs, _ in held] == sorted(epochs for epochs, _ in held)
        assert held[-1][0] <= 36 + 3 * 4
    assert {way.held(order)[0][1] for order in range(9)} == {"a", "b", "c"}


def test_the_first_few_by_the_scores_are_judged_by_the_best_of_them():
    way = replay.Way("", 36, 3, {0: {"a": 0.1, "b": 0.2, "c": 0.3}, 1: {"a": 0.3, "b": 0.2, "c": 0.1}}, {})
    truths = {"a": 0.8, "b": 0.4, "c": 0.6}
    assert [way.first(count, truths) for count in (1, 2, 3)] == pytest.approx([0.7, 0.7, 0.8])


def test_hypervolume_is_the_area_that_the_front_dominates():
    points = [(0.5, 1.0), (0.3, 0.5), (0.2, 0.8)]
    records = [
        replay.TrialRecord(i, {"a": i}, "complete", m, {"map50_95": m, "gflops": g}) for i, (m, g) in enumerate(points)
    ]
    assert replay.hypervolume(records, 2.0) == pytest.approx(0.3 * 1.5 + 0.2 * 1.0)


def test_the_table_is_replayed_with_the_scores_of_proxies(tmp_path):
    table = replay.read(replay.TABLE)
    scores = tmp_path / "scores.jsonl"
    line = {"score": "exact", "base_epochs": 36, "epochs": 3, "seed": 0, "curve": []}
    truth = {name: sum(r["metrics"]["map50_95"] for r in lines) / len(lines) for name, lines in table.items()}
    scores.write_text("".join(json.dumps({**line, "id": n, "map50_95": v}) + "\n" for n, v in truth.items()))
    command = [sys.executable, SCRIPT, "--scores", scores, "--seeds", "5", "--draw", tmp_path / "compute.png"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"{len(table)} architectures of" in out
    first, by_another = out.split("Judged by a training with another seed:")
    rows = {line.split(" | ")[0].strip("| "): line for line in first.splitlines() if line.startswith("|")}
    assert {"several objectives: hypervolume", "one reward: the best", "from scratch, 36 epochs each"} < set(rows)
    assert " | 200 of 200 | " in rows["exact"] and rows["exact"].endswith(" | 100.0% |")
    assert "of 200" in next(line for line in by_another.splitlines() if line.startswith("| from scratch, 36"))
    assert out.splitlines()[-1] == "| exact, 1 seeds | 100.0% | 100.0% | 100.0% | 100.0% |"
    assert (tmp_path / "compute.png").stat().st_size > 10_000


def test_a_score_is_not_judged_by_the_training_that_it_is_of():
    """With two seeds that say the opposite, who goes by one holds what the other puts last."""

    def line(name, seed, value):
        curve = [{"epoch": e, "map50_95": value, "map50": value} for e in range(1, 10)]
        costs = {"gflops": 1.0, "cpu_seconds": 1.0}
        return {"id": name, "seed": seed, "metrics": {"map50_95": value}, "costs": costs, "curve": curve}

    table = {n: [line(n, 0, v), line(n, 1, 1 - v)] for n, v in (("a", 0.2), ("b", 0.5), ("c", 0.8))}
    reward = replay.SoftReward([])
    args = replay.argparse.Namespace(scores=Path("none"), seeds=4)
    others = {seed: {n: replay.rewarded([lines[seed]], reward) for n, lines in table.items()} for seed in range(2)}
    paths = replay.judged(table, others, reward, args)
    assert all(run[-1][1] == pytest.approx(0.25) for run in paths["from scratch, 9 epochs each"])


def test_stock_is_left_out_of_what_is_held_on_inherited_weights(tmp_path):
    scores = tmp_path / "scores.jsonl"
    line = {"base_epochs": 12, "seed": 0, "map50_95": 0.5, "curve": [{"map50_95": 0.1}, {"map50_95": 0.5}]}
    kinds = ({"score": "inherited", "epochs": 2}, {"score": "shared", "epochs": 0, "curve": []})
    scores.write_text("".join(json.dumps({**line, **kind, "id": n}) + "\n" for kind in kinds for n in ("stock", "a")))
    ways = replay.by_proxies(scores, "stock", lambda m: m["map50_95"], {"stock": 1.0, "a": 1.0}, {})
    found = {way.name: way.scores for way in ways}
    assert found["inherited"] == {0: {"a": 0.5}} and found["the first of inherited"] == {0: {"a": 0.1}}
    assert found["shared"] == {0: {"stock": 0.5, "a": 0.5}}
