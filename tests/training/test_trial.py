"""Real trainings of small models on part of the digits."""

import contextlib
import gc
import itertools
import multiprocessing
import random
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from hungry import Hungry
from prepared import prepared

from yolov5_nas.errors import TrialError, UserError
from yolov5_nas.files import shipped
from yolov5_nas.host.compat import patched
from yolov5_nas.records.reward import Constraint, accuracy
from yolov5_nas.space.architecture import Architecture
from yolov5_nas.space.compile import derive
from yolov5_nas.space.space import Space
from yolov5_nas.strategies.early_stopping import Pruner
from yolov5_nas.training import trial
from yolov5_nas.training.initial import check_weights
from yolov5_nas.training.process import global_state_kept
from yolov5_nas.training.trainer import Training
from yolov5_nas.training.trial import measure_architecture, run_trial


@pytest.fixture(scope="module")
def settings(small_settings):
    return small_settings


ACCURACIES = ("map50", "map50_95", "precision", "recall")


def accuracies(result):
    return {name: result.metrics[name] for name in ACCURACIES}


@pytest.fixture(scope="module")
def stock_result(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trial")
    return run_trial(settings.space.default(), settings, 3, folder), folder


def test_a_trial_gives_metrics_a_curve_and_files(stock_result):
    result, folder = stock_result
    assert set(result.metrics) >= {*ACCURACIES, "params", "gflops", "latency_ms", "latency_ratio", "batch_size"}
    assert [point["epoch"] for point in result.curve] == [1, 2]
    assert result.curve[1]["box_loss"] < result.curve[0]["box_loss"]  # by 3 to 4 % with each of three seeds
    assert (folder / "weights.pt").stat().st_size > 1e6
    assert yaml.safe_load((folder / "model.yaml").read_text())["width_multiple"] == 1.0
    assert "Class" in (folder / "log.txt").read_text()  # the host's validation table


def test_the_same_seed_gives_the_same_metrics_also_with_images_that_an_earlier_trial_loaded(settings, stock_result):
    again = run_trial(settings.space.default(), settings, 3)
    assert accuracies(again) == accuracies(stock_result[0])
    assert [p["box_loss"] for p in again.curve] == [p["box_loss"] for p in stock_result[0].curve]
    uncached = run_trial(settings.space.default(), replace(settings, cache=None), 3)
    assert accuracies(uncached) == accuracies(again)


@pytest.fixture(scope="module")
def watched(settings, tmp_path_factory):
    """A trial of stock that breaks a constraint, the working directory it ran in, and what was around it."""

    def state():
        return {
            "random": random.getstate(),
            "numpy": np.random.get_state()[1].tolist(),
            "torch": torch.get_rng_state().tolist(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        }

    folder = tmp_path_factory.mktemp("working directory")
    refused = replace(settings, epochs=1, constraints=(Constraint("params", 1.0),))
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = state()
    with contextlib.chdir(folder):
        result = run_trial(settings.space.default(), refused, 4)
    return SimpleNamespace(result=result, folder=folder, before=before, after=state())


def test_another_seed_gives_other_metrics(watched, stock_result):
    assert watched.result.curve[0]["box_loss"] != stock_result[0].curve[0]["box_loss"]


def test_any_architecture_trains(settings, tmp_path):
    architecture = settings.space.sample(random.Random(0))
    result = run_trial(architecture, replace(settings, epochs=1), 0, tmp_path)
    assert result.metrics["params"] > 1777447  # stock yolov5n with 10 classes; this space only grows the network


def test_a_loss_that_is_nan_ends_the_trial_with_its_reason(settings, tmp_path):
    hyp = {**settings.hyp, "lr0": 1e9, "warmup_iterations": 1, "warmup_bias_lr": 1e9}
    with pytest.raises(TrialError) as error:
        run_trial(settings.space.default(), replace(settings, hyp=hyp), 0, tmp_path)
    assert error.value.reason == "nan"
    assert "the loss became" in error.value.message
    assert "the loss became" in (tmp_path / "log.txt").read_text()
    assert not (tmp_path / "weights.pt").exists()


def no_memory():
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_out_of_memory_goes_on_at_half_the_batch_with_the_same_images_in_a_step(host, settings, tmp_path):
    with patched(host, ComputeLoss=Hungry(host, 8, no_memory)):
        result = run_trial(settings.space.default(), replace(settings, epochs=1), 0, tmp_path)
    assert result.metrics["batch_size"] == 8
    assert "out of memory at batch 16" in (tmp_path / "log.txt").read_text()


def test_out_of_memory_at_half_the_batch_too_fails_and_keeps_no_model(host, settings):
    """Also before garbage is looked for again: on a GPU the next trial would miss its memory."""
    models = []

    class Noted(Training):
        def __init__(self, host, model, *args):
            models.append(weakref.ref(model))
            super().__init__(host, model, *args)

    gc.disable()
    try:
        hungry = Hungry(host, 4, no_memory)
        with patched(trial, Training=Noted), patched(host, ComputeLoss=hungry), pytest.raises(TrialError) as error:
            run_trial(settings.space.default(), settings, 0)
        assert [model() for model in models] == [None, None]
    finally:
        gc.enable()
    assert error.value.reason == "oom"


def test_half_the_batch_accumulates_twice_as_often(host, settings):
    cfg = derive(settings.space, settings.space.default())
    results = []
    with global_state_kept():
        for batch in (16, 8):
            t = Training(host, host.build(cfg), settings, 64, batch, 0)
            t._prepare()
            results.append((t.accumulate, t.hyp["weight_decay"]))
    assert results == [(1, 0.0005), (2, 0.0005)]


def test_weights_are_inherited_and_frozen_layers_stay(host, settings, stock_result, tmp_path):
    weights = stock_result[1] / "weights.pt"
    frozen = replace(settings, epochs=1, weights=str(weights), freeze=(0, 1, 2))
    run_trial(settings.space.default(), frozen, 0, tmp_path)
    assert f"inherited 349/349 tensors from {weights}, exactly" in (tmp_path / "log.txt").read_text()
    before, after = (host.load_checkpoint(f / "weights.pt").state_dict() for f in (stock_result[1], tmp_path))
    kept = [name for name, value in before.items() if "weight" in name and torch.equal(value, after[name])]
    assert {".".join(name.split(".")[:2]) for name in kept} == {"model.0", "model.1", "model.2"}


def test_weights_reach_a_layer_that_is_written_out(host, settings, stock_result, tmp_path):
    default = settings.space.default()
    architecture = default.with_value("nasconv_2-1_act", "ReLU")  # layer 2 becomes six lines
    loaded = replace(settings, epochs=1, weights=str(stock_result[1] / "weights.pt"), freeze=(2,))
    run_trial(architecture, loaded, 0, tmp_path)
    before, after = (host.load_checkpoint(f / "weights.pt").state_dict() for f in (stock_result[1], tmp_path))
    assert torch.equal(before["model.2.cv2.conv.weight"], after["model.4.conv.weight"])


def test_validation_takes_its_time_on_a_busy_machine(host, settings):
    hours = itertools.count(0, 3600)
    warnings = []
    with global_state_kept():
        model = host.build(derive(settings.space, settings.space.default()))
        training = Training(host, model, settings, 64, 16, 0)
        training._prepare()
        busy = SimpleNamespace(time=lambda: float(next(hours)))
        with patched(host.general, time=busy), patched(host.general.LOGGER, warning=warnings.append):
            training._validate()
    assert warnings == []  # YOLOv5's own: NMS time limit exceeded


def test_before_the_first_step_outputs_are_the_checkpoints(host, settings, stock_result):
    weights = stock_result[1] / "weights.pt"
    settings = replace(settings, weights=str(weights))
    trained, default = host.load_checkpoint(weights).eval(), settings.space.default()
    widths = {label: 1.5 for label in default if label.startswith("c3_")}
    images = torch.rand(2, 3, 64, 64)
    with global_state_kept(), torch.no_grad():
        expected = trained(images)[0]
        for architecture, most in ((default, 1e-5), (Architecture({**default, **widths}), 1e-4)):
            training = prepared(host, settings, architecture)
            assert training.start.is_exact
            for model in (training.model, training.ema.ema):
                torch.testing.assert_close(model.eval()(images)[0], expected, rtol=most, atol=most)


def test_batch_norm_is_estimated_again_without_a_change_to_the_random_numbers(host, settings, stock_result):
    settings = replace(settings, weights=str(stock_result[1] / "weights.pt"))
    architecture = settings.space.default().with_value("nasconv_1_act", "ReLU")
    with global_state_kept():
        training = prepared(host, settings, architecture)
        assert not training.start.is_exact
        before = training.model.model[1].bn.running_mean.clone()
        state = random.getstate(), torch.get_rng_state().tolist()
        training._settle()
        assert (random.getstate(), torch.get_rng_state().tolist()) == state
    assert torch.equal(training.model.model[0].bn.weight, training.ema.ema.model[0].bn.weight)
    assert not torch.equal(training.model.model[1].bn.running_mean, before)
    for name, value in training.model.state_dict().items():
        assert torch.equal(value, training.ema.ema.state_dict()[name])


@pytest.mark.parametrize("rect", [False, True])
def test_what_is_not_inherited_exactly_is_refitted(host, settings, stock_result, tmp_path, rect):
    weights = stock_result[1] / "weights.pt"
    settings = replace(settings, weights=str(weights), rect=rect)
    parent, images = host.load_checkpoint(weights).eval(), torch.rand(8, 3, 64, 64)
    default = settings.space.default()
    bent = Architecture({**default, **{label: "ReLU" for label in default if label.endswith("_act")}})
    missed = []
    for refits in (False, True):
        with global_state_kept(), torch.no_grad():
            training = prepared(host, settings, bent)
            assert training.start.parent is not None
            training.start = replace(training.start, parent=training.start.parent if refits else None)
            training._settle()
            assert training.start.parent is None
            pairs = zip(training.ema.ema.eval()(images)[1], parent(images)[1])
            missed.append(sum(float((a - b).square().mean()) for a, b in pairs))
    assert missed[1] < 0.8 * missed[0]  # 0.43 to 0.54, with AVX2 and without, rectangular and square
    run_trial(bent, replace(settings, epochs=1), 0, tmp_path)
    assert f"from {weights}, refitted to them" in (tmp_path / "log.txt").read_text()


def test_a_child_has_its_own_hyper_parameters_and_the_base_its_own_epochs(host, settings, tmp_path):
    still = {**settings.hyp, "lr0": 0.0, "warmup_bias_lr": 0.0}
    settings = replace(settings, epochs=1, base_epochs=2, inherit_hyp=still)
    base = run_trial(settings.space.default(), settings, 0, tmp_path / "0")
    assert [p["epoch"] for p in base.curve] == [1, 2]
    inheriting = replace(settings, weights=str(tmp_path / "0" / "weights.pt"), base_epochs=None)
    child = run_trial(settings.space.default(), inheriting, 0, tmp_path / "1")
    assert [p["epoch"] for p in child.curve] == [1]
    before, after = (host.load_checkpoint(tmp_path / n / "weights.pt") for n in ("0", "1"))
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters()))


def test_a_child_has_its_own_optimizer_too(host, settings, stock_result):
    child = replace(settings, optimizer="SGD", inherit_hyp={**settings.hyp, "optimizer": "AdamW"})
    child = replace(child, weights=str(stock_result[1] / "weights.pt"))
    for given, name in ((settings, "SGD"), (child, "AdamW")):
        cfg = derive(given.space, given.space.default())
        training = Training(host, host.build(cfg), replace(given, optimizer="SGD"), 64, 16, 0)
        assert training.optimizer_name == name and "optimizer" not in training.hyp


def test_weights_for_other_classes_or_of_another_space_or_size(host, settings, stock_result, tmp_path):
    weights, space = stock_result[1] / "weights.pt", settings.space
    assert check_weights(weights, space, 10, host) == f"{weights}: 349 of 349 tensors are inherited"
    assert check_weights(weights, space, 3, host) == (
        f"{weights}: 342 of 349 tensors are inherited;"
        " the detection layer is for 10 classes, not 3, and starts anew"
    )  # fmt: skip
    small = Space.from_yaml(shipped("models") / "yolov5s_nas.yaml")
    with pytest.raises(
        UserError, match=r"weights\.pt: .* yolov5s_nas.yaml .*: layer 0 has 16 channels in them, not 32"
    ):
        check_weights(weights, small, 10, host)
    result = run_trial(space.default(), replace(settings, epochs=1, single_cls=True, weights=str(weights)), 0, tmp_path)
    assert "inherited 342/349" in (tmp_path / "log.txt").read_text()
    assert result.state == "complete"


def test_options_of_a_training_are_taken(settings):
    options = {"cos_lr": True, "label_smoothing": 0.1, "multi_scale": True, "single_cls": True, "noautoanchor": True}
    result = run_trial(settings.space.default(), replace(settings, epochs=1, optimizer="SGD", **options), 0)
    assert result.metrics["params"] < 1777447  # one class


def test_processes_that_load_images_are_forked_and_end_with_the_training(settings):
    """At once: those that the garbage collector ends wait for 5 s each. A spawned process would spawn its own."""
    seen, method = [], multiprocessing.get_start_method(allow_none=True)
    free = lambda: seen.extend(multiprocessing.active_children())  # noqa: E731
    multiprocessing.set_start_method("spawn", force=True)
    try:
        with patched(trial, free_memory=free):
            run_trial(settings.space.default(), replace(settings, epochs=1, workers=1), 0)
        assert multiprocessing.get_start_method() == "spawn"
    finally:
        multiprocessing.set_start_method(method, force=True)
    assert seen == []


def test_the_callers_random_numbers_are_left_alone(watched):
    before, after = watched.before, watched.after
    assert [name for name in before if before[name] != after[name]] == []


def test_a_trial_leaves_nothing_in_the_working_directory(watched):
    assert list(watched.folder.iterdir()) == []


def test_what_breaks_a_constraint_is_not_trained_and_cheap_costs_are_looked_at_first(settings, tmp_path):
    architecture = settings.space.sample(random.Random(1))
    dear = replace(settings, constraints=(Constraint("params", 2e6), Constraint("latency_ratio", 99.0)))
    result = run_trial(architecture, dear, 0, tmp_path)
    assert result.state == "infeasible"
    assert result.why.startswith("params is ")
    assert set(result.metrics) == {"params", "gflops"}
    assert result.curve == ()
    assert not (tmp_path / "weights.pt").exists()


def test_the_default_architecture_is_trained_all_the_same(watched):
    assert watched.result.state == "complete"
    assert watched.result.why.endswith("which breaks params<=1")
    assert "map50_95" in watched.result.metrics


@pytest.mark.parametrize("needed", [(), ("latency_ratio",)])
def test_an_export_that_fails_leaves_the_latency_out_or_fails_the_trial_that_needs_it(host, settings, needed):
    def broken_export(*_, **__):
        raise RuntimeError("no such operator")

    settings = replace(settings, epochs=1, latency_backend="torchscript", needed=needed)
    with patched(type(host), export=broken_export):
        if needed:
            with pytest.raises(TrialError, match="the latency backend torchscript failed: no such operator") as e:
                run_trial(settings.space.default(), settings)
            assert e.value.reason == "latency"
        else:
            result = run_trial(settings.space.default(), settings)
            assert not set(result.metrics) & {"latency_ms", "latency_ratio"}
            assert "map50_95" in result.metrics
            assert result.conditions["error"] == "the latency backend torchscript failed: no such operator"


def test_the_input_size_is_a_choice_that_the_trial_and_its_latency_follow(host, settings, monkeypatch):
    timed = []

    def latency(model, reference, imgsz, runtime, host):
        timed.append(imgsz)
        return {"latency_ratio": 1.0}, runtime.conditions(imgsz[0])

    monkeypatch.setattr("yolov5_nas.cost.measure.latency", latency)
    model = {**settings.model, "imgsz": [64, 128]}
    settings = replace(settings, model=model, imgsz=128, epochs=1)
    default = settings.space.default()
    assert default["imgsz"] == 128
    small = measure_architecture(default.with_value("imgsz", 64), settings)
    large = measure_architecture(default, settings)
    assert large.metrics["gflops"] == pytest.approx(4 * small.metrics["gflops"])
    assert timed == [(64, 128), (128, 128)]  # stock at 128 px is what both are compared with
    assert (small.conditions["imgsz"], large.conditions["imgsz"]) == (64, 128)
    sizes, backward = set(), Training._backward

    def noted(self, images, *args):
        sizes.add(images.shape[2:])
        return backward(self, images, *args)

    with patched(Training, _backward=noted):
        run_trial(default.with_value("imgsz", 64), settings)
    assert sizes == {(64, 64)}


def test_a_pruner_ends_a_training_and_its_result_says_why(settings, tmp_path):
    medians = {1: 0.0, 2: 2.0}  # no reward is so high
    pruner = Pruner(accuracy, medians)
    result = run_trial(settings.space.default(), replace(settings, epochs=3, pruner=pruner), 3, tmp_path)
    assert result.state == "pruned"
    assert result.why.endswith("the median 2.0000")
    assert [point["epoch"] for point in result.curve] == [1, 2]
    assert set(result.metrics) >= {"map50_95", "params", "latency_ratio"}
    assert not (tmp_path / "weights.pt").exists()
