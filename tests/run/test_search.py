"""Whole searches, from the options to the winner in an untouched YOLOv5."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import fake_trials
import forked
import psutil
import pytest
import torch
import yaml
from inline import inline, untrained
from places import ROOT
from processes import LONG

from yolov5_nas.cli import main
from yolov5_nas.cost import latency
from yolov5_nas.files import shipped
from yolov5_nas.host.compat import patched
from yolov5_nas.records.journal import front, read_journal
from yolov5_nas.records.options import Options
from yolov5_nas.results.export import export
from yolov5_nas.run import pipeline, stages
from yolov5_nas.run.prepare import prepare
from yolov5_nas.space.model_yaml import read_model_yaml
from yolov5_nas.strategies.early_stopping import MIN_COMPLETE
from yolov5_nas.training.supernet import SupernetTraining
from yolov5_nas.weights import supernet

FLAGS = ["--epochs", "1", "--subset", "0.05", "--imgsz", "64", "--device", "cpu", "--seed", "5"]


def search(*flags, interrupts=None):
    with inline(interrupts):
        return main(["search", *map(str, flags)])


@pytest.fixture(scope="module")
def run(host, digits_yaml, tmp_path_factory):
    """A search of four real trials."""
    project = tmp_path_factory.mktemp("runs")
    assert search(*FLAGS, "--trials", "4", "--data", digits_yaml, "--project", project, "--engine", "local") == 0
    return project / "exp"


def test_every_trial_is_in_the_journal_and_the_first_is_stock(run):
    records = read_journal(run)
    assert [r.state for r in records] == ["complete"] * 4
    assert records[0].metrics["params"] == 1777447  # stock yolov5n with 10 classes
    assert len({r.id for r in records}) == 4


def test_the_run_folder_is_whole(run):
    names = {path.name for path in run.iterdir()}
    assert names >= {"search.yaml", "space.yaml", "hyp.yaml", "trials.jsonl", "best", "trials", "results.csv"}
    assert names >= {"pareto.png", "report.html"}
    assert list(run.glob("events.out.tfevents.*"))
    best = run / "best"
    assert json.loads((best / "architecture.json").read_text()).keys() == read_journal(run)[0].architecture.keys()
    assert not list(run.rglob("*.tmp"))
    assert cv2.imread(str(run / "pareto.png")) is not None
    assert "<img" in (run / "report.html").read_text()


def test_weights_are_kept_of_the_best_and_the_front_alone(run):
    from yolov5_nas.records.journal import best

    records = read_journal(run)
    expected = {best(records).number, *(r.number for r in front(records, "latency_ratio", "map50_95"))}
    assert {int(path.parent.name) for path in run.glob("trials/*/weights.pt")} == expected


def test_tensorboard_has_what_the_journal_has(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    rewards = {e.step: e.value for e in events.Scalars("search/reward")}
    assert rewards == pytest.approx({r.number: r.reward for r in read_journal(run)})
    assert [e.value for e in events.Scalars("search/best_reward")][-1] == pytest.approx(max(rewards.values()))
    assert "metrics/latency_ratio" in events.Tags()["scalars"]


PLUGIN_FREE = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "yolov5_nas":
            raise ImportError("yolov5_nas must not be needed")
sys.meta_path.insert(0, Block())
root, prefix, yaml, weights, image, out, outputs = sys.argv[1:]
if not prefix:
    sys.path.insert(0, root)
import importlib, types, numpy as np, torch
if importlib.util.find_spec("IPython") is None:  # v7.0 wants it for notebooks
    sys.modules["IPython"] = types.ModuleType("IPython")
    sys.modules["IPython.display"] = types.ModuleType("IPython.display")
    sys.modules["IPython"].display = sys.modules["IPython.display"]
    sys.modules["IPython"].get_ipython = lambda: None
    sys.modules["IPython.display"].display = print
yolo = importlib.import_module(prefix + "models.yolo")
common = importlib.import_module(prefix + "models.common")
built = yolo.Model(yaml)
model = common.DetectMultiBackend(weights, device=torch.device("cpu"))
saved = torch.load(weights, weights_only=False)["model"].state_dict()
assert {k: v.shape for k, v in built.state_dict().items()} == {k: v.shape for k, v in saved.items()}
images, expected = torch.load(outputs)
built.eval().load_state_dict(saved)
detected = model(images)
detected = detected[0] if isinstance(detected, (list, tuple)) else detected
with torch.no_grad():
    assert (built(images)[0] - expected).abs().max() < 1e-5
assert (detected - expected).abs().max() < 1e-3  # its batch norms are fused into convolutions
detect = importlib.import_module(prefix + "detect")
detect.run(weights=weights, source=image, imgsz=(64, 64), project=out, name="out", device="cpu")
assert "yolov5_nas" not in sys.modules
"""


def test_the_winner_builds_loads_and_detects_without_the_plugin(host, run, digits, tmp_path):
    image = next((digits / "images/val").iterdir())
    prefix = "" if host.location.kind == "clone" else "yolov5."
    best = run / "best"
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.save((images, host.load_checkpoint(best / "weights/best.pt").eval()(images)[0]), tmp_path / "outputs.pt")
    files = [best / "model.yaml", best / "weights/best.pt", image, tmp_path, tmp_path / "outputs.pt"]
    command = [sys.executable, "-c", PLUGIN_FREE, str(host.location.root), prefix, *map(str, files)]
    env = {**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "YOLOv5_AUTOINSTALL": "false", "PYTHONPATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "out" / image.name).is_file()


def test_export_gives_any_trial(host, run, tmp_path):
    from yolov5_nas.results.export import load_space
    from yolov5_nas.space.compile import derive

    for record in read_journal(run):
        folder = export(run, record.number, tmp_path / str(record.number))
        cfg = yaml.safe_load((folder / "model.yaml").read_text())
        assert cfg["backbone"] == derive(load_space(run), record.architecture)["backbone"]
        assert sum(p.numel() for p in host.build(cfg).parameters()) == record.metrics["params"]
        assert (folder / "weights/best.pt").exists() == (run / f"trials/{record.number}/weights.pt").exists()
    assert main(["export", str(run), "--trial", "2"]) == 0
    assert (run / "export/2/model.yaml").exists()
    assert main(["export", str(run), "--trial", "9"]) == 2
    theirs = tmp_path / "exp" / "weights" / "best.pt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs")
    for more in ([], ["--include", "onnx"]):
        assert main(["export", str(run), "--trial", "2", "--out", str(tmp_path / "exp"), *more]) == 2
    assert theirs.read_text() == "theirs" and len(list((tmp_path / "exp").rglob("*"))) == 2


def test_report_is_rebuilt_from_the_journal_alone(run, capsys):
    for name in ("pareto.png", "report.html", "results.csv"):
        (run / name).unlink()
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").exists()
    assert "stock (trial 0)" in capsys.readouterr().out


def test_resume_does_more_trials_and_keeps_those_it_has(run):
    before = read_journal(run)
    assert search("--resume", run, "--trials", 5) == 0
    after = read_journal(run)
    assert after[:4] == before
    assert after[4].state == "complete"
    assert yaml.safe_load((run / "search.yaml").read_text())["trials"] == 5


@pytest.mark.parametrize(
    "flags",
    [["--epochs", "2"], ["--data", "coco128.yaml"], ["--seed", "6"], ["--target", "gflops=1"], ["--workers", "1"]],
)
def test_a_resume_with_other_options_is_refused(run, capsys, flags):
    before = (run / "search.yaml").read_text()
    assert search("--resume", run, *flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: a resumed run keeps its options: " + flags[0][2:])
    assert (run / "search.yaml").read_text() == before


def test_a_run_whose_files_lie_elsewhere_now_goes_on_with_them_and_not_without(run, digits_yaml, tmp_path, capsys):
    moved, options = tmp_path / "moved.yaml", yaml.safe_load((run / "search.yaml").read_text())
    moved.write_text(digits_yaml.read_text())
    before = read_journal(run)
    gone = {**options, "weights": "/gone/best.pt"}
    (run / "search.yaml").write_text(yaml.safe_dump(gone))
    assert search("--resume", run, "--trials", 7) == 2
    error = capsys.readouterr().err
    assert "what the run's trials start from is gone, got '/gone/best.pt'; accepted: --weights with" in error
    (tmp_path / "no.pt").write_text("no checkpoint")
    for other in ("", tmp_path / "nowhere.pt", tmp_path / "no.pt"):
        assert search("--resume", run, "--trials", 7, "--weights", other) == 2
    (run / "search.yaml").write_text(yaml.safe_dump({**options, "data": "/gone/my.yaml"}))
    assert search("--resume", run, "--data", moved) == 0
    assert read_journal(run) == before and yaml.safe_load((run / "search.yaml").read_text())["data"] == str(moved)
    assert search("--resume", run, "--data", digits_yaml) == 2  # which is not where the run's are
    (run / "search.yaml").write_text(yaml.safe_dump({**options, "latency_backend": "engine"}))
    assert search("--resume", run, "--trials", 7) == 2
    assert "the runtime engine" in capsys.readouterr().err and read_journal(run) == before
    (run / "search.yaml").write_text(yaml.safe_dump(options))


def test_a_run_again_by_its_own_search_yaml_is_the_same(run, tmp_path):
    assert search("--config", run / "search.yaml", "--trials", 2, "--project", tmp_path) == 0
    again, first = read_journal(tmp_path / "exp"), read_journal(run)
    assert [r.id for r in again] == [r.id for r in first][:2]
    names = ("map50", "map50_95", "precision", "recall", "params", "gflops")
    for a, b in zip(again, first):
        assert [a.metrics[n] for n in names] == [b.metrics[n] for n in names]


def test_freeze_means_what_it_means_in_yolov5():
    assert [Options(freeze=given).frozen for given in ((), (0,), (3,), (1, 4))] == [(), (), (0, 1, 2), (1, 4)]


@pytest.mark.parametrize(("given", "size"), [(None, 320), (256, 256)])
def test_a_yaml_with_several_input_sizes_is_trained_at_one_of_them(host, digits_yaml, tmp_path, given, size):
    cfg = tmp_path / "sizes.yaml"
    cfg.write_text((shipped("models") / "yolov5n_nas.yaml").read_text() + "imgsz: [256, 320]\n")
    assert prepare(Options(cfg=str(cfg), data=str(digits_yaml), device="cpu", imgsz=given)).options.imgsz == size


def start(folder, *flags):
    """A search of fake trials in a process of its own, once a trial has ended and another runs."""
    journal = folder / "trials.jsonl"
    before = journal.read_bytes().count(b"\n") if journal.exists() else 0
    forked.serve("loaded", "yolov5_nas.results.report")
    process = forked.start(search_quickly, list(map(str, flags)), output=folder.parent)
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= before + 3):
        assert process.is_alive(), (folder.parent / "err.txt").read_text()
        time.sleep(0.05)
    return process


def search_quickly(flags):
    pipeline.run_trial = fake_trials.one_then_slow
    return main(["search", *flags])


def test_interrupted_it_ends_cleanly_with_everything_saved_and_keeps_a_second_search_out(
    host, tmp_path, digits_yaml, capsys
):
    folder = tmp_path / "exp"
    flags = [*FLAGS, "--trials", "50", "--data", digits_yaml, "--project", tmp_path, "--engine", "local"]
    process = start(folder, *flags)
    before = (folder / "search.yaml").read_text()
    assert search("--resume", folder, "--trials", 99) == 2
    assert "another search is running in this folder" in capsys.readouterr().err
    assert (folder / "search.yaml").read_text() == before
    interrupt(process, signal.SIGINT, 130, tmp_path)
    assert (folder / "report.html").exists()
    assert (folder / "best/weights/best.pt").exists()
    assert [r.state for r in read_journal(folder)] == ["complete", "started"]
    (folder / "trials/1").mkdir(exist_ok=True)  # its process may not have begun
    (folder / "trials/1/slow").touch()  # trial 1 ends at once, now
    interrupt(start(folder, "--resume", folder), signal.SIGTERM, 143, tmp_path)
    assert [r.state for r in read_journal(folder)] == ["complete", "complete", "started"]
    (folder / "trials/2").mkdir(exist_ok=True)
    (folder / "trials/2/slow").touch()
    # As a terminal that is closed sends it, to the search and its workers.
    interrupt(start(folder, "--resume", folder), signal.SIGHUP, 143, tmp_path, os.killpg)
    assert [r.state for r in read_journal(folder)] == ["complete", "complete", "complete", "started"]


def interrupt(process, number, code, output, kill=os.kill):
    kill(process.pid, number)
    try:
        process.join(LONG)
    finally:
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
    err = (output / "err.txt").read_text()
    assert process.exitcode == code, err
    assert "go on with: yolov5-nas search --resume" in (output / "out.txt").read_text()
    assert "Traceback" not in err
    left = [p for p in psutil.process_iter() if _group(p.pid) == process.pid]
    assert not psutil.wait_procs(left, timeout=LONG)[1]


def _group(pid):
    try:
        return os.getpgid(pid)
    except OSError:
        return None


def test_a_one_shot_search_goes_on_in_each_of_its_stages(host, digits_yaml, tmp_path, capsys):
    common = [*FLAGS, "--engine", "local", "--data", digits_yaml, "--project", tmp_path]
    common += ["--cfg", "yolov5n_elastic.yaml", "--target", "params=2e6", "--audit", "0"]
    folder = tmp_path / "exp"
    with patched(SupernetTraining, _end_epoch=interrupted_after(SupernetTraining._end_epoch)):
        assert search(*common, "--trials", "2", "--one-shot", "2", "--scores", "4") == 130
    assert (folder / "shared/trials/0/last.pt").exists() and not (folder / "scores").exists()
    assert search("--resume", folder, interrupts={("scores", 2)}) == 130
    assert not (folder / "trials.jsonl").exists()
    assert search("--resume", folder, interrupts={("exp", 1)}) == 130
    assert search("--resume", folder) == 0
    (shared,) = read_journal(folder / "shared")
    assert "goes on after epoch 1" in (folder / "shared/trials/0/log.txt").read_text()
    assert (shared.state, shared.attempt) == ("complete", 2)
    scored, trained = read_journal(folder / "scores"), read_journal(folder)
    assert [(r.state, r.attempt) for r in scored] == [("complete", 1 + (r.number == 2)) for r in scored]
    assert [(r.state, r.attempt) for r in trained] == [("complete", 1), ("complete", 2)]
    best = max(scored[1:], key=lambda r: (r.reward, -r.number))
    assert [r.id for r in trained] == [scored[0].id, best.id]  # stock, and the one with the best score
    weights = folder / "shared/trials/0/weights.pt"
    assert f"tensors from {weights}, batch norm estimated again" in (folder / "trials/1/log.txt").read_text()
    again = ["--one-shot", "0", "--weights", weights, "--name", "again", "--trials", "1", "--scores", "2"]
    with untrained():
        assert search(*common, *again) == 0
    assert read_journal(tmp_path / "again/scores")[1].metrics == scored[1].metrics


def interrupted_after(function):
    """A method that is interrupted at its first end."""
    ended = []

    def method(*args):
        function(*args)
        if not ended:
            ended.append(True)
            raise KeyboardInterrupt

    return method


# Inherited weights ----------------------------------------------------------------------------------------------------


INHERITS = ["--cfg", "yolov5n_elastic.yaml", "--target", "params=1", "--base-epochs", "2", "--engine", "local"]


def test_all_start_from_the_base_which_is_trained_again_where_it_was_cut_off(host, digits_yaml, tmp_path, capsys):
    flags = [*FLAGS, *INHERITS, "--data", digits_yaml, "--project", tmp_path, "--trials", "2", "--audit", "0"]
    folder = tmp_path / "exp"
    assert search(*flags, interrupts={("exp", 0)}) == 130
    assert (folder / "trials.jsonl").read_bytes().count(b"\n") == 1
    assert search("--resume", folder) == 0
    records = read_journal(folder)
    assert [(r.state, r.parent) for r in records] == [("complete", None), ("complete", 0)]
    assert [p["epoch"] for p in records[0].curve] == [1, 2]
    assert [p["epoch"] for p in records[1].curve] == [1]
    assert (records[0].attempt, records[1].attempt) == (2, 1)
    weights = folder / "trials/0/weights.pt"
    assert f"tensors from {weights}" in (folder / "trials/1/log.txt").read_text()
    assert yaml.safe_load((folder / "hyp.inherit.yaml").read_text())["warmup_iterations"] == 8
    options = yaml.safe_load((folder / "search.yaml").read_text())
    assert (options["inherit"], options["hyp"]) == ("base", None)  # as it was given, so that the file can be used again
    assert weights.exists()  # for those to come
    capsys.readouterr()
    assert search("--resume", folder, "--base-epochs", 3) == 2
    assert "a resumed run keeps its options: base_epochs is 2" in capsys.readouterr().err
    with untrained():
        assert search("--resume", folder, "--trials", 3) == 0
    assert read_journal(folder)[2].parent == 0


def test_inherited_scores_are_audited_and_an_audit_goes_on(host, digits_yaml, tmp_path, capsys):
    flags = [*FLAGS, *INHERITS, "--data", digits_yaml, "--project", tmp_path, "--trials", "4", "--audit", "2"]
    folder = tmp_path / "exp"
    with untrained():
        assert search(*flags, "--audit-epochs", "2", interrupts={("audit", 1)}) == 130
    trained = (folder / "trials.jsonl").read_bytes()
    with untrained():
        assert search("--resume", folder) == 0
    assert search("--resume", folder, "--audit", 3) == 0  # a full training is real
    assert (folder / "trials.jsonl").read_bytes() == trained
    records, audited = read_journal(folder), read_journal(folder / "audit")
    assert sorted(r.id for r in audited) == sorted(r.id for r in records[1:])
    assert [(r.state, r.curve[-1]["epoch"], r.parent) for r in audited] == [("complete", 2, None)] * 3
    log = (folder / "audit/trials/2/log.txt").read_text()
    assert "optimizer" in log and "tensors from" not in log  # nothing is inherited
    assert "Can the proxy be trusted?" in (folder / "report.html").read_text()
    capsys.readouterr()
    assert search("--resume", folder) == 0
    assert "audit:" not in capsys.readouterr().out


def test_a_latency_backend_whose_package_is_missing_is_said_with_what_to_install(digits_yaml, monkeypatch, capsys):
    monkeypatch.setattr(latency, "find_spec", lambda name: None if name == "onnxruntime" else True)
    assert search("--latency-backend", "onnx", "--data", digits_yaml, "--device", "cpu") == 2
    assert "the runtime onnx needs: pip install onnxruntime" in capsys.readouterr().err


def test_a_front_is_searched_under_a_constraint(host, digits_yaml, tmp_path):
    flags = [*FLAGS, "--engine", "local", "--data", digits_yaml, "--project", tmp_path, "--trials", "3"]
    objectives = ["--cfg", "yolov5n_elastic.yaml", "--objectives", "map50_95", "params", "gflops"]
    with untrained():
        assert search(*flags, *objectives, "--constraint", "params<=1.9e6", "--constraint", "gflops<=0.08") == 0
    records = read_journal(tmp_path / "exp")
    assert [r.state for r in records].count("complete") == 3
    for record in records:
        met = record.metrics["params"] <= 1.9e6 and record.metrics["gflops"] <= 0.08
        assert met == (record.state == "complete"), record
        assert "latency_ms" in record.metrics or record.state == "infeasible"
    options = yaml.safe_load((tmp_path / "exp" / "search.yaml").read_text())
    assert (options["strategy"], options["objectives"]) == ("nsga2", ["map50_95", "params", "gflops"])
    kept = {int(path.parent.name) for path in (tmp_path / "exp" / "trials").glob("*/weights.pt")}
    assert {r.number for r in front(records, "map50_95", "params", "gflops")} <= kept
    with untrained():
        assert search("--resume", tmp_path / "exp", "--trials", "4") == 0
    assert read_journal(tmp_path / "exp")[: len(records)] == records


def test_an_audit_of_given_weights_goes_on_from_them(host, digits_yaml, trained_n, tmp_path, capsys):
    flags = [*FLAGS, "--cfg", "yolov5n_elastic.yaml", "--weights", trained_n, "--method", "trials", "--trials", "4"]
    with untrained():
        given = [
            "--data",
            digits_yaml,
            "--project",
            tmp_path,
            "--engine",
            "local",
            "--audit",
            "2",
            "--audit-epochs",
            "2",
        ]
        assert search(*flags, *given) == 0
    audited = read_journal(tmp_path / "exp/audit")
    assert [r.budget for r in audited] == [{"epochs": 2, "weights": str(trained_n)}] * 2
    assert "from the same weights" in capsys.readouterr().out


def test_trials_are_ended_early_and_what_was_is_audited(host, digits_yaml, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "run_trial", fake_trials.curved)
    monkeypatch.setattr(stages, "run_trial", fake_trials.curved)
    flags = [*FLAGS, "--engine", "local", "--data", digits_yaml, "--project", tmp_path, "--trials", "20", "--prune"]
    assert search(*flags) == 0
    records = read_journal(tmp_path / "exp")
    assert [r.state for r in records[:MIN_COMPLETE]] == ["complete"] * MIN_COMPLETE
    assert {r.state for r in records} == {"complete", "pruned"}
    for record in records:
        assert (len(record.curve) == fake_trials.EPOCHS) == (record.state == "complete")
        assert (record.error or {}).get("reason") == ("pruned" if record.state == "pruned" else None)
    pruned = {r.id: r for r in records if r.state == "pruned"}
    audited = read_journal(tmp_path / "exp/audit")
    assert len(audited) == 5 and {r.id for r in audited} <= set(pruned)  # trained to the end, as they would have been
    for whole in audited:
        ended = pruned[whole.id]
        assert (whole.state, whole.curve[: len(ended.curve)]) == ("complete", ended.curve)


def test_a_reward_of_ones_own_that_raises_fails_the_trial_with_its_reason(host, digits_yaml, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(
        "def f(metrics):\n"
        "    if metrics['params'] > 1.8e6:\n"
        "        raise ValueError('too large')\n"
        "    return metrics['map50'] + 1\n"
    )
    flags = [*FLAGS, "--engine", "local", "--data", digits_yaml, "--project", tmp_path, "--trials", "2"]
    with untrained():
        assert search(*flags, "--reward", "own.py:f", "--imgsz", "64") == 0
    first, second = read_journal(tmp_path / "exp")
    assert first.reward == first.metrics["map50"] + 1
    assert second.error == {"reason": "crash", "message": "the reward raised ValueError: too large"}


def test_bad_input_is_one_line_and_exit_code_2_with_nothing_written(host, digits_yaml, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    stock, space = tmp_path / "stock.yaml", tmp_path / "bad.yaml"
    stock.write_text((host.location.root / "models/yolov5n.yaml").read_text())
    space.write_text((ROOT / "models/yolov5n_elastic.yaml").read_text().replace("width:", "wdith:", 1))
    (tmp_path / "broken.yaml").write_text("backbone: [\n  oops: {\n")
    (tmp_path / "weights.pt").write_text("no checkpoint")
    elastic, _ = read_model_yaml(shipped("models") / "yolov5n_elastic.yaml")
    supernet.save(supernet.build(host, elastic, 10), elastic, tmp_path / "shared.pt")
    for name in ("yolov5n", "yolov5s", "hub/yolov5n6", "segment/yolov5n-seg"):
        cfg = yaml.safe_load((host.location.root / f"models/{name}.yaml").read_text())
        kind = host.yolo.SegmentationModel if "seg" in name else host.yolo.Model
        host.save_checkpoint(kind(cfg), tmp_path / f"{Path(name).name}.pt")
    hyp = yaml.safe_load((host.location.root / "data/hyps/hyp.scratch-low.yaml").read_text())
    (tmp_path / "hyp.yaml").write_text(yaml.safe_dump({k: v for k, v in hyp.items() if k != "warmup_bias_lr"}))
    (tmp_path / "raises.py").write_text("raise ValueError('on purpose')\n")
    (tmp_path / "old.yaml").write_text("proxy: auto\n")
    before = sorted(tmp_path.iterdir())
    data = ("--data", digits_yaml)
    cases = [
        (("--cfg", "none.yaml", *data), "model YAML (--cfg) does not exist"),
        (("--cfg", stock, *data), "needs at least one NASConv or NASC3"),
        (("--cfg", space, *data), "bad.yaml:16: unknown option of NASC3, got 'wdith'"),
        (("--cfg", "broken.yaml", *data), "broken.yaml:"),
        (("--cfg", digits_yaml), "were --cfg and --data mixed up"),
        (("--data", "yolov5n_nas.yaml", "--cfg", "yolov5n_nas.yaml"), "data YAML (--data) does not exist"),
        (("--data", stock), "were --cfg and --data mixed up"),
        (("--data", "none.yaml"), "data YAML (--data) does not exist"),
        (("--hyp", "none.yaml", *data), "hyper-parameter YAML (--hyp) does not exist"),
        (("--hyp", stock, *data), "must have YOLOv5's keys"),
        (("--hyp", "hyp.yaml", *data), "must have YOLOv5's keys"),
        (("--weights", "none.pt", *data), "none.pt: the weights file does not exist"),
        (("--weights", "weights.pt", *data), "weights.pt: no YOLOv5 checkpoint"),
        (
            ("--weights", "yolov5s.pt", "--trials", "2", *data),
            "layer 0 has 32 channels in them, not 16 (is it of another size, or a P6 model?)",
        ),
        (
            ("--weights", "yolov5n6.pt", "--trials", "2", *data),
            "the weights must have as many outputs as yolov5n_nas.yaml, 3, got '4 outputs (a P6 model)'",
        ),
        (("--weights", "yolov5n6.pt", *data), "the weights must have as many outputs as yolov5n_elastic.yaml, 3"),
        (("--weights", "yolov5n-seg.pt", *data), "a SegmentationModel of YOLOv5"),
        (("--inherit", "base", *data), "--inherit base needs --weights or --base-epochs"),
        (("--inherit", "none", "--base-epochs", "2", *data), "--inherit none cannot be combined with --weights"),
        (("--base-epochs", "0", *data), "--base-epochs must be at least 1"),
        (
            ("--base-epochs", "1", "--inherit-hyp", "none.yaml", *data),
            "hyper-parameter YAML (--inherit-hyp) does not exist",
        ),
        (
            ("--one-shot", "1", "--base-epochs", "1", *data),
            "--one-shot cannot be combined with --base-epochs",
        ),
        (("--one-shot", "0", *data), "--one-shot 0 trains nothing, so it needs the --weights of a supernet"),
        (
            ("--one-shot", "0", "--weights", "yolov5n.pt", *data),
            "--one-shot 0 scores by --weights of a supernet only",
        ),
        (("--one-shot", "1", "--cfg", stock, *data), "needs at least one NASConv or NASC3"),
        (("--one-shot", "1", "--scores", "0", *data), "--scores must be at least 1"),
        (("--weights", "shared.pt", *data), "trained for another space than that of --cfg"),
        (("--project", "file/runs", *data), "the folder can't be written"),
        (("--yolov5", tmp_path, *data), "--yolov5 must be a clone"),
        (("--device", "99", *data), "--device must name devices of this machine"),
        (("--concurrency", "1000", *data), "--concurrency must be at most"),
        (("--target", "speed=1", *data), "a target must name a cost"),
        (("--exponent", "0.5", *data), "exponent"),
        (("--reward", "magic", *data), "unknown reward, got 'magic'; accepted: soft, hard, map, module:function"),
        (("--reward", "no_such_module:f", *data), "the module of the reward can't be imported (ModuleNotFoundError"),
        (("--reward", "json:no_such", *data), "json has no function no_such"),
        (("--reward", "raises.py:f", *data), "the module of the reward can't be imported (ValueError: on purpose)"),
        (
            ("--constraint", "speed<=1", *data),
            "must name a cost that is known before training, got 'speed'",
        ),
        (
            ("--constraint", "map50<=1", *data),
            "must name a cost that is known before training, got 'map50'",
        ),
        (("--constraint", "params<2e6", *data), "a constraint can't be read"),
        (("--objectives", "map50_95", "speed", *data), "an objective must be a metric, got 'speed'"),
        (("--objectives", "map50_95", *data), "--objectives must be two or more different metrics"),
        (("--objectives", "map50_95", "params", "--strategy", "tpe", *data), "--objectives need a --strategy"),
        (("--half", "--device", "cpu", *data), "--precision fp16 (--half) is not for this"),
        (("--latency-batch", "0", *data), "--latency-batch must be at least 1"),
        (("--epochs", "0", *data), "--epochs must be at least 1"),
        (("--subset", "2", *data), "--subset must be a share"),
        (("--resume", tmp_path), "--resume must name the folder of a run"),
        (("--config", stock), "unknown option"),
        (("--proxy", "auto", *data), "--proxy was removed, got 'auto'; accepted: on"),
        (("--config", "old.yaml", *data), "old.yaml: --proxy was removed, got 'auto'; accepted: on"),
    ]
    for flags, message in cases:
        assert search(*flags) == 2, flags
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: "), (flags, error)
        assert message in error, (flags, error)
    assert sorted(tmp_path.iterdir()) == before


def test_no_yolov5_anywhere(tmp_path, monkeypatch, capsys):
    import importlib.util

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("YOLOV5_ROOT", raising=False)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "yolov5" else find_spec(name, *a))
    assert search() == 2
    assert "no YOLOv5 found: git clone https://github.com/ultralytics/yolov5" in capsys.readouterr().err
