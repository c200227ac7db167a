"""The Ray engine beyond the contract of all engines: nodes that die or can't serve, files, devices, bad input."""

from importlib.util import find_spec

import fake_trials
import psutil
import pytest

from yolov5_nas.files import shipped
from yolov5_nas.journal import Journal
from yolov5_nas.reward import SoftReward, Target
from yolov5_nas.search import Loop
from yolov5_nas.space import Space
from yolov5_nas.strategies import RandomSearch

pytestmark = [
    pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed"),
    pytest.mark.xdist_group("ray"),
]
SPACE = Space.from_yaml(shipped("models") / "yolov5n_nas.yaml")


@pytest.fixture
def make_engine(ray_cluster):
    from yolov5_nas.engines.ray import RayEngine

    made = []

    def make(**kwargs):
        made.append(RayEngine(**{"address": ray_cluster.address, "files": [fake_trials.__file__], **kwargs}))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def loop(engine, folder, trials, listener=lambda record: None):
    reward, journal = SoftReward([Target("latency_ratio", 1.0)]), Journal(folder / "trials.jsonl")
    return Loop(RandomSearch(SPACE), engine, journal, reward, trials, listeners=[listener])


def test_a_node_killed_in_the_middle_of_trials(make_engine, ray_cluster, tmp_path, capsys):
    engine, killed = make_engine(), []
    engine.start(fake_trials.slow, None, tmp_path)

    def kill_one(record):
        if not killed:
            slot = max((s for s in engine._all_slots() if s.job), key=lambda s: s.since)
            psutil.Process(ray_cluster.pids.pop(slot.node.id)).kill()
            killed.append(slot.job.number)

    search = loop(engine, tmp_path, 9, kill_one)
    search.run()
    trials = search.journal.trials
    assert [r.state for _, r in sorted(trials.items())] == ["complete"] * 9
    assert [r.number for r in trials.values() if r.attempt == 2] == killed
    assert sorted(r.number for r in search.journal.records if r.done) == list(range(9))
    assert len([r for r in search.journal.records if not r.done]) == 10
    assert "is gone" in capsys.readouterr().out
    assert engine.slots == 2
