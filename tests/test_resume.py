"""Killed with SIGKILL at random moments and resumed: nothing lost, nothing twice, the same sequence."""

import os
import random
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from yolov5_nas.journal import Journal

SCRIPT = Path(__file__).with_name("fake_search.py")
TRIALS = 80
NEEDS_RAY = pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed")


def start(folder, slots, engine="local", trials=TRIALS):
    folder.mkdir(exist_ok=True)
    command = [sys.executable, str(SCRIPT), str(folder), str(trials), str(slots), engine, "quick"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SCRIPT.parent), str(SCRIPT.parent.parent)])}
    return subprocess.Popen(command, env=env, start_new_session=True)


def kill_and_resume(folder, slots, engine, rng, kills):
    """Kill it so many times, each a random number of journal lines and a random moment after its start; let it end."""
    for _ in range(kills):
        process = start(folder, slots, engine)
        wait_for_lines(folder, lines_in(folder) + rng.randint(0, 8), process)
        time.sleep(rng.uniform(0, 0.15))
        assert process.poll() is None, "it ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        _workers_are_gone(process.pid)
    assert start(folder, slots, engine).wait(120) == 0


def lines_in(folder):
    path = folder / "trials.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_lines(folder, lines, process):
    while lines_in(folder) < lines and process.poll() is None:
        time.sleep(0.01)


def _workers_are_gone(session):
    """A killed search's workers end themselves."""
    for _ in range(100):
        left = [p for p in psutil.process_iter() if _session(p.pid) == session and p.status() != psutil.STATUS_ZOMBIE]
        if not left:
            return
        time.sleep(0.1)
    raise AssertionError(left)


def _session(pid):
    try:
        return os.getsid(pid)
    except OSError:
        return None


@pytest.fixture(params=["local", pytest.param("ray", marks=NEEDS_RAY)])
def engine(request, monkeypatch):
    if request.param == "ray":
        monkeypatch.setenv("RAY_ADDRESS", request.getfixturevalue("ray_cluster").address)
    return request.param


@pytest.mark.parametrize("slots", [1, 2])
def test_killed_at_random_moments_and_resumed(tmp_path, slots, engine):
    whole = tmp_path / "whole"
    assert start(whole, slots).wait(120) == 0
    rng = random.Random(slots)
    killed = tmp_path / "killed"
    kill_and_resume(killed, slots, engine, rng, kills=12)
    expected, got = Journal(whole / "trials.jsonl"), Journal(killed / "trials.jsonl")
    ended = [r.number for r in got.records if r.done]
    assert sorted(ended) == list(range(TRIALS))  # none lost, none twice
    assert all(r.state == "complete" for r in got.trials.values())
    if slots == 1:
        sequence = [r.id for _, r in sorted(expected.trials.items())]
        assert [r.id for _, r in sorted(got.trials.items())] == sequence
        assert {n: r.reward for n, r in got.trials.items()} == {n: r.reward for n, r in expected.trials.items()}
    assert _ran_again_after_its_end(got, killed) == []


def _ran_again_after_its_end(journal, folder):
    """Trials that a process ran to the end more often than the journal's attempts explain."""
    ran = [int(line) for line in (folder / "ran.txt").read_text().split()]
    attempts = {number: record.attempt for number, record in journal.trials.items()}
    return [number for number in set(ran) if ran.count(number) > attempts[number]]


@pytest.mark.skipif(not find_spec("nni"), reason="NNI is not installed")
@pytest.mark.parametrize("victims", ["launcher", "manager", "both"])
def test_the_nni_engine_killed_and_resumed(tmp_path, victims):
    folder, trials = tmp_path / "run", 14
    process = start(folder, 2, "nni", trials)
    wait_for_lines(folder, 9, process)
    manager, children = _manager_of(process.pid), psutil.Process(process.pid).children(recursive=True)
    if victims != "launcher":
        manager.kill()
    if victims != "manager":
        process.kill()
    assert process.wait(30) != 0
    assert start(folder, 2, "nni", trials).wait(120) == 0
    journal = Journal(folder / "trials.jsonl")
    assert sorted(r.number for r in journal.records if r.done) == list(range(trials))  # none lost, none twice
    assert all(r.state == "complete" for r in journal.trials.values())
    assert _ran_again_after_its_end(journal, folder) == []
    assert psutil.wait_procs(children, 5)[1] == []
    assert not (folder / "nni" / "processes.txt").exists()


def _manager_of(pid):
    return next(p for p in psutil.Process(pid).children() if "main.js" in p.cmdline())
