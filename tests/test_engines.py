"""What every engine must do, whatever happens to the processes that its trials run in."""

import os
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import fake_trials
import psutil
import pytest

from yolov5_nas.engines import Job
from yolov5_nas.engines.local import LocalEngine, device_indices
from yolov5_nas.engines.nni import NNIEngine
from yolov5_nas.engines.ray import RayEngine
from yolov5_nas.errors import UserError
from yolov5_nas.files import shipped
from yolov5_nas.journal import REASONS, Journal
from yolov5_nas.pruning import LEAST, Curves
from yolov5_nas.reward import SoftReward, Target
from yolov5_nas.search import Loop
from yolov5_nas.space import Space
from yolov5_nas.strategies import RandomSearch

ENGINES = {"local": LocalEngine, "nni": NNIEngine}
NEEDS_NNI = pytest.mark.skipif(not find_spec("nni"), reason="NNI is not installed")
NEEDS_RAY = pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed")
ONLY_LOCAL = pytest.mark.parametrize("make_engine", ["local"], indirect=True)
SPACE = Space.from_yaml(shipped("models") / "yolov5n_nas.yaml")
REWARD = SoftReward([Target("latency_ratio", 1.0)])


class RayEngineOfTest(RayEngine):
    """Trials of `fake_trials`, in processes that are known by their environment."""

    def runtime_env(self):
        return super().runtime_env() | {"env_vars": {"OF_ENGINE_TEST": os.environ["OF_ENGINE_TEST"]}}


@pytest.fixture(
    params=[
        "local",
        pytest.param("nni", marks=NEEDS_NNI),
        pytest.param("ray", marks=NEEDS_RAY),
    ]
)
def make_engine(request, tmp_path, monkeypatch):
    """Makes started engines; afterwards none of their processes is left, wherever it hangs in the tree."""
    engines = dict(ENGINES)
    if request.param == "ray":
        address = request.getfixturevalue("ray_cluster").address
        engines["ray"] = partial(RayEngineOfTest, address, files=[fake_trials.__file__])
    monkeypatch.setenv("OF_ENGINE_TEST", str(tmp_path))  # processes inherit it
    made = []

    def make(trial, settings=None, **kwargs):
        made.append(engines[request.param](**kwargs))
        made[-1].start(trial, settings, tmp_path)
        return made[-1]

    yield make
    for engine in made:
        engine.close()
    left = processes_of(tmp_path)
    if request.param != "local":
        _, left = psutil.wait_procs(left, 5)  # Ray's nodes end them; NNI's stand-ins end once the search is gone
    assert not left


def processes_of(folder: Path) -> list[psutil.Process]:
    return [p for p in psutil.process_iter() if p.pid != os.getpid() and _is_of(p, folder)]


def _is_of(process: psutil.Process, folder: Path) -> bool:
    try:
        return (
            process.environ().get("OF_ENGINE_TEST") == str(folder)
            and process.status() != psutil.STATUS_ZOMBIE
            and "resource_tracker" not in " ".join(process.cmdline())
        )
    except psutil.Error:
        return False


def search(engine, folder: Path, trials: int, **kwargs):
    loop = Loop(RandomSearch(SPACE), engine, Journal(folder / "trials.jsonl"), REWARD, trials, **kwargs)
    loop.run()
    return [record for _, record in sorted(loop.journal.trials.items())]


@pytest.mark.parametrize(
    ("trial", "reason", "message"),
    [
        (fake_trials.raises, "crash", "ValueError: broken on purpose"),
        (fake_trials.raises_timeout, "crash", "TimeoutError: raised by the trial itself"),
        (fake_trials.out_of_memory, "oom", "no memory at half the batch"),
        (fake_trials.exits, "crash", "exit code 1"),
        (fake_trials.killed, "killed", "exit code -9"),
        (fake_trials.returns_none, "crash", "returned no TrialResult but NoneType"),
        (fake_trials.returns_nan, "nan", "map50_95 is nan"),
        (fake_trials.returns_nothing_measured, "crash", "needs latency_ratio, which was not measured"),
    ],
)
def test_a_broken_trial_fails_with_its_reason_and_the_search_goes_on(make_engine, tmp_path, trial, reason, message):
    records = search(make_engine(trial), tmp_path, 2)
    assert [r.state for r in records] == ["failed", "failed"]
    assert records[1].error["reason"] == reason in REASONS
    assert message in records[1].error["message"]


def test_all_that_a_result_says_comes_through(make_engine):
    engine = make_engine(fake_trials.infeasible)
    engine.submit(Job(0, dict(SPACE.default()), 0))
    (outcome,) = engine.wait(60)
    assert outcome.result == fake_trials.infeasible({})


def test_a_trial_past_its_limit_is_stopped(make_engine, tmp_path):
    start = time.monotonic()
    records = search(make_engine(fake_trials.sleeps, trial_minutes=1 / 60), tmp_path, 2)
    assert [r.error["reason"] for r in records] == ["timeout"] * 2
    assert time.monotonic() - start < 20


def test_with_three_in_ten_failing_the_search_reaches_its_number(make_engine, tmp_path):
    records = search(make_engine(fake_trials.some_fail, concurrency=2), tmp_path, 40)
    assert len(records) == 40
    assert all(r.done for r in records)
    failed = [r for r in records if r.state == "failed"]
    assert 4 <= len(failed) <= 24
    assert all(r.error["reason"] in REASONS and r.error["message"] for r in failed)


def test_each_architecture_gets_its_own_metric_side_by_side(make_engine, tmp_path):
    for record in search(make_engine(fake_trials.quick, concurrency=2), tmp_path, 24):
        assert record.reward == fake_trials.score(record.architecture)


def test_trials_are_ended_early_by_the_pruner_that_their_jobs_carry(make_engine, tmp_path):
    engine = make_engine(fake_trials.curved, fake_trials.Overridable())
    records = search(engine, tmp_path, 16, curves=Curves(REWARD))
    assert {r.state for r in records} == {"complete", "pruned"}
    assert all(r.state == "complete" for r in records[:LEAST])
    best = max(records, key=lambda r: fake_trials.score(r.architecture))
    assert best.state == "complete"


@ONLY_LOCAL
def test_processes_stay_warm_and_are_pinned(make_engine, tmp_path):
    records = search(make_engine(fake_trials.reports_process, concurrency=2, devices=("3", "5")), tmp_path, 8)
    assert len({r.metrics["pid"] for r in records}) == 2
    assert {r.metrics["device"] for r in records} == {3, 5}
    assert all(r.metrics["threads"] >= 1 for r in records)


def test_close_stops_what_runs_at_once(make_engine):
    engine = make_engine(fake_trials.sleeps)
    engine.submit(Job(0, dict(SPACE.default()), 0))
    assert engine.wait(0.2) == []
    start = time.monotonic()
    engine.close()
    engine.close()
    assert time.monotonic() - start < 8


@ONLY_LOCAL
def test_a_process_killed_while_idle_is_replaced(make_engine, tmp_path):
    engine = make_engine(fake_trials.reports_process)
    first = _result(engine, 0)
    psutil.Process(int(first["pid"])).kill()
    time.sleep(1)
    assert _result(engine, 1)["pid"] != first["pid"]


def _result(engine, number):
    engine.submit(Job(number, dict(SPACE.default()), 0))
    while not (outcomes := engine.wait(5)):
        pass
    return outcomes[0].result.metrics


@pytest.mark.parametrize("bad", [{"concurrency": 1000}, {"concurrency": -1}, {"trial_minutes": 0}])
def test_bad_engine_options(bad):
    with pytest.raises(UserError):
        LocalEngine(**bad)


@pytest.mark.parametrize("device", ["99", "x", "0,99", "-1"])
def test_a_device_that_is_not_there(device):
    with pytest.raises(UserError, match="--device must name devices"):
        device_indices(device)


def test_device_indices_count_within_what_the_user_made_visible(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert device_indices("1,0") == ("7", "4")
    assert device_indices("cpu") == ()
