"""One supernet: trained, killed, resumed, and its slices scored. Real trainings on part of the digits."""

import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.optim.swa_utils import update_bn

from yolov5_nas.engines.contract import Job, Outcome
from yolov5_nas.errors import TrialError, UserError
from yolov5_nas.files import shipped
from yolov5_nas.host.compat import patched
from yolov5_nas.host.yolov5 import load
from yolov5_nas.records.journal import TrialRecord, TrialResult, read_journal
from yolov5_nas.run.stages import StageError, finalists, from_scratch, scores, trained_supernet
from yolov5_nas.space.model_yaml import read_model_yaml
from yolov5_nas.space.space import Space
from yolov5_nas.strategies.given import GivenArchitectures
from yolov5_nas.training.initial import check_weights
from yolov5_nas.training.process import global_state_kept
from yolov5_nas.training.scoring import score_trial
from yolov5_nas.training.supernet import SupernetTraining, train_supernet
from yolov5_nas.training.trial import run_trial
from yolov5_nas.weights import supernet
from yolov5_nas.weights.elastic import extract

STILL = {
    "start": lambda *_: None,
    "fetch": lambda number: None,
    "close": lambda: None,
}  # of an engine that does nothing
NAMES = ("map50", "map50_95", "precision", "recall")


@pytest.fixture(scope="module")
def settings(small_settings, tmp_path_factory):
    """With half of the images: a step trains four architectures."""
    model, _ = read_model_yaml(shipped("models") / "yolov5n_elastic.yaml")
    half = tmp_path_factory.mktemp("half") / "train.txt"
    lines = Path(small_settings.data["train"]).read_text().splitlines()
    half.write_text("\n".join(lines[:32]))
    return replace(small_settings, model=model, data={**small_settings.data, "train": str(half)})


@pytest.fixture(scope="module")
def shared(settings, tmp_path_factory):
    """A trained supernet's folder, and what the training gave."""
    folder = tmp_path_factory.mktemp("shared")
    return folder, train_supernet(settings.space.default(), settings, 5, folder)


def assert_equal(one, other):
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def state(folder):
    return torch.load(folder / "weights.pt", weights_only=True)["state"]


def test_a_full_training_takes_no_weights_and_freezes_nothing(settings):
    inheriting = replace(settings, weights="w.pt", base_epochs=9, freeze=(0, 1))
    full = from_scratch(inheriting, 24)
    assert (full.weights, full.base_epochs, full.freeze, full.epochs) == (None, None, (), 24)


def test_the_extremes_of_a_space(settings):
    space = settings.space
    small, large = supernet.extreme(space, min), supernet.extreme(space, max)
    labels = ("c3_4", "c3_4_depth", "nasconv_0")
    assert [small[label] for label in labels] == [0.5, 1, "k4p1"]
    assert [large[label] for label in labels] == [1.5, 3, "k6p2"]
    assert {small[label] for label in small if label.endswith("act")} == {"SiLU"}
    assert space.validate(small) is space.validate(large) is None


def test_a_training_learns_and_leaves_a_network_that_is_read_again(shared, settings, host):
    folder, result = shared
    assert result.curve[1]["box_loss"] < result.curve[0]["box_loss"]
    read = supernet.load(folder / "weights.pt", settings.model, settings.nc, host)
    assert_equal(read.state_dict(), state(folder))


def test_a_training_that_was_killed_ends_as_one_that_was_not(shared, settings, tmp_path):
    def kill(training, epoch):
        raise KeyboardInterrupt

    keep = SupernetTraining._end_epoch
    with (
        patched(SupernetTraining, _end_epoch=lambda t, epoch: (keep(t, epoch), kill(t, epoch))),
        pytest.raises(KeyboardInterrupt),
    ):
        train_supernet(settings.space.default(), settings, 5, tmp_path)
    assert (tmp_path / "last.pt").exists() and not (tmp_path / "weights.pt").exists()
    result = train_supernet(settings.space.default(), settings, 5, tmp_path)
    assert result.metrics == shared[1].metrics
    assert [p["epoch"] for p in result.curve] == [1, 2]
    assert_equal(state(tmp_path), state(shared[0]))


def test_it_goes_on_with_any_optimizer_anchors_input_size_and_frozen_layers(settings, host, tmp_path):
    hyp = {**settings.hyp, "anchors": 4}
    own = replace(settings, model={**settings.model, "imgsz": [64, 96]}, hyp=hyp, optimizer="SGD", freeze=(2,))

    def kill(training, epoch):
        keep(training, epoch)
        raise KeyboardInterrupt

    keep = SupernetTraining._end_epoch
    with patched(SupernetTraining, _end_epoch=kill), pytest.raises(KeyboardInterrupt):
        train_supernet(own.space.default(), own, 5, tmp_path)
    before = torch.load(tmp_path / "last.pt", weights_only=True)["model"]
    assert [p["epoch"] for p in train_supernet(own.space.default(), own, 5, tmp_path).curve] == [1, 2]
    after = state(tmp_path)
    weights = [name for name in before if name.endswith("conv.weight")]
    moved = {name.split(".")[1] for name in weights if not torch.allclose(before[name], after[name], atol=1e-6)}
    assert "2" not in moved and {"1", "4"} < moved
    architecture = {**own.space.sample(random.Random(3)), "imgsz": 96}
    child = replace(own, weights=str(tmp_path / "weights.pt"), epochs=1)
    assert set(score_trial(architecture, child).metrics) == {*NAMES, "params", "gflops"}
    run_trial(architecture, child, 0, tmp_path / "child")
    assert host.load_checkpoint(tmp_path / "child" / "weights.pt").model[-1].na == 4
    assert "tensors from" in (tmp_path / "child/log.txt").read_text()


def test_a_training_that_was_killed_after_its_last_epoch_gives_the_same_network(shared, settings, tmp_path):
    (tmp_path / "last.pt").write_bytes((shared[0] / "last.pt").read_bytes())
    result = train_supernet(settings.space.default(), settings, 5, tmp_path)
    assert result.metrics == shared[1].metrics
    assert_equal(state(tmp_path), state(shared[0]))


def test_a_supernet_whose_training_failed_is_tried_again(settings, tmp_path):
    def network(error=None):
        job = Job(0, settings.space.default(), 0, None)
        result = None if error else TrialResult({"map50_95": 0.5})
        engine = SimpleNamespace(slots=1, submit=lambda job: None, **STILL)
        engine.wait = lambda timeout: [Outcome(job.number, 1.0, result, error)]
        return trained_supernet(tmp_path, settings, 1, engine=lambda: engine, seed=0)

    with pytest.raises(StageError, match="the training of the supernet has failed: over time"):
        network({"reason": "timeout", "message": "over time"})
    assert network() == tmp_path / "shared/trials/0" / "weights.pt"
    assert [r.state for r in read_journal(tmp_path / "shared")] == ["complete"]


def test_scores_that_all_fail_end_the_search_and_say_why(settings, tmp_path):
    engine = SimpleNamespace(slots=1, **STILL)
    engine.submit = lambda job: setattr(engine, "job", job)
    engine.wait = lambda timeout: [Outcome(engine.job.number, 1.0, TrialResult({"map50_95": 0.5}), None)]

    def reward(metrics):
        return metrics["map50_95"] / metrics["latency_ratio"]

    asked = GivenArchitectures([settings.space.sample(random.Random(n)) for n in range(3)])
    with pytest.raises(StageError, match=r"all scores have failed, the last: .*latency_ratio"):
        scores(tmp_path, settings, asked, engine=lambda: engine, reward=reward, count=3, seed=0)


def test_a_seed_of_any_size_is_good_for_all_epochs(settings):
    training = SimpleNamespace(seed=2**32 - 1, host=load(settings.location))
    training.images = SimpleNamespace(train=SimpleNamespace())
    training.images.train = SimpleNamespace(loader=torch.utils.data.DataLoader([1], generator=torch.Generator()))
    with global_state_kept():
        SupernetTraining._begin_epoch(training, 35)


def test_a_score_is_that_of_the_slice_and_the_same_again(shared, settings, host):
    weights = shared[0] / "weights.pt"
    architecture = settings.space.sample(random.Random(3))
    scoring = replace(settings, weights=str(weights))
    first, other, again = (score_trial(a, scoring) for a in (architecture, settings.space.default(), architecture))
    assert first.metrics == again.metrics
    assert first.metrics["params"] != other.metrics["params"]
    assert set(first.metrics) == {*NAMES, "params", "gflops"}  # no latency, which nothing needs
    assert "latency_ratio" in score_trial(architecture, replace(scoring, needed=("latency_ratio",))).metrics
    assert "latency_ratio" in score_trial(architecture, replace(scoring, measure_all=True)).metrics


def test_a_trial_starts_from_its_slice(shared, settings, host, tmp_path):
    architecture = settings.space.sample(random.Random(3))
    child = replace(
        settings,
        weights=str(shared[0] / "weights.pt"),
        epochs=1,
        hyp={**settings.hyp, "lr0": 0.0, "warmup_bias_lr": 0.0},
    )
    run_trial(architecture, child, 0, tmp_path)
    slice_ = extract(supernet.load(shared[0] / "weights.pt", settings.model, settings.nc, host), architecture, host)
    trained = host.load_checkpoint(tmp_path / "weights.pt").state_dict()
    for name, value in slice_.state_dict().items():
        if "running" not in name and "num_batches" not in name:
            assert torch.allclose(trained[name], value, atol=2e-3), name  # half precision


def test_it_starts_from_the_weights_of_stock_yolov5(settings, host, tmp_path):
    default = settings.space.default()
    run_trial(default, settings, 5, tmp_path)
    own = replace(settings, weights=str(tmp_path / "weights.pt"))
    training = SupernetTraining(host, own, 5)
    training._prepare()
    stock = host.load_checkpoint(tmp_path / "weights.pt").float()
    slice_ = extract(training.model, default, host)
    images = next(training.images.scaled(training.images.some()))
    for model in (stock, slice_):
        update_bn([images], model)
        model.eval()
    with torch.no_grad():
        outputs = zip(stock(images)[1], slice_(images)[1])
        assert max(float((a - b).abs().max()) for a, b in outputs) < 1e-3
    assert training.hyp["lr0"] == settings.hyp["lr0"]  # no others are given for what inherits
    training = SupernetTraining(host, replace(own, inherit_hyp={**settings.hyp, "lr0": 0.001}), 5)
    training._prepare()
    assert training.hyp["lr0"] == 0.001


def test_a_supernet_of_something_else_is_refused(shared, settings, host, tmp_path):
    weights = shared[0] / "weights.pt"
    other, _ = read_model_yaml(shipped("models") / "yolov5n_nas.yaml")
    with pytest.raises(UserError, match="trained for another space"):
        check_weights(weights, Space.from_dict(other, nc=10), 10, host)
    with pytest.raises(UserError, match="trained for 10 classes, not 3"):
        check_weights(weights, settings.space, 3, host)
    with pytest.raises(TrialError, match="no supernet"):
        score_trial(settings.space.default(), replace(settings, weights=str(tmp_path / "none.pt")))
    assert "a supernet of this space" in check_weights(weights, settings.space, 10, host)


def test_finalists_are_stock_then_the_front_then_the_best():
    space = Space.from_yaml(shipped("models") / "yolov5n_elastic.yaml")
    rng = random.Random(0)
    figures = [(0.5, 2.0), (0.6, 3.0), (0.4, 1.0), (0.55, 4.0)]  # the last one is dominated
    records = [
        TrialRecord(i, space.sample(rng), "complete", reward, {"map50_95": reward, "gflops": cost})
        for i, (reward, cost) in enumerate(figures)
    ]
    stock = space.default()
    by_reward = [records[i].id for i in (1, 3, 0, 2)]
    assert [a.id for a in finalists(records, stock, ())] == [stock.id, *by_reward]
    by_front = [records[i].id for i in (1, 0, 2, 3)]
    assert [a.id for a in finalists(records, stock, ("map50_95", "gflops"))] == [stock.id, *by_front]
