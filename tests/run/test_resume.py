"""Cut off at any line, or killed with SIGKILL at a random moment, and resumed: nothing lost, nothing twice."""

import os
import random
import time
from importlib.util import find_spec

import fake_search
import fake_trials
import forked
import psutil
import pytest
from loops import loop
from processes import LONG, wait_until

from yolov5_nas.records.journal import Journal

TRIALS = 14
ENGINES = [
    "local",
    pytest.param("nni", marks=pytest.mark.skipif(not find_spec("nni"), reason="NNI is not installed")),
    pytest.param("ray", marks=pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed")),
]


@pytest.mark.parametrize("slots", [1, 3])
def test_cut_off_after_each_line_the_search_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch, slots):
    monkeypatch.setattr(fake_trials.time, "sleep", lambda _: None)
    (tmp_path / "whole").mkdir()
    whole = loop(tmp_path / "whole", trials=10, slots=slots)
    whole.run()
    lines = whole.journal.path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 20
    for count in range(len(lines)):
        for torn in (b"", lines[count][:-20]):  # also in the middle of the next line
            folder = tmp_path / f"{count} {bool(torn)}"
            folder.mkdir()
            (folder / "trials.jsonl").write_bytes(b"".join(lines[:count]) + torn)
            again = loop(folder, trials=10, slots=slots)
            again.run()
            records = Journal(again.journal.path).records
            assert sorted(r.number for r in records if r.done) == list(range(10))  # none lost, none twice
            assert _ran_more_often_than_explained(again.journal, folder) == []
            if slots == 1:
                rewards = [(r.id, r.reward) for r in whole.journal.trials.values()]
                assert [(r.id, r.reward) for r in again.journal.trials.values()] == rewards


@pytest.mark.parametrize("engine", ENGINES)
def test_killed_at_random_moments_and_resumed(tmp_path, engine, request):
    address = request.getfixturevalue("ray_cluster").address if engine == "ray" else None
    forked.serve(*(["nni.nas.experiment"] if engine == "nni" else []))  # it takes ten seconds to import
    rng, folder, others = random.Random(1), tmp_path / "run", set(psutil.Process().children(recursive=True))
    folder.mkdir()
    killed = 0
    for victims in ("launcher", "launcher", "launcher") if engine != "nni" else ("launcher", "manager", "both"):
        process = forked.start(run_search, folder, engine, address)
        wait_for_lines(folder, lines_in(folder) + rng.randint(1, 6), process)
        time.sleep(rng.uniform(0, 0.15))
        if process.is_alive():  # on a busy machine all trials may have ended before this process ran again
            kill(process, victims)
            killed += 1
    assert killed
    left = set(psutil.Process().children(recursive=True)) - others
    last = forked.start(run_search, folder, engine, address)
    last.join(LONG)
    assert last.exitcode == 0
    journal = Journal(folder / "trials.jsonl")
    assert sorted(r.number for r in journal.records if r.done) == list(range(TRIALS))  # none lost, none twice
    assert all(r.state == "complete" for r in journal.trials.values())
    assert _ran_more_often_than_explained(journal, folder) == []
    assert psutil.wait_procs(list(left), LONG)[1] == []
    assert not (folder / "nni" / "processes.txt").exists()


def run_search(folder, engine, address):
    if address:
        os.environ["RAY_ADDRESS"] = address
    fake_search.main(folder, TRIALS, 2, engine, "quick")


def kill(process, victims):
    """Kill a search; its workers then end themselves, but for NNI's, which a resume ends."""
    manager = next((p for p in psutil.Process(process.pid).children() if "main.js" in p.cmdline()), None)
    if victims != "launcher":
        manager.kill()
    if victims != "manager":
        process.kill()
    process.join(LONG)
    assert process.exitcode not in (0, None)
    if not manager:
        _workers_are_gone(process.pid)


def lines_in(folder):
    path = folder / "trials.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_lines(folder, lines, process):
    while lines_in(folder) < lines and process.is_alive():
        time.sleep(0.01)


def _workers_are_gone(session):
    wait_until(lambda: not any(_session(p.pid) == session and _runs(p) for p in psutil.process_iter()))


def _runs(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:  # it has just ended
        return False


def _session(pid):
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _ran_more_often_than_explained(journal, folder):
    """Trials that a process ran to the end more often than the journal's attempts explain."""
    ran = [int(line) for line in (folder / "ran.txt").read_text().split()] if (folder / "ran.txt").exists() else []
    attempts = {number: record.attempt for number, record in journal.trials.items()}
    return [number for number in set(ran) if ran.count(number) > attempts[number]]
