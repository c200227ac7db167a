"""The Ray engine beyond the contract of all engines: nodes that die or can't serve, files, devices, bad input."""

import contextlib
import itertools
import shutil
import socket
import time
from importlib.util import find_spec
from pathlib import Path

import fake_trials
import psutil
import pytest
from processes import LONG, own_processes

from yolov5_nas.cli import main
from yolov5_nas.engines.contract import Job
from yolov5_nas.engines.ray.cluster import LOOPBACK
from yolov5_nas.engines.ray.engine import RayEngine
from yolov5_nas.errors import UserError
from yolov5_nas.files import shipped
from yolov5_nas.records.journal import Journal, best, front, read_journal
from yolov5_nas.records.options import Options, load_options
from yolov5_nas.records.reward import SoftReward, Target
from yolov5_nas.records.run_folder import RunFolder
from yolov5_nas.run.loop import Loop
from yolov5_nas.space.space import Space
from yolov5_nas.strategies.random_search import RandomSearch

pytestmark = pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed")
SPACE = Space.from_yaml(shipped("models") / "yolov5n_nas.yaml")


@contextlib.contextmanager
def engines(ray_cluster, host):
    """Makes engines on the tests' cluster, and closes them: a process can be connected to one Ray at a time."""
    made = []
    clone = [host.location.root] if host.location.kind == "clone" else []  # which a search sends along, too

    def make(**kwargs):
        files = [fake_trials.__file__, *clone]
        made.append(RayEngine(**{"address": ray_cluster.address, "files": files, **kwargs}))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


@pytest.fixture
def make_engine(ray_cluster, host):
    with engines(ray_cluster, host) as make:
        yield make


def loop(engine, folder, trials, listener=lambda record: None):
    reward, journal = SoftReward([Target("latency_ratio", 1.0)]), Journal(folder / "trials.jsonl")
    return Loop(RandomSearch(SPACE), engine, journal, reward, trials, listeners=[listener])


def run_one(engine, number, **overrides):
    engine.submit(Job(number, dict(SPACE.default()), 0, overrides))
    while not (outcomes := engine.wait(5)):
        pass
    return outcomes[0]


class TestOneSlot:
    """An engine that takes seconds to start."""

    @pytest.fixture(scope="class")
    def engine(self, ray_cluster, host, tmp_path_factory):
        with engines(ray_cluster, host) as make:
            engine = make(concurrency=1)
            engine.start(fake_trials.named, fake_trials.Overridable(), tmp_path_factory.mktemp("slot"))
            yield engine

    def test_files_come_back_and_weights_when_they_are_fetched(self, engine):
        folders = [RunFolder(engine.folder).trial(number).path for number in range(3)]
        run_one(engine, 0, trial="with_weights")
        engine.fetch(0)
        run_one(engine, 1, trial="with_weights")
        run_one(engine, 2, trial="with_weights")
        engine.fetch(1)  # too late: it was for as long as the outcome was new
        assert [(folder / "log.txt").read_text() for folder in folders] == ["a line\n"] * 3
        assert [(folder / "weights.pt").exists() for folder in folders] == [True, False, False]
        assert (folders[0] / "weights.pt").stat().st_size == 300_000

    def test_a_slot_that_is_killed_is_replaced_and_its_trial_has_failed(self, engine):
        pid = int(run_one(engine, 10, trial="reports_process").result.metrics["pid"])
        # It stays warm.
        assert run_one(engine, 11, trial="reports_process").result.metrics["pid"] == pid
        engine.submit(Job(12, dict(SPACE.default()), 0, {"trial": "reports_process"}))
        trial = psutil.Process(pid)
        trial.parent().kill()
        while not (outcomes := engine.wait(5)):
            pass
        assert not outcomes[0].lost
        assert outcomes[0].error["reason"] == "killed"
        assert run_one(engine, 13, trial="reports_process").result.metrics["pid"] != pid
        assert psutil.wait_procs([trial], LONG)[1] == []


def test_trials_share_gpus_by_fractions(make_engine, tmp_path):
    engine = make_engine(cpus_per_trial=0.25, gpus_per_trial=0.5)
    assert engine.slots == 4
    engine.start(fake_trials.reports_process, None, tmp_path)
    while len(engine._idle[False]) < 4:
        engine.wait(0.1)
    search = loop(engine, tmp_path, 12)
    search.run()
    processes = {(r.metrics["pid"], r.metrics["device"]) for r in search.journal.trials.values()}
    assert sorted(device for _, device in processes) == [0, 0, 1, 1]
    assert {r.metrics["threads"] for r in search.journal.trials.values()} == {1}


def test_a_ray_of_our_own_keeps_to_this_machine_and_leaves_nothing(make_engine, tmp_path):
    engine = make_engine(address=None, concurrency=1)
    engine.start(fake_trials.noop, None, tmp_path)
    assert run_one(engine, 0).result
    processes = own_processes()
    ours = [p for p in processes if p.name() in ("raylet", "gcs_server")]
    assert len(ours) == 2
    sockets = [c.laddr.ip for p in processes for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert sockets
    assert set(sockets) <= set(LOOPBACK)
    engine.close()
    assert psutil.wait_procs(ours, LONG)[1] == []


def test_the_nodes_of_a_resource_measure_and_the_others_train(make_engine, ray_cluster, tmp_path):
    engine = make_engine(measure_on="meter", measure=fake_trials.measures)
    assert engine.slots == len(ray_cluster.pids)  # one measures, the others train
    engine.start(fake_trials.with_costs, None, tmp_path)
    search = loop(engine, tmp_path, 8)
    search.run()
    records = list(search.journal.trials.values())
    trained = [r for r in records if r.state == "complete"]
    assert {r.state for r in records} == {"complete", "infeasible"}
    assert len({r.conditions["place"] for r in records}) == 1
    assert not {r.conditions["place"] for r in records} & {r.metrics["place"] for r in trained}
    assert all(r.metrics["latency_ratio"] == 1.5 for r in trained)


# Bad input ------------------------------------------------------------------------------------------------------------


def cli(capsys, *flags):
    """A search on digits; its exit code and the last line of its errors."""
    code = main(["search", "--engine", "ray", "--trials", "1", "--epochs", "1", *map(str, flags)])
    return code, capsys.readouterr().err.strip().splitlines()[-1]


def test_bad_input_is_one_line_and_exit_code_2(ray_cluster, digits_yaml, tmp_path, capsys, monkeypatch):
    import ray

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{closed.getsockname()[1]}"
    cases = [
        (("--address", nobody), "no Ray answers there"),
        (("--address", "here"), "--address must be auto or HOST:PORT"),
        (("--cpus-per-trial", "2"), "--cpus-per-trial: no node has as much, got 2.0; accepted: at most 1"),
        (("--gpus-per-trial", "8"), "--gpus-per-trial: no node has as much, got 8.0; accepted: at most 2"),
        (("--gpus-per-trial", "1.5"), "--gpus-per-trial must be 0, a share of a GPU or a whole number"),
        (("--measure-on", "none"), "--measure-on none: no node has as much, got 1; accepted: at most 0"),
        (("--concurrency", "50"), "--concurrency must be at most what the cluster has room for, got 50"),
        (("--trial-minutes", "0"), "the minutes of a trial must be above 0"),
        (("--base-epochs", "1"), "--base-epochs is not for --engine ray"),
        (("--device", "0"), "--engine ray gets its devices by --gpus-per-trial"),
    ]
    common = ("--data", digits_yaml, "--project", tmp_path / "runs")
    for flags, message in cases:
        code, error = cli(capsys, *common, "--address", ray_cluster.address, *flags)
        assert (code, error[:7]) == (2, "error: "), (flags, error)
        assert message in error, (flags, error)
    monkeypatch.setattr(ray, "__version__", "1.0.0")
    code, error = cli(capsys, *common, "--address", ray_cluster.address)
    assert code == 2
    assert "Ray: 1.0.0" in error
    assert not (tmp_path / "runs").exists()


def test_nodes_that_lack_a_device_or_the_data(make_engine, ray_cluster, digits, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"node .* is left out: torch sees no GPU.*; node") as e:
        make_engine().start(fake_trials.noop, fake_trials.NeedsGPU(), tmp_path)
    assert str(e.value).count("is left out") == len(ray_cluster.pids)
    copy = shutil.copytree(digits, tmp_path / "digits")
    engine = make_engine()
    monkeypatch.setattr(engine, "_invite", lambda: (shutil.rmtree(copy), RayEngine._invite(engine)))
    with pytest.raises(UserError, match="is left out: the data is missing"):
        data = {"path": str(copy), "train": f"{copy}/images/train", "val": f"{copy}/images/val", "nc": 10}
        engine.start(fake_trials.noop, fake_trials.NeedsData(data), tmp_path)


def test_unlike_devices_are_refused(make_engine, tmp_path, monkeypatch):
    engine = make_engine()
    devices = iter("AB" * 9)
    get = engine.ray.get
    monkeypatch.setattr(engine.ray, "get", lambda ref, **kwargs: get(ref, **kwargs) and next(devices))
    with pytest.raises(UserError, match=r"latencies of unlike devices can't be compared: .* got 'A on .*; B on"):
        engine.start(fake_trials.noop, None, tmp_path)


# Whole searches, and nodes that come and go ---------------------------------------------------------------------------


def test_a_search_on_digits_over_two_nodes_with_shipped_data(ray_cluster, digits_yaml, tmp_path):
    flags = ["--engine", "ray", "--address", ray_cluster.address, "--ship-data", "--trials", "2"]
    flags += ["--measure-on", "meter"]
    flags += ["--data", str(digits_yaml), "--epochs", "1", "--subset", "0.1", "--imgsz", "64", "--seed", "5"]
    hook = tmp_path / "own.py"
    hook.write_text("def measure(): return {'own': 3.0}\ndef on_fit_epoch_end(epoch): print('epoch', epoch)\n")
    flags += ["--hook", str(hook), "--target", "own=3", "--reward", "map"]
    assert main(["search", *flags, "--project", str(tmp_path)]) == 0
    run = tmp_path / "exp"
    records = read_journal(run)
    assert [r.state for r in records] == ["complete"] * 2
    objectives = Options().with_given(load_options(run / "search.yaml")).front
    kept = {best(records).number, *(r.number for r in front(records, *objectives))}
    assert {int(path.parent.name) for path in run.glob("trials/*/weights.pt")} == kept
    assert (run / "best/weights/best.pt").exists()
    assert [r.metrics["own"] for r in records] == [3.0] * 2  # a hook's
    assert "epoch 0" in (run / "trials/0/log.txt").read_text().splitlines()
    assert len({r.conditions["device"] for r in records}) == 1
    assert all((run / f"trials/{n}/{name}").exists() for n in range(2) for name in ("log.txt", "curve.jsonl"))
    copies = list((ray_cluster.cache / "yolov5-nas/data").glob("*/"))
    assert len(copies) == 1
    val = copies[0] / str(digits_yaml.parent)[1:] / "labels/val"
    assert len(list(val.glob("*.txt"))) == 32
    (read,) = (ray_cluster.cache / "yolov5-nas/lists").glob("*/val.txt")
    assert all(Path(line).is_relative_to(copies[0]) for line in read.read_text().splitlines())
    assert read.with_suffix(".cache").exists()  # YOLOv5's: it was the copy that the nodes read


def test_a_node_killed_in_the_middle_of_trials(make_engine, ray_cluster, tmp_path, capsys):
    engine, killed = make_engine(), []
    slots = engine.slots
    engine.start(fake_trials.slow, None, tmp_path)

    def kill_one(record):
        if not killed and (busy := [slot for slot in engine._slots if slot.job]):
            slot = max(busy, key=lambda s: s.since)
            killed.append(slot.node.id)
            ray_cluster.kill(slot.node.id)

    search = loop(engine, tmp_path, 5, kill_one)
    search.run()
    trials = search.journal.trials
    assert [r.state for _, r in sorted(trials.items())] == ["complete"] * 5
    assert sorted(r.attempt for r in trials.values()) == [1] * 4 + [2]
    assert sorted(r.number for r in search.journal.records if r.done) == list(range(5))
    assert len([r for r in search.journal.records if not r.done]) == 6
    assert f"{killed[0][:6]}) is gone" in capsys.readouterr().out
    assert engine.slots == slots - 1


def test_a_node_that_joins_is_used_or_left_out(make_engine, ray_cluster, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("yolov5_nas.engines.ray.engine.LOOK", 1.0)
    engine = make_engine()
    engine.start(fake_trials.noop, fake_trials.Picky(), tmp_path)
    slots, printed = engine.slots, ""
    bad = ray_cluster.add(REFUSES="1")
    ray_cluster.add(REFUSES="")
    end = time.monotonic() + LONG
    for number in itertools.takewhile(lambda _: time.monotonic() < end, itertools.count()):
        assert run_one(engine, number).result
        printed += capsys.readouterr().out
        if engine.slots > slots and "left out" in printed:
            break
        time.sleep(0.2)
    ray_cluster.kill(bad)
    assert engine.slots == slots + 1
    assert f"{bad[:6]}) is left out" in printed
