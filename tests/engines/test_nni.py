"""The NNI engine: what is NNI's alone. What it shares with other engines is in test_engines.py and test_resume.py."""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import json
import multiprocessing
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import fake_search
import fake_trials
import forked
import psutil
import pytest
import requests
from inline import InlineEngine
from processes import LONG, own_processes, wait_until

from yolov5_nas.cli import main
from yolov5_nas.engines import contract as engines
from yolov5_nas.engines import warm
from yolov5_nas.engines.contract import EngineError, Job
from yolov5_nas.engines.nni import checks
from yolov5_nas.engines.nni import engine as engine_module
from yolov5_nas.engines.nni import patience as patience_module
from yolov5_nas.engines.nni.client import SOCKET
from yolov5_nas.engines.nni.engine import NNIEngine
from yolov5_nas.engines.nni.patience import Patience, run_delay
from yolov5_nas.errors import UserError
from yolov5_nas.files import shipped
from yolov5_nas.records.journal import Journal, TrialRecord, read_journal
from yolov5_nas.records.reward import SoftReward, Target
from yolov5_nas.run.loop import Loop, replay
from yolov5_nas.space.architecture import Architecture
from yolov5_nas.space.space import Space
from yolov5_nas.strategies.evolution import Evolution
from yolov5_nas.strategies.random_search import RandomSearch
from yolov5_nas.strategies.strategy import SpaceExhausted

# NNI is imported where it is used: each of pytest's processes reads this file, one of them runs its tests.
pytestmark = pytest.mark.skipif(not find_spec("nni"), reason="NNI is not installed")
SPACE = Space.from_yaml(shipped("models") / "yolov5n_nas.yaml")
TINY = Space.from_dict(
    {
        "nc": 1,
        "depth_multiple": 1.0,
        "width_multiple": 1.0,
        "anchors": 3,
        "backbone": [[-1, 1, "NASConv", [16, 3, 2, {"kernel": [3, 5], "act": ["SiLU", "ReLU"]}]]],
        "head": [[[0], 1, "Detect", ["nc", "anchors"]]],
    }
)
SETTINGS = SimpleNamespace(space=SPACE)
NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000  # of unshare(2), which Python has from 3.12 on
REWARD = SoftReward([Target("latency_ratio", 1.0)])


@pytest.fixture
def start(tmp_path):
    """Starts engines, and stops them."""
    made = []

    def make(trial, folder=tmp_path, **kwargs):
        made.append(NNIEngine(reward=REWARD, **kwargs))
        made[-1].start(trial, SETTINGS, folder)
        return made[-1]

    yield make
    for engine in made:
        engine.close()


@pytest.fixture
def engine(nni_lender):
    """NNI's engine, which other tests have used; its trials of this test."""
    return nni_lender.ready()


@pytest.fixture
def lend(nni_lender):
    return nni_lender.lend


def forked_with_nni(function, *args, **kwargs):
    """As `forked.start`, by the server of `test_resume.py`: NNI takes seconds to import."""
    forked.serve("nni.nas.experiment")
    return forked.start(function, *args, **kwargs)


def loop(engine, folder, trials, seed=0):
    return Loop(RandomSearch(SPACE, seed), engine, Journal(folder / "trials.jsonl"), REWARD, trials)


def job_of(engine, lent):
    """NNI's entry of a test's first trial, as soon as it has one."""

    def found():
        jobs = api(engine, "trial-jobs")
        return [j for j in jobs if json.loads(j["hyperParameters"][0])["parameters"].get("trial") == lent.first]

    wait_until(found)
    return found()[0]


def api(engine, path):
    return requests.get(f"{engine.url}/api/v1/nni/{path}", timeout=LONG).json()


def pairs_of(jobs):
    """Architecture and default metric of each trial, as NNI's REST interface has them."""
    return pairs((job["hyperParameters"][0], job["finalMetricData"][0]["data"]) for job in jobs)


def pairs(recorded):
    for parameters, metric in recorded:
        sample = json.loads(parameters)["parameters"]["mutation_summary"]
        # JavaScript knows one kind of number: its 1 may be our 1.0
        architecture = {c.label: c.options[c.options.index(sample[c.label])] for c in SPACE.choices.values()}
        yield Architecture(architecture).id, json.loads(json.loads(metric))["default"]


def pairs_in_database(folder):
    (path,) = folder.glob("nni/*/db/nni.sqlite")
    with sqlite3.connect(path) as database:
        jobs = database.execute("select trialJobId, data from TrialJobEvent where data like '%mutation_summary%'")
        metrics = database.execute("select trialJobId, data from MetricData where type = 'FINAL'")
        parameters, metrics = jobs.fetchall(), dict(metrics.fetchall())
    return pairs((data, metrics[job]) for job, data in parameters)


def test_the_warm_process_stops_a_trial_that_has_only_just_started(tmp_path):
    """Its answer that the trial started finds nobody who reads it any more; the trial would sleep for longer."""
    search, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=warm.serve, args=(theirs, 1, tmp_path))
    process.start()
    theirs.close()
    search.send((fake_trials.sleeps, None))
    assert search.recv() == "fork"
    search.send((Job(0, {"a": 1}, 0), 0, None))
    search.send(None)
    process.join(LONG)
    assert process.exitcode == 0  # it waits for what it started


def test_thirty_architectures_carry_their_own_metric_in_the_journal_the_portal_and_the_database(
    start, tmp_path, monkeypatch
):
    # With YOLOV5_NAS_UNPAIRED=1 in the environment the preload leaves NNI's own pairing, and this fails: of 60,
    # 25 and 27 were wrong in NNI in two runs, none in the journal.
    monkeypatch.setattr(engines, "cores", lambda: 4)
    engine = start(fake_trials.noop, concurrency=4)
    search = loop(engine, tmp_path, 30)
    search.run()
    expected = sorted((r.id, fake_trials.score(r.architecture)) for r in search.journal.trials.values())
    assert sorted((r.id, r.reward) for r in search.journal.trials.values()) == expected
    engine._experiment._settle()
    jobs = api(engine, "trial-jobs")
    assert {job["status"] for job in jobs} == {"SUCCEEDED"}
    assert sorted(pairs_of(jobs)) == expected
    engine.close()
    assert sorted(pairs_in_database(tmp_path)) == expected


def test_the_same_seed_proposes_the_same_on_both_engines(lend, tmp_path):
    ids = []
    lent = lend(fake_trials.noop)
    lent.slots = 1  # with more, the order in which trials end counts too
    for engine, folder in ((InlineEngine(), tmp_path / "inline"), (lent, tmp_path / "nni")):
        folder.mkdir()
        if engine is not lent:
            engine.start(fake_trials.noop, None, folder)
        journal = Journal(folder / "trials.jsonl")
        Loop(Evolution(SPACE, seed=4, population=4, sample=2), engine, journal, REWARD, 8).run()
        ids.append([record.id for _, record in sorted(journal.trials.items())])
    assert ids[0] == ids[1]


def test_it_listens_on_loopback_alone_and_closed_routes_answer_403(engine, lend):
    lent = lend(fake_trials.quick)
    lent.submit(Job(0, dict(SPACE.default()), 0))
    assert lent.wait(LONG)
    assert {address.ip for p in own_processes() for address in _listening(p)} == {"127.0.0.1"}
    for path in (
        "netron",
        "NETRON/",
        "//netron",
        "netron%2f",
        "api/v1/nni/trial-file/a/b",
        "api/v1/nni/Trial-File/a/b",
    ):
        assert requests.get(f"{engine.url}/{path}", timeout=LONG).status_code == 403, path
    assert requests.post(f"{engine.url}/api/v1/nni/tensorboard", json={}, timeout=LONG).status_code == 403
    rebound = requests.get(f"{engine.url}/api/v1/nni/check-status", headers={"Host": "evil.example"}, timeout=LONG)
    assert rebound.status_code == 403
    assert api(engine, "check-status")["status"] == "RUNNING"


def _listening(process):
    try:
        return [c.laddr for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    except psutil.Error:  # it has just ended
        return []


def test_another_address_of_the_machine_is_refused_unless_asked_for(tmp_path):
    if subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode or not shutil.which("ip"):
        pytest.skip("no network namespace can be made here")
    process = forked_with_nni(in_namespace, tmp_path, output=tmp_path)
    process.join(LONG)
    printed = (tmp_path / "out.txt").read_text()
    assert process.exitcode == 0, printed + (tmp_path / "err.txt").read_text()
    closed, opened = printed.split("0.0.0.0 127.0.0.1", 1)
    assert "127.0.0.1 127.0.0.1 0\n127.0.0.1 10.99.0.1 111\n" in closed  # 111: connection refused
    assert "without a password" not in closed.split("NNI's portal")[1]
    assert "0.0.0.0 10.99.0.1 0\n" in opened
    assert "without a password" in closed.split("NNI's portal")[2]


def in_namespace(folder):
    """Print which addresses answer, by the engine's `host`, in a network of its own that has 10.99.0.1 too."""
    ids = os.getuid(), os.getgid()
    if ctypes.CDLL(None, use_errno=True).unshare(NEW_USER | NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "unshare")
    for file, text in (("setgroups", "deny"), ("uid_map", f"0 {ids[0]} 1"), ("gid_map", f"0 {ids[1]} 1")):
        Path("/proc/self", file).write_text(text)
    for words in ("link set lo up", "addr add 10.99.0.1/32 dev lo"):
        subprocess.run(["ip", *words.split()], check=True)
    for host in ("127.0.0.1", "0.0.0.0"):
        engine = NNIEngine(host=host)
        engine.start(fake_trials.quick, None, folder)
        try:
            for address in ("127.0.0.1", "10.99.0.1"):
                with socket.socket() as s:
                    print(host, address, s.connect_ex((address, engine._experiment.port)), flush=True)
        finally:
            engine.close()


def test_the_portal_shows_reward_metrics_curve_and_choices(engine, lend, tmp_path):
    lent = lend(fake_trials.with_curve)
    search = loop(lent, tmp_path, 3)
    search.run()
    engine._experiment._settle()
    job = job_of(engine, lent)
    shown = json.loads(json.loads(job["finalMetricData"][0]["data"]))
    record = search.journal.trials[0]
    assert shown == {"default": record.reward, **record.metrics, "trial": lent.first, "architecture": record.id}
    points = [m for m in api(engine, f"metric-data/{job['trialJobId']}") if m["type"] == "PERIODICAL"]
    points.sort(key=lambda m: m["sequence"])  # which NNI may have stored in another order
    assert [json.loads(json.loads(m["data"]))["default"] for m in points] == [0.1, 0.2, 0.3]
    space = api(engine, "experiment")["params"]["searchSpace"]
    assert {label: choice["_value"] for label, choice in space.items()} == {
        c.label: list(c.options) for c in SPACE.choices.values()
    }


def test_all_files_are_in_the_runs_folder_and_the_terminal_stays_quiet(start, tmp_path, capfd, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nothing is there
    monkeypatch.chdir(tmp_path)
    folder = Path("a run")  # relative, with a space
    folder.mkdir()
    engine = start(fake_trials.quick, folder=folder)
    loop(engine, folder, 2).run()
    engine.close()
    assert list(home.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"home", "a run"}
    out, err = capfd.readouterr()
    assert out.startswith("NNI's portal: http://127.0.0.1:")
    assert out.count("\n") == 1
    assert err == ""


def test_a_manager_that_hangs_or_dies_ends_the_search_with_a_clear_message(start):
    before = set(_children_but_tracker())
    engine = start(fake_trials.sleeps)
    manager = psutil.Process(engine._experiment.pid)
    engine.submit(Job(0, dict(SPACE.default()), 0))
    assert engine.wait(2) == []
    running = engine._running[0]
    manager.suspend()
    with pytest.raises(EngineError, match="nothing has moved for 2 s"):
        running.client, running.since, running.patience = None, time.monotonic(), Patience(2.0, manager.pid)
        engine.wait(LONG)
    running.patience = Patience(LONG)
    manager.resume()
    manager.kill()
    with pytest.raises(EngineError, match="NNI's manager is gone"):
        engine.wait(LONG)
    engine.close()
    assert set(_children_but_tracker()) <= before


def test_a_busy_machine_ends_no_search(start, monkeypatch):
    """Slow to connect, beyond NNI's own 10 s, and to start a trial, beyond our own deadlines of an idle machine."""
    nni_experiment = importlib.import_module("yolov5_nas.engines.nni.experiment")

    async def slow(url, connect=nni_experiment._connect):
        await asyncio.sleep(11)
        return await connect(url)

    monkeypatch.setattr(patience_module, "run_delay", lambda pid: 0.8 * time.monotonic())  # as the kernel would say
    monkeypatch.setattr(nni_experiment, "STARTS_WITHIN", 4.0)
    monkeypatch.setattr(engine_module, "STARTS_TRIAL_WITHIN", 1.0)
    monkeypatch.setattr(nni_experiment, "_connect", slow)
    engine = start(fake_trials.noop)
    manager = psutil.Process(engine._experiment.pid)
    manager.suspend()
    engine.submit(Job(0, dict(SPACE.default()), 0))
    assert engine.wait(3) == []
    manager.resume()
    assert engine.wait(LONG)[0].result


def test_time_without_a_processor_does_not_count(monkeypatch):
    now, delays = [0.0], {os.getpid(): 5.0, 1: 7.0}
    monkeypatch.setattr(patience_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(patience_module, "run_delay", delays.get)
    patience = Patience(10.0, 1)

    def is_over(at, **delayed):
        now[0] = at
        delays.update({int(pid.removeprefix("pid")): delay for pid, delay in delayed.items()})
        return patience.is_over()

    assert not is_over(10.0) and is_over(10.1)
    assert not is_over(30.0, pid1=28.0) and is_over(31.1)  # of which it waited for 21 s
    delays[2] = 40.0
    patience.watch(2)  # it waited since it started
    assert not is_over(71.0) and is_over(71.2)
    assert not is_over(100.0, pid2=900.0) and is_over(100.1)  # at the latest


def test_a_process_may_start_while_another_thread_asks(monkeypatch):
    patience = Patience(LONG)
    monkeypatch.setattr(patience_module, "run_delay", lambda pid: patience.watch(pid + 1) or 0.0)
    assert not patience.is_over()


def test_a_process_that_shares_its_core_waits_and_one_that_is_suspended_does_not():
    core = min(os.sched_getaffinity(0))
    spin = f"import os; os.sched_setaffinity(0, [{core}])\nwhile True: pass"
    pair = [psutil.Popen([sys.executable, "-c", spin]) for _ in range(2)]
    try:
        wait_until(lambda: all(run_delay(process.pid) > 0.3 for process in pair))
        pair[0].suspend()
        wait_until(lambda: pair[0].status() == psutil.STATUS_STOPPED)
        before = run_delay(pair[0].pid)
        time.sleep(0.3)
        assert run_delay(pair[0].pid) == before
    finally:
        for process in pair:
            process.kill()
            process.wait()
    assert run_delay(pair[0].pid) == 0.0


def _children_but_tracker():
    return [p for p in own_processes()[1:] if p.is_running() and "resource_tracker" not in " ".join(p.cmdline())]


def test_a_trial_cancelled_in_the_portal_fails_as_killed(engine, lend):
    lent = lend(fake_trials.sleeps)
    lent.submit(Job(0, dict(SPACE.default()), 0))
    while job_of(engine, lent)["status"] != "RUNNING":
        assert lent.wait(0.2) == []
    requests.delete(f"{engine.url}/api/v1/nni/trial-jobs/{job_of(engine, lent)['trialJobId']}", timeout=LONG)
    (outcome,) = lent.wait(LONG)
    assert outcome.error == {"reason": "killed", "message": "its NNI trial was cancelled or killed"}


def test_a_trial_cancelled_before_it_says_which_it_is_fails_too(nni_lender, engine, lend, monkeypatch):
    monkeypatch.setattr(engine_module, "ASK", 1.0)
    lent = lend(fake_trials.sleeps)
    socket_file = nni_lender.folder / "nni" / SOCKET
    hidden = socket_file.rename(socket_file.with_suffix(".away"))  # its stand-in finds nobody to tell
    try:
        lent.submit(Job(0, dict(SPACE.default()), 0))
        (outcome,) = lent.wait(LONG)
    finally:
        hidden.rename(socket_file)
    assert outcome.error == {"reason": "killed", "message": "its NNI trial was cancelled or killed"}


def test_trials_are_forked_pinned_and_import_no_lightning(engine, lend):
    lent = lend(fake_trials.reports_process)
    for number in range(2):
        lent.submit(Job(number, dict(SPACE.default()), 0))
    outcomes = []
    while len(outcomes) < 2:
        outcomes += lent.wait(LONG)
    assert {o.result.metrics["device"] for o in outcomes} == {3, 5}
    assert {o.result.metrics["lightning"] for o in outcomes} == {0}
    assert engine.start_method == "fork"


def test_where_it_cannot_fork_a_trial_starts_plainly(start, monkeypatch):
    monkeypatch.setenv("YOLOV5_NAS_START", "spawn")
    engine = start(fake_trials.reports_process)
    engine.submit(Job(0, dict(SPACE.default()), 0))
    (outcome,) = engine.wait(LONG)
    assert engine.start_method == "spawn"
    assert outcome.result.metrics["lightning"] == 0


def test_the_next_free_port_is_taken_unless_one_is_given():
    first = engine_module.free_ports("127.0.0.1")[0]
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", first))
        taken.listen()
        assert engine_module.free_ports("127.0.0.1")[0] > first
        with pytest.raises(UserError, match=f"--port must be a free port, got {first}"):
            NNIEngine(port=first)


def test_a_manager_that_finds_its_port_taken_leaves_the_other_search_alone(engine, lend, start, tmp_path, monkeypatch):
    taken = engine._experiment.port
    monkeypatch.setattr(engine_module, "free_ports", lambda host: [taken, *range(taken + 50, taken + 60)])
    folder = tmp_path / "second"
    folder.mkdir()
    second = start(fake_trials.quick, folder=folder)
    assert second._experiment.port != taken
    assert api(engine, "check-status")["status"] == "RUNNING"
    loop(lend(fake_trials.quick), tmp_path, 2).run()
    loop(second, folder, 2).run()


@pytest.mark.parametrize("bad", [{"concurrency": 1000}, {"trial_minutes": 0}, {"host": "example.org"}, {"port": 99999}])
def test_bad_options(bad):
    with pytest.raises(UserError):
        NNIEngine(**bad)


def test_nni_missing_or_its_node_broken_is_said_in_one_line(monkeypatch, tmp_path):
    broken = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    (tmp_path / "node").write_text("no program")
    monkeypatch.setattr(checks, "find_spec", lambda name: broken)
    with pytest.raises(UserError, match="NNI's node program does not start here"):
        NNIEngine()
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'yolov5-nas\[nni\]'"):
        NNIEngine()


def test_when_the_search_is_killed_the_manager_ends_and_a_running_trial_leaves_its_outcome_for_a_resume(tmp_path):
    process = forked_with_nni(fake_search.main, tmp_path, 3, 1, "nni", "slow")
    path = tmp_path / "nni" / "processes.txt"
    wait_until(lambda: path.exists() and " trial" in path.read_text())
    process.kill()
    process.join()
    left = tmp_path / "trials" / "0" / "outcome.json"
    wait_until(left.exists)
    wait_until(lambda: not _alive(path))
    written = left.stat().st_mtime_ns
    fake_search.main(tmp_path, 1, 1, "nni", "slow")
    (record,) = Journal(tmp_path / "trials.jsonl").trials.values()
    assert (record.state, record.attempt) == ("complete", 2)
    assert left.stat().st_mtime_ns == written  # taken, not run again


def _alive(path):
    from yolov5_nas.engines.warm import start_of

    lines = [line.split() for line in path.read_text().splitlines()]
    return [kind for pid, start, *kind in lines if start_of(int(pid)) == start]


# The command line -----------------------------------------------------------------------------------------------------


def test_bad_options_end_with_one_line_and_code_2(host, digits_yaml, tmp_path, capsys):
    flags = ["search", "--data", str(digits_yaml), "--project", str(tmp_path / "runs"), "--device", "cpu"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for bad in (["--port", port], ["--concurrency", "1000"], ["--host", "example.org"]):
            assert main([*flags, *bad]) == 2
            (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
            assert line.startswith("error: --"), line
    assert not (tmp_path / "runs").exists()


def test_a_search_with_onnx_files_whose_manager_dies_ends_with_code_3_and_is_resumed(
    host, digits_yaml, tmp_path, capsys, monkeypatch
):
    pytest.importorskip("onnx")
    monkeypatch.setattr(engine_module, "cores", lambda: 1)  # beside other tests a trial's threads wait for each other
    hook = tmp_path / "own.py"
    hook.write_text("def measure(): return {'own': 3.0}\ndef on_fit_epoch_end(epoch): print('epoch', epoch)\n")
    flags = ["--data", str(digits_yaml), "--epochs", "1", "--subset", "0.1", "--imgsz", "64", "--trials", "2", "--onnx"]
    flags += ["--hook", str(hook), "--target", "own=3", "--reward", "map", "--device", "cpu", "--engine", "nni"]
    run = tmp_path / "exp"
    others = managers()
    killer = threading.Thread(target=kill_manager_after_a_trial, args=(run, others))
    killer.start()
    assert main(["search", "--project", str(tmp_path), *flags]) == 3
    killer.join()
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: NNI's manager is gone") and last.endswith(f"search --resume {run}")
    assert main(["search", "--resume", str(run)]) == 0
    assert [r.state for r in read_journal(run)] == ["complete"] * 2
    assert len(list(run.glob("trials/*/model.onnx"))) == 2
    assert [r.metrics["own"] for r in read_journal(run)] == [3.0] * 2  # a hook's
    assert "epoch 0" in (run / "trials/0/log.txt").read_text().splitlines()


def managers():
    return {p for p in psutil.Process().children() if "main.js" in p.cmdline()}


def kill_manager_after_a_trial(run, others):
    wait_until(lambda: list(run.glob("nni/*/environments/local-env/trials/*/model.onnx")))
    for manager in managers() - others:
        manager.kill()


# Spaces and strategies of NNI's ---------------------------------------------------------------------------------------

STRATEGIES = {
    "Random": {"dedup": True, "seed": 1},
    "GridSearch": {"seed": 1},
    "RegularizedEvolution": {"population_size": 4, "sample_size": 2, "seed": 1},
}


def asked(name, space=SPACE, **kwargs):
    """A strategy of NNI's by its name there, as a search asks it."""
    import nni.nas.strategy

    from yolov5_nas.engines.nni.strategy import NNIStrategy

    return NNIStrategy(getattr(nni.nas.strategy, name)(**kwargs), space)


@pytest.mark.parametrize("name", STRATEGIES)
def test_an_nni_strategy_is_asked_and_told_and_replayed(name, tmp_path):
    strategy = asked(name, **STRATEGIES[name])
    records = []
    for number in range(14):
        architecture = strategy.ask()
        assert SPACE.check(architecture) is None
        ended = {"state": "complete", "reward": fake_trials.score(architecture)} if number % 5 else {"state": "failed"}
        records += [
            TrialRecord(number, dict(architecture), "started"),
            TrialRecord(number, dict(architecture), **ended),
        ]
        strategy.tell(records[-1])
    assert records[0].id == SPACE.default().id
    assert len({r.id for r in records}) == 14
    again = asked(name, **STRATEGIES[name])
    assert replay(records, again) == []
    assert again.ask() == strategy.ask()


def test_nnis_evolution_learns_from_rewards():
    strategy = asked("RegularizedEvolution", population_size=6, sample_size=3, seed=0)
    rewards = []
    for number in range(120):
        architecture = strategy.ask()
        rewards.append(sum(value == SPACE.choices[label].options[-1] for label, value in architecture.items()))
        strategy.tell(TrialRecord(number, dict(architecture), "complete", float(rewards[-1])))
    assert sum(rewards[-20:]) / 20 > sum(rewards[1:21]) / 20 + 2  # seen 14.1 and 18.1 of 30; chance moves it by 0.6


def test_an_exhausted_nni_strategy_says_so():
    strategy = asked("GridSearch", TINY)
    assert len({strategy.ask().id for _ in range(TINY.size)}) == TINY.size == 4
    for _ in range(2):
        with pytest.raises(SpaceExhausted):
            strategy.ask()


def test_what_is_no_strategy_is_refused():
    from yolov5_nas.engines.nni.strategy import NNIStrategy

    with pytest.raises(UserError, match="a strategy must have ask and tell"):
        NNIStrategy(object(), SPACE)


def test_a_space_in_nnis_form():
    import nni
    from nni.mutable import SampleValidationError

    space = SPACE.to_nni()
    assert {label: list(m.values) for label, m in space.simplify().items()} == {
        c.label: list(c.options) for c in SPACE.choices.values()
    }
    model = space.freeze(dict(SPACE.default()))
    assert model.executable_model() == dict(SPACE.default())
    assert nni.load(nni.dump(model)).sample == dict(SPACE.default())
    with pytest.raises(SampleValidationError):
        space.freeze({**SPACE.default(), "nasconv_0": "k99p9"})
    assert SPACE.check(space.random().sample) is None
