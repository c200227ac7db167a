"""What every engine must do, whatever happens to the processes that its trials run in."""

import contextlib
import os
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import fake_trials
import psutil
import pytest
from lent import MINUTES, Lender
from processes import LONG, wait_until

from yolov5_nas.engines.contract import EngineError, Job
from yolov5_nas.engines.local import LocalEngine, device_indices
from yolov5_nas.engines.ray.engine import RayEngine
from yolov5_nas.errors import UserError
from yolov5_nas.files import shipped
from yolov5_nas.records.journal import REASONS, Journal
from yolov5_nas.records.options import STRATEGIES
from yolov5_nas.records.reward import SoftReward, Target, accuracy
from yolov5_nas.results.claims import Claim
from yolov5_nas.results.race import Race
from yolov5_nas.run.loop import Loop
from yolov5_nas.run.rounds import Rounds
from yolov5_nas.space.architecture import Architecture
from yolov5_nas.space.space import Space
from yolov5_nas.strategies.early_stopping import MIN_COMPLETE, Curves
from yolov5_nas.strategies.named import make_strategy
from yolov5_nas.strategies.random_search import RandomSearch

NEEDS_NNI = pytest.mark.skipif(not find_spec("nni"), reason="NNI is not installed")
NEEDS_RAY = pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed")
SPACE = Space.from_yaml(shipped("models") / "yolov5n_nas.yaml")
REWARD = SoftReward([Target("latency_ratio", 1.0)])
SHORT = 6.0  # seconds, after which a trial is stopped that sleeps


class RayEngineOfTest(RayEngine):
    """Trials of `fake_trials`, in processes that are known by their environment."""

    def runtime_env(self):
        return super().runtime_env() | {"env_vars": {"OF_ENGINE_TEST": os.environ["OF_ENGINE_TEST"]}}


ENGINES = ["local", pytest.param("nni", marks=NEEDS_NNI), pytest.param("ray", marks=NEEDS_RAY)]


@pytest.fixture(scope="module", params=ENGINES)
def lender(request, tmp_path_factory):
    """Lends an engine of each kind with two trials at a time; afterwards none of its processes is left."""
    if request.param == "nni":
        yield request.getfixturevalue("nni_lender")
        return
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "ray":
        request.getfixturevalue("ray_cluster")  # whose processes are none of the engine's
    with of_test(folder):
        minutes = SHORT / 60 if request.param == "ray" else MINUTES  # whose slots have it from the start
        lender = Lender(lambda: engine_of(request, concurrency=2, trial_minutes=minutes), folder)
        yield lender
        lender.close()
        check_none_left(folder)


def engine_of(request, **kwargs):
    if request.param == "local":
        return LocalEngine(**kwargs)
    return RayEngineOfTest(request.getfixturevalue("ray_cluster").address, files=[fake_trials.__file__], **kwargs)


@pytest.fixture
def lend(lender):
    return lender.lend


@pytest.fixture
def make_engine(tmp_path):
    """Makes local engines that have started; afterwards none of their processes is left."""
    made = []

    def make(trial, **kwargs):
        made.append(LocalEngine(**kwargs))
        made[-1].start(trial, None, tmp_path)
        return made[-1]

    with of_test(tmp_path):
        yield make
        for engine in made:
            engine.close()
        check_none_left(tmp_path)


@contextlib.contextmanager
def of_test(folder: Path):
    """Processes that start now are known as a test's, by what they inherit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OF_ENGINE_TEST", str(folder))
        yield


def check_none_left(folder: Path) -> None:
    _, left = psutil.wait_procs(processes_of(folder), LONG)  # Ray's nodes end them; NNI's end once the search is gone
    assert not [process.cmdline() for process in left]


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


def search(engine, folder: Path, trials: int, strategy=None, **kwargs):
    loop = Loop(strategy or RandomSearch(SPACE), engine, Journal(folder / "trials.jsonl"), REWARD, trials, **kwargs)
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
def test_a_broken_trial_fails_with_its_reason_and_the_search_goes_on(lend, tmp_path, trial, reason, message):
    records = search(lend(trial), tmp_path, 2)
    assert [r.state for r in records] == ["failed", "failed"]
    assert records[1].error["reason"] == reason in REASONS
    said = records[1].error["message"]
    # NNI may tell of the stand-in that went with it before the process's exit code is there.
    assert message in said or (reason, said) == ("killed", "its NNI trial was cancelled or killed")


def test_all_that_a_result_says_comes_through(lend):
    engine = lend(fake_trials.infeasible)
    engine.submit(Job(0, dict(SPACE.default()), 0))
    (outcome,) = engine.wait(LONG)
    assert outcome.result == fake_trials.infeasible({})


def test_with_three_in_ten_failing_the_search_reaches_its_number(lend, tmp_path):
    records = search(lend(fake_trials.some_fail), tmp_path, 30)
    assert len(records) == 30
    assert all(r.done for r in records)
    failed = [r for r in records if r.state == "failed"]
    assert 3 <= len(failed) <= 18
    assert all(r.error["reason"] in REASONS and r.error["message"] for r in failed)


def test_each_architecture_gets_its_own_metric_side_by_side(lend, tmp_path):
    for record in search(lend(fake_trials.quick), tmp_path, 16):
        assert record.reward == fake_trials.score(record.architecture)


def test_trials_are_ended_early_by_the_pruner_that_their_jobs_carry(lend, tmp_path):
    records = search(lend(fake_trials.curved), tmp_path, 16, curves=Curves(REWARD))
    assert {r.state for r in records} == {"complete", "pruned"}
    assert all(r.state == "complete" for r in records[:MIN_COMPLETE])
    best = max(records, key=lambda r: fake_trials.score(r.architecture))
    assert best.state == "complete"


@pytest.mark.parametrize("name", sorted(set(STRATEGIES) - {"grid"}))
def test_every_strategy_goes_on_where_it_was_cut_off(lend, tmp_path, name):
    def asked():
        return make_strategy(name, SPACE, seed=3, population=4)

    first = search(lend(fake_trials.noop), tmp_path, 8, asked())
    journal = tmp_path / "trials.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:9]))
    records = search(lend(fake_trials.noop), tmp_path, 12, asked())
    assert journal.read_text().startswith("".join(lines[:9]))
    assert [r.state for r in records] == ["complete"] * 12
    assert len({r.id for r in records}) == 12 and records[0].id == first[0].id


def test_a_proof_comes_to_the_same_verdict_on_every_engine(lend, tmp_path):
    """The scores are planted: trials 1 and 2 are better and cheaper, trial 3 is worse."""
    widths = {"stock": 1.0, "trial 1": 0.5, "trial 2": 0.97, "trial 3": 1.5}
    known = {name: Architecture({**SPACE.default(), "c3_8": width}) for name, width in widths.items()}
    race = Race(["stock"], ["trial 1", "trial 2", "trial 3"], 6, 0.005)
    rounds = Rounds(race, known, {a.id: name for name, a in known.items()}, "latency_ratio")
    journal = Journal(tmp_path / "trials.jsonl")
    trial = fake_trials.planted
    Loop(rounds, lend(trial), journal, accuracy, 24, seed=lambda number: rounds.seeds[number]).run()
    assert verdict(race) == {
        "trial 1": {Claim.BETTER, Claim.AS_GOOD},
        "trial 2": {Claim.BETTER, Claim.AS_GOOD},
        "trial 3": set(),
    }
    trained = Counter(names.name for names in race.contestants.values() for _ in names.scores)
    assert trained["trial 3"] < 6  # it is hopeless
    alone = Race(["stock"], ["trial 1", "trial 2", "trial 3"], 6, 0.005)
    by = {a.id: name for name, a in known.items()}
    for record in sorted(journal.records, key=lambda r: r.number):
        if record.state == "complete":
            metrics = trial(record.architecture, None, record.seed, tmp_path).metrics
            alone.add(by[record.id], record.seed, metrics["map50_95"], metrics["latency_ratio"], 0.01 / 1.96)
    assert [c.ps for c in alone.comparisons()] == [pytest.approx(c.ps, rel=1e-3) for c in race.comparisons()]


def verdict(race):
    return {c.candidate: {claim for claim in Claim if c.holds(claim)} for c in race.comparisons()}


def test_a_trial_past_its_limit_is_stopped(lender, lend, tmp_path, monkeypatch):
    lent = lend(fake_trials.sleeps)
    monkeypatch.setattr(lender.engine, "seconds", SHORT, raising=False)
    records = search(lent, tmp_path, 2)
    assert [r.error["reason"] for r in records] == ["timeout"] * 2
    assert all(SHORT <= r.seconds < LONG for r in records)


def test_more_jobs_than_slots_are_refused(make_engine):
    engine = make_engine(fake_trials.sleeps)
    engine.submit(Job(0, dict(SPACE.default()), 0))
    with pytest.raises(EngineError, match="all slots are taken: at most 1 jobs run at a time"):
        engine.submit(Job(1, dict(SPACE.default()), 0))


def test_processes_stay_warm_and_are_pinned(make_engine, tmp_path):
    records = search(make_engine(fake_trials.reports_process, concurrency=2, devices=("3", "5")), tmp_path, 8)
    assert len({r.metrics["pid"] for r in records}) == 2
    assert {r.metrics["device"] for r in records} == {3, 5}
    assert all(r.metrics["threads"] >= 1 for r in records)


def test_a_process_killed_while_idle_is_replaced(make_engine, tmp_path):
    engine = make_engine(fake_trials.reports_process)
    first = _result(engine, 0)
    psutil.Process(int(first["pid"])).kill()
    wait_until(lambda: not engine._pools[0].active)
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
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert device_indices("1,0") == ("7", "4")
    assert device_indices("cpu") == ()
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)  # without a driver, whatever the variable says
    with pytest.raises(UserError, match="--device must name devices of this machine"):
        device_indices("0")
