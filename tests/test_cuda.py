"""What needs an NVIDIA GPU. `make test-cuda` runs it, and says what it could not run."""

import gc
import inspect
import json
import math
import os
import random
import runpy
import subprocess
import sys
import time
import zipfile
from copy import deepcopy
from dataclasses import fields, replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hungry import Hungry
from prepared import prepared
from torch import nn

from yolov5_nas.cost.latency import Runtime, latency, prepare
from yolov5_nas.cost.measure import gflops, parameters
from yolov5_nas.doctor.check import OK
from yolov5_nas.doctor.doctor import doctor
from yolov5_nas.engines.contract import Job
from yolov5_nas.errors import TrialError, UserError
from yolov5_nas.files import shipped
from yolov5_nas.host.compat import patched
from yolov5_nas.host.yolov5 import load
from yolov5_nas.records.journal import TrialResult, read_journal
from yolov5_nas.records.metrics import ERROR_BOUND
from yolov5_nas.space.architecture import Architecture
from yolov5_nas.space.compile import derive
from yolov5_nas.space.model_yaml import read_model_yaml
from yolov5_nas.space.space import Space
from yolov5_nas.training.process import global_state_kept
from yolov5_nas.training.scoring import score_trial
from yolov5_nas.training.settings import Settings
from yolov5_nas.training.supernet import SupernetTraining, train_supernet
from yolov5_nas.training.trainer import Training
from yolov5_nas.training.trial import measure_architecture, run_trial

pytestmark = pytest.mark.cuda

DEVICE = "cuda:0"
ROOT = Path(__file__).parents[1]
MB = 2**20
COSTS = TrialResult({"params": 1.0})  # of a trial that need not measure
OPTIONAL = ("nni", "tensorrt", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "ray", "nvidia-ml-py")
NEEDS_TWO = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="it needs two GPUs")


# This machine ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def machine(request):
    """Says what this machine has. With `-m cuda`, a machine on which nothing can run is a failure."""
    is_wanted = request.config.getoption("markexpr") == "cuda"
    if not torch.cuda.is_available():
        reason = f"torch {torch.__version__} sees no NVIDIA GPU here"
        if is_wanted:
            pytest.exit(f"{reason}: nothing was tested", returncode=1)
        pytest.skip(reason)
    reporter, capture = map(request.config.pluginmanager.get_plugin, ("terminalreporter", "capturemanager"))
    if reporter and capture:
        with capture.global_and_fixture_disabled():
            reporter.ensure_newline()
            for line in described():
                reporter.write_line(line)
    yield
    if is_wanted and reporter and not any(reporter.stats.get(how) for how in ("passed", "failed", "error")):
        pytest.exit("nothing was tested: every test was skipped", returncode=1)


def described():
    """What this machine has, in lines."""
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield f"torch {torch.__version__}, CUDA {torch.version.cuda}, {len(names)} x GPU: {', '.join(names)}"
    found = {name: version_of(name) for name in OPTIONAL}
    there = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    yield f"installed: {there or 'nothing optional'}"
    yield f"not installed: {', '.join(name for name, version in found.items() if not version) or 'nothing'}"


def version_of(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@pytest.fixture(scope="session")
def host():
    """YOLOv5. Where it is missing, or what draws the digits, a test that needs it is skipped."""
    pytest.importorskip("sklearn")
    try:
        return load()
    except UserError as e:
        pytest.skip(str(e))


@pytest.fixture(scope="session")
def settings(small_settings):
    return replace(small_settings, device=DEVICE)


def held():
    """Bytes of the GPU's memory that this process's tensors take."""
    return torch.cuda.memory_allocated(DEVICE)


def gpu():
    """The identity of the GPU that this process uses."""
    return str(torch.cuda.get_device_properties(DEVICE).uuid)


def python(code, *args, **env):
    """What a Python process prints, which measures in earnest."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, "YOLOV5_NAS_HASTY_LATENCY": "", **env}
    done = subprocess.run([sys.executable, *code, *map(str, args)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


# A trial --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(settings, tmp_path_factory):
    """A trial: its result, its folder, and what was seen of its steps."""
    folder, seen = tmp_path_factory.mktemp("trial"), SimpleNamespace(dtypes=set(), losses=[], scales=[], taken=0)
    forward, step = Training._forward, Training._step

    def noted_forward(self, *args):
        predicted, loss, items = forward(self, *args)
        seen.dtypes |= {level.dtype for level in predicted}
        seen.losses.append(float(loss))
        return predicted, loss, items

    def noted_step(self):
        step(self)
        seen.scales.append(self.scaler.get_scale() if self.scaler.is_enabled() else None)
        seen.taken = max((int(state["step"]) for state in self.optimizer.state.values()), default=0)

    with patched(Training, _forward=noted_forward, _step=noted_step):
        result = run_trial(settings.space.default(), replace(settings, epochs=4), 3, folder)
    return SimpleNamespace(result=result, folder=folder, **vars(seen))


def test_a_training_runs_in_mixed_precision_with_scaled_losses_that_are_finite(trained):
    assert trained.dtypes == {torch.float16}
    assert len(trained.losses) == 16 and all(map(math.isfinite, trained.losses))
    assert None not in trained.scales
    assert 0 < trained.taken <= len(trained.scales)  # a step whose gradients overflow is left out
    assert [point["epoch"] for point in trained.result.curve] == [1, 2, 3, 4]
    assert all(math.isfinite(value) for point in trained.result.curve for value in point.values())
    assert trained.result.metrics["batch_size"] == 16


def test_weights_from_a_gpu_are_stock_and_load_on_the_cpu(trained, host):
    with zipfile.ZipFile(trained.folder / "weights.pt") as archive:
        pickled = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    assert b"yolov5_nas" not in pickled
    assert b"cuda" not in pickled  # as in YOLOv5's own best.pt: a tensor that says so needs a GPU to be loaded
    model = host.load_checkpoint(trained.folder / "weights.pt").eval()
    assert {value.device.type for value in model.state_dict().values()} == {"cpu"}
    with torch.no_grad():
        assert model(torch.rand(1, 3, 64, 64))[0].isfinite().all()


def test_the_gpu_does_not_change_what_an_architecture_costs(settings):
    architecture = settings.space.sample(random.Random(5))
    assert architecture == settings.space.sample(random.Random(5))
    here, there = (
        measure_architecture(architecture, replace(settings, device=device), with_latency=False)
        for device in (DEVICE, "cpu")
    )
    assert here.metrics == there.metrics
    assert set(here.metrics) == {"params", "gflops"}


def test_costs_of_a_model_on_the_gpu_are_those_on_the_cpu(host):
    model = reference(host, "yolov5n_elastic")
    there = parameters(model), gflops(model, 128)
    assert (parameters(model.to(DEVICE)), gflops(model, 128)) == there


def test_the_same_seed_gives_nearly_the_same_training_again(settings, trained):
    again = run_trial(settings.space.default(), replace(settings, epochs=4), 3, costs=COSTS)
    for name in ("box_loss", "obj_loss", "cls_loss"):
        assert again.curve[0][name] == pytest.approx(trained.result.curve[0][name], rel=0.01)


# Memory ---------------------------------------------------------------------------------------------------------------


def twice_the_gpu():
    """Ask for more memory than there is."""
    torch.empty(2 * torch.cuda.mem_get_info(DEVICE)[1], dtype=torch.uint8, device=DEVICE)


@pytest.fixture
def no_garbage():
    """Nothing is freed by a garbage collection that comes by chance."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_out_of_memory_goes_on_at_half_the_batch_and_with_the_memory_of_the_first_attempt(
    host, settings, trained, no_garbage, tmp_path
):
    at_start, init = [], Training.__init__

    def noted(self, *args, **kwargs):
        at_start.append(held())
        init(self, *args, **kwargs)

    with patched(host, ComputeLoss=Hungry(host, 8, twice_the_gpu)), patched(Training, __init__=noted):
        result = run_trial(settings.space.default(), replace(settings, epochs=1), 0, tmp_path, COSTS)
    assert result.state == "complete"
    assert result.metrics["batch_size"] == 8
    assert "out of memory at batch 16" in (tmp_path / "log.txt").read_text()
    first, second = at_start
    assert second < first + MB


def test_out_of_memory_at_half_the_batch_too_has_its_reason(host, settings, tmp_path):
    with patched(host, ComputeLoss=Hungry(host, 4, twice_the_gpu)), pytest.raises(TrialError) as error:
        run_trial(settings.space.default(), settings, 0, tmp_path, COSTS)
    assert error.value.reason == "oom"
    assert error.value.message.startswith("OutOfMemoryError: CUDA out of memory")


def test_trials_of_one_process_do_not_fill_the_gpu(settings, trained, no_garbage, tmp_path):
    after = []
    for seed in range(3):
        run_trial(settings.space.default(), replace(settings, epochs=1), seed, tmp_path / str(seed))
        after.append(held())
    assert max(after) < after[0] + 4 * MB  # weights alone are 7 MB


def first_has_no_memory(architecture, settings, seed, folder):
    """A trial that runs out of memory at every batch size, and after it one that says what is held already."""
    if seed:
        return TrialResult({"held": float(held())})
    host = load(settings.location)
    with patched(host, ComputeLoss=Hungry(host, 0, twice_the_gpu)):
        return run_trial(architecture, settings, seed, folder, COSTS)


def test_a_trial_without_memory_leaves_none_to_the_next_one_of_its_process(settings, start):
    engine = start(first_has_no_memory, settings, "0")
    default = dict(settings.space.default())
    (failed,), (next_one,) = (outcomes(engine, [Job(seed, default, seed)]) for seed in (0, 1))
    assert failed.error and failed.error["reason"] == "oom"
    assert next_one.result.metrics["held"] < 4 * MB


# Latency --------------------------------------------------------------------------------------------------------------


def reference(host, name):
    """The default architecture of a shipped space, for 10 classes."""
    space = Space.from_yaml(shipped("models") / f"{name}.yaml", nc=10)
    return host.build(derive(space, space.default()))


class Watched(nn.Module):
    """A model whose output is seen after a graph of it was replayed. It is prepared as it is, not as a copy."""

    def __init__(self, model):
        super().__init__()
        self.model = model.eval()
        for bn in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            nn.init.normal_(bn.bias)  # an image of zeros would give zeros
        self.register_buffer("output", model(torch.zeros(1, 3, 64, 64))[0].detach())

    def forward(self, image):
        self.output.copy_(self.model(image)[0])

    def fuse(self):
        self.model.fuse()
        return self

    def __deepcopy__(self, memo):
        return self


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("device", [DEVICE, pytest.param("cuda:1", marks=NEEDS_TWO)])
def test_a_replayed_graph_computes_what_the_model_does(host, device, half, tmp_path):
    watched = Watched(reference(host, "yolov5n_elastic"))
    run = prepare(watched, 64, Runtime(precision="fp16" if half else "fp32", device=device), host, tmp_path / "model")
    with torch.no_grad():
        watched(torch.zeros(1, 3, 64, 64, device=device, dtype=torch.float16 if half else torch.float32))
    expected = watched.output.clone()
    assert expected.isfinite().all() and expected.device == torch.device(device)
    assert expected.dtype == (torch.float16 if half else torch.float32)
    watched.output.fill_(math.nan)
    with torch.inference_mode():
        run()
    torch.cuda.synchronize(device)
    torch.testing.assert_close(watched.output, expected, rtol=1e-2, atol=1e-2)  # pixels


def test_a_pass_keeps_the_weights_that_its_graph_reads(host, no_garbage, tmp_path):
    model = reference(host, "yolov5n_elastic")
    before = held()
    run = prepare(model, 64, Runtime(device=DEVICE), host, tmp_path / "model")
    gc.collect()
    kept = held() - before
    assert kept >= 4 * sum(weight.numel() for weight in model.parameters() if weight.ndim == 4)
    del run


def test_a_model_is_as_fast_as_its_copy_on_a_replayed_graph(host, in_earnest):
    model = reference(host, "yolov5n_elastic")
    metrics, conditions = latency(model, deepcopy(model), (320, 320), Runtime(device=DEVICE), host)
    assert metrics["latency_ratio"] == pytest.approx(1.0, abs=max(0.03, 3 * metrics["latency_error"]))
    assert 0 < metrics["latency_ms"] <= metrics["latency_p95_ms"]
    assert conditions["device"] == torch.cuda.get_device_name(DEVICE)
    assert conditions["runtime"] == f"torch {metadata.version('torch')}, CUDA graph"
    assert (conditions["backend"], conditions["dtype"]) == ("pytorch", "float32")
    assert "threads" not in conditions
    assert conditions["trusted"] == (metrics["latency_error"] <= ERROR_BOUND)


def test_a_much_larger_model_is_slower(host, in_earnest):
    large, small = reference(host, "yolov5l_nas"), reference(host, "yolov5n_nas")
    metrics, _ = latency(large, small, (640, 640), Runtime(batch=8, device=DEVICE), host)
    assert metrics["latency_ratio"] > 2


def test_half_precision_is_timed_as_such_and_takes_no_longer(host, in_earnest):
    model = reference(host, "yolov5n_elastic")
    (single, _), (half, conditions) = (
        latency(model, model, (640, 640), Runtime(batch=32, precision=p, device=DEVICE), host) for p in ("fp32", "fp16")
    )
    assert conditions["dtype"] == "float16"
    assert half["latency_ms"] < 1.5 * single["latency_ms"]  # convolutions in single precision may use TF32


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_a_runtime_that_does_not_use_the_gpu_does_not_name_it(backend):
    pytest.importorskip("onnxruntime" if backend == "onnx" else backend)
    if backend == "onnx" and has_onnx_on_cuda():
        pytest.skip("this ONNX Runtime uses the GPU")
    runtime = Runtime(backend, device=DEVICE)
    try:
        runtime.check()
    except UserError:
        return
    assert torch.cuda.get_device_name(DEVICE) not in runtime.conditions(64)["device"]


def has_onnx_on_cuda():
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_torchscript_on_the_gpu_predicts_what_the_model_does_and_is_timed(host, precision, in_earnest, tmp_path):
    predicts_and_is_timed(host, Runtime("torchscript", precision=precision, device=DEVICE), tmp_path)


def test_onnx_on_the_gpu_predicts_what_the_model_does_and_is_timed(host, in_earnest, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    if not has_onnx_on_cuda():
        pytest.skip("this ONNX Runtime has no CUDA: it needs onnxruntime-gpu")
    loaded = predicts_and_is_timed(host, Runtime("onnx", device=DEVICE), tmp_path)
    assert loaded.session.get_providers()[0] == "CUDAExecutionProvider"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensorrt_predicts_what_the_model_does_and_is_timed(host, precision, in_earnest, tmp_path):
    pytest.importorskip("onnx")
    version = pytest.importorskip("tensorrt").__version__
    if int(version.split(".")[0]) >= 10 and "trt10" not in inspect.getsource(host.module("export")):
        pytest.skip(f"this YOLOv5 {host.location.kind} exports for TensorRT before 10; {version} is installed")
    predicts_and_is_timed(host, Runtime("engine", precision=precision, device=DEVICE), tmp_path)


def predicts_and_is_timed(host, runtime, folder):
    """Hold an exported model to its model, and time it with its copy; what was loaded."""
    model = reference(host, "yolov5n_elastic").eval()
    device, dtype = torch.device(DEVICE), torch.float16 if runtime.half else torch.float32
    exported = host.export(model, folder / "m.pt", runtime.backend, 64, 1, runtime.half, device)
    try:
        loaded = host.load_exported(exported, runtime.precision, device)
    except ModuleNotFoundError as e:
        pytest.skip(f"this YOLOv5 {host.location.kind} can't load what it exported: {e}")
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected = model(image)[0]
        got = loaded(image.to(device, dtype))
    got = got[0] if isinstance(got, list | tuple) else got
    torch.testing.assert_close(got.float().cpu(), expected, rtol=0.02, atol=1.0)  # pixels
    metrics, conditions = latency(model, deepcopy(model), (64, 64), runtime, host)
    assert metrics["latency_ratio"] == pytest.approx(1.0, abs=max(0.1, 3 * metrics["latency_error"]))
    assert conditions["device"] == torch.cuda.get_device_name(DEVICE)
    assert conditions["runtime"].startswith(
        {"engine": "tensorrt ", "onnx": "onnxruntime"}.get(runtime.backend, "torch ")
    )
    return loaded


def test_doctor_names_the_gpu_and_runs_a_model_on_it(host):
    checks = {}
    for check in doctor(thorough=True):
        checks[check.name] = check
        if "latency on pytorch" in checks:
            break
    for check in (checks["CUDA"], checks["latency on pytorch"]):
        assert check.mark == OK
        assert torch.cuda.get_device_name(DEVICE) in check.text


def test_the_energy_hook_reads_the_gpus_counter(host):
    nvml = pytest.importorskip("pynvml")
    energy = runpy.run_path(str(shipped("hooks") / "energy.py"))
    model = reference(host, "yolov5n_elastic").to(DEVICE).eval()
    try:
        with torch.no_grad():
            measured = energy["measure"](model, 64, DEVICE)
    except nvml.NVMLError as e:
        pytest.skip(f"this GPU has no energy counter ({e})")
    assert 0 < measured["joules_per_image"] < 100


# Engines --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def start(tmp_path):
    """Starts local engines on devices as the user names them, and stops them."""
    pytest.importorskip("pebble")
    from yolov5_nas.engines.local import LocalEngine, device_indices

    made = []

    def make(trial, settings, device, **kwargs):
        made.append(LocalEngine(device_indices(device), trial_minutes=5, **kwargs))
        made[-1].start(trial, settings, tmp_path)
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def outcomes(engine, jobs):
    """Run jobs side by side, and return how they ended, by number."""
    for job in jobs:
        engine.submit(job)
    ended: list = []
    while len(ended) < len(jobs):
        ended += engine.wait(60)
    return sorted(ended, key=lambda outcome: outcome.number)


def seen_from_inside(architecture, settings, seed, folder):
    """A trial that says which GPUs its process sees, and from when to when it ran."""
    began = time.time()
    result = run_trial(architecture, settings, seed, folder)
    seen = {"gpu": gpu(), "gpus": torch.cuda.device_count(), "pid": os.getpid(), "from": began, "to": time.time()}
    return replace(result, conditions={**result.conditions, **seen})


def run_two(engine, settings):
    """Two trials of seeds 0 and 1 at the same time: their results and what they say."""
    ended = outcomes(engine, [Job(number, dict(settings.space.default()), number) for number in (0, 1)])
    assert [outcome.error for outcome in ended] == [None, None]
    results = [outcome.result for outcome in ended]
    assert [result.state for result in results] == ["complete", "complete"]
    return results, [result.conditions for result in results]


def test_two_trials_run_on_one_gpu_at_the_same_time(settings, start):
    lasting = replace(settings, epochs=30, val_period=30)
    results, (a, b) = run_two(start(seen_from_inside, lasting, "0", concurrency=2), lasting)
    assert a["pid"] != b["pid"]
    assert max(a["from"], b["from"]) < min(a["to"], b["to"])
    assert (a["gpus"], b["gpus"]) == (1, 1) and a["gpu"] == b["gpu"] == gpu()
    assert all(math.isfinite(result.metrics["map50_95"]) for result in results)


@NEEDS_TWO
def test_each_of_two_gpus_has_its_own_trial(settings, start):
    _, (a, b) = run_two(start(seen_from_inside, settings, "0,1"), settings)
    assert (a["gpus"], b["gpus"]) == (1, 1)
    assert {a["gpu"], b["gpu"]} == {str(torch.cuda.get_device_properties(i).uuid) for i in (0, 1)}


FORKS = """
import torch
from yolov5_nas.engines.warm import is_forkable
before = is_forkable()
torch.zeros(1, device="cuda:0")
print(before, is_forkable())
"""


def test_a_process_that_has_used_cuda_is_not_forked():
    assert python(["-c", FORKS]).split() == ["True", "False"]


class UsesCuda(Settings):
    """Settings whose `preload`, which a warm process calls before its trials (see `warm.serve`), uses CUDA."""

    def preload(self):
        torch.zeros(1, device=DEVICE)


@pytest.fixture
def nni_engine(tmp_path, monkeypatch):
    """Starts NNI engines on the first GPU, and stops them."""
    pytest.importorskip("nni")
    from yolov5_nas.engines.local import device_indices
    from yolov5_nas.engines.nni.engine import NNIEngine

    monkeypatch.delenv("YOLOV5_NAS_START", raising=False)
    made = []

    def make(trial, settings):
        made.append(NNIEngine(device_indices("0"), trial_minutes=5))
        made[-1].start(trial, settings, tmp_path)
        return made[-1]

    yield make
    for engine in made:
        engine.close()


@pytest.mark.parametrize(("trial", "method"), [(seen_from_inside, "spawn"), (run_trial, "fork")])
def test_a_warm_process_of_nni_forks_unless_it_has_used_cuda(nni_engine, settings, trial, method):
    if method == "spawn":
        settings = UsesCuda(**{field.name: getattr(settings, field.name) for field in fields(settings)})
    engine = nni_engine(trial, settings)
    (outcome,) = outcomes(engine, [Job(0, dict(settings.space.default()), 0)])
    assert engine.start_method == method
    assert outcome.error is None
    assert outcome.result.conditions["device"] == torch.cuda.get_device_name(DEVICE)


# A search -------------------------------------------------------------------------------------------------------------

VALIDATE = """
import sys
from pathlib import Path
import torch
from yolov5_nas.host.dataset import resolve_data
from yolov5_nas.host.yolov5 import load
data, weights, folder = map(Path, sys.argv[1:])
assert not torch.cuda.is_available()
host = load()
host.common.attempt_download_from_hub = lambda *_, **__: None  # the package asks for any file there first
options = {"imgsz": 64, "batch_size": 32, "device": "cpu", "workers": 0, "plots": False, "half": False}
results, _ = host.validate(data=resolve_data(data, host), weights=str(weights), project=folder, **options)
print("map50_95", results[3])
"""


def test_a_search_by_the_command_line_finds_a_winner_that_validates_on_the_cpu(host, digits_yaml, tmp_path):
    pytest.importorskip("pebble")
    run = tmp_path / "run"
    where = ["--engine", "local", "--device", "0", "--project", run.parent, "--name", run.name]
    what = ["--data", digits_yaml, "--imgsz", 64, "--epochs", 12, "--trials", 2]
    python(["-m", "yolov5_nas", "search"], *where, *what)
    records = read_journal(run)
    assert [record.state for record in records] == ["complete", "complete"]
    assert all(record.conditions["device"] == torch.cuda.get_device_name(DEVICE) for record in records)
    best = max(records, key=lambda record: record.reward or 0.0)
    assert best.metrics["map50_95"] > 0.02
    env = {"CUDA_VISIBLE_DEVICES": "", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}  # what a checkpoint holds is a pickle
    printed = python(["-c", VALIDATE], digits_yaml, run / "best/weights/best.pt", tmp_path, **env)
    validated = float(printed.split("map50_95")[-1])
    assert validated == pytest.approx(best.metrics["map50_95"], abs=0.02)
    python(["-m", "yolov5_nas", "report", run, "--remeasure", "--device", "0", "--half"])
    (lines,) = (run / "remeasured").glob("*.jsonl")
    dtypes = [json.loads(line)["conditions"]["dtype"] for line in lines.read_text().splitlines()]
    assert dtypes == ["float16", "float16"]


# The supernet, and weights that are passed on -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def elastic(settings):
    model, _ = read_model_yaml(shipped("models") / "yolov5n_elastic.yaml")
    return replace(settings, model=model)


def test_a_supernet_trains_is_resumed_and_scores_its_slices(elastic, host, tmp_path):
    default, keep = elastic.space.default(), SupernetTraining._end_epoch

    def kill(training, epoch):
        keep(training, epoch)
        raise KeyboardInterrupt

    with patched(SupernetTraining, _end_epoch=kill), pytest.raises(KeyboardInterrupt):
        train_supernet(default, elastic, 5, tmp_path)
    assert (tmp_path / "last.pt").exists()
    result = train_supernet(default, elastic, 5, tmp_path)
    assert [point["epoch"] for point in result.curve] == [1, 2]
    assert all(math.isfinite(value) for point in result.curve for value in point.values())
    state = torch.load(tmp_path / "weights.pt", map_location="cpu", weights_only=True)["state"]
    assert all(value.isfinite().all() for value in state.values())
    scoring = replace(elastic, weights=str(tmp_path / "weights.pt"))
    architecture = elastic.space.sample(random.Random(3))
    first, again = (score_trial(architecture, scoring).metrics for _ in range(2))
    assert first == pytest.approx(again, abs=0.01)
    child = run_trial(architecture, replace(scoring, epochs=1), 0, tmp_path / "child", COSTS)
    assert child.state == "complete"
    assert "batch norm estimated again" in (tmp_path / "child" / "log.txt").read_text()


def test_weights_are_inherited_exactly_by_the_architecture_they_are_of(host, settings, trained):
    settings = replace(settings, weights=str(trained.folder / "weights.pt"))
    parent, images = host.load_checkpoint(trained.folder / "weights.pt").to(DEVICE).eval(), torch.rand(2, 3, 64, 64)
    with global_state_kept(), torch.no_grad():
        training = prepared(host, settings, settings.space.default())
        assert training.start.is_exact
        for model in (training.model, training.ema.ema):
            outputs = (m.eval()(images.to(DEVICE))[0] for m in (model, parent))
            torch.testing.assert_close(*outputs, rtol=1e-3, atol=1e-2)  # pixels


def test_what_is_not_inherited_exactly_is_refitted(host, settings, trained, tmp_path):
    weights = trained.folder / "weights.pt"
    settings = replace(settings, weights=str(weights))
    parent, images = host.load_checkpoint(weights).to(DEVICE).eval(), torch.rand(8, 3, 64, 64).to(DEVICE)
    default = settings.space.default()
    bent = Architecture({**default, **{label: "ReLU" for label in default if label.endswith("_act")}})
    missed = []
    for refits in (False, True):
        with global_state_kept(), torch.no_grad():
            training = prepared(host, settings, bent)
            assert training.start.parent is not None
            training.start = replace(training.start, parent=training.start.parent if refits else None)
            training._settle()
            pairs = zip(training.ema.ema.eval()(images)[1], parent(images)[1])
            missed.append(sum(float((a - b).square().mean()) for a, b in pairs))
    assert missed[1] < 0.8 * missed[0]
    assert run_trial(bent, replace(settings, epochs=1), 0, tmp_path, COSTS).state == "complete"
    assert f"from {weights}, refitted to them" in (tmp_path / "log.txt").read_text()
