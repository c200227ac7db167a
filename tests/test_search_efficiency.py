"""The replay of searches on a table: on the real one, and on scores whose outcome is known."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks/search_efficiency.py"
spec = importlib.util.spec_from_file_location("search_efficiency", SCRIPT)
replay = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = replay  # where dataclasses look their annotations up
spec.loader.exec_module(replay)


def test_what_is_held_is_what_the_scores_put_first():
    way = replay.Way("", 36, 3, [{"a": 0.1, "b": 0.2, "c": 0.3}], {"a": 1, "b": 2, "c": 1})
    for seed in range(5):
        held = way.held(seed)
        assert held[0][0] == (42 if held[0][1] == "b" else 39)  # the base and one score
        assert held[-1][1] == "c"
        assert [epochs for epochs, _ in held] == sorted(epochs for epochs, _ in held)
        assert held[-1][0] <= 36 + 3 * 4
    assert {way.held(seed)[0][1] for seed in range(9)} == {"a", "b", "c"}  # the order is another for each seed


def test_hypervolume_is_the_area_that_the_front_dominates():
    points = [(0.5, 1.0), (0.3, 0.5), (0.2, 0.8)]
    records = [
        replay.TrialRecord(i, {"a": i}, "complete", m, {"map50_95": m, "gflops": g}) for i, (m, g) in enumerate(points)
    ]
    assert replay.hypervolume(records, 2.0) == pytest.approx(0.3 * 1.5 + 0.2 * 1.0)


def test_the_table_is_replayed_with_the_scores_of_proxies(tmp_path):
    table = replay.read(replay.TABLE)
    scores = tmp_path / "scores.jsonl"
    line = {"score": "exact", "base_epochs": 36, "epochs": 3, "seed": 0}
    truth = {name: sum(r["metrics"]["map50_95"] for r in lines) / len(lines) for name, lines in table.items()}
    scores.write_text("".join(json.dumps({**line, "id": n, "map50_95": v}) + "\n" for n, v in truth.items()))
    command = [sys.executable, SCRIPT, "--scores", scores, "--seeds", "5", "--draw", tmp_path / "compute.png"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"{len(table)} architectures of" in out
    rows = {line.split(" | ")[0].strip("| "): line for line in out.splitlines() if line.startswith("|")}
    assert {"several objectives: hypervolume", "one reward: the best", "from scratch, 36 epochs each"} < set(rows)
    assert rows["exact"].endswith("| 5 of 5 | 100.0% of the best |")
    assert (tmp_path / "compute.png").stat().st_size > 10_000
