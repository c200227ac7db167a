"""Trials as they will run: exported, quantised, validated and timed on real runtimes."""

import re
import shutil
import subprocess
import sys

import onnx
import pytest
import torch
from inline import inline
from old_runs import copied
from onnx import numpy_helper

from yolov5_nas.cli import main
from yolov5_nas.cost.quantisation import quantised
from yolov5_nas.results.deployed import PLAIN, Form, read


@pytest.fixture
def run(host, digits_yaml, tmp_path):
    """A finished run of tiny networks."""
    return copied("finished", host, digits_yaml, tmp_path)


def call(*words):
    with inline():
        return main([*map(str, words)])


def found_in(run):
    return {(row.number, row.form): row for row in read(run).rows}


def test_an_exported_network_has_its_checkpoints_map_and_int8_most_of_it(run, host, trained_n):
    """In a process of its own, as users have it: NNCF has left behind one that fell over in a later test."""
    shutil.copy(trained_n, run / "trials/0/weights.pt")
    words = (
        "--trial",
        0,
        "--include",
        "onnx",
        "openvino",
        "--precision",
        "int8",
        "--validate",
        "--calibration",
        32,
        "--margin",
        0.5,
    )
    command = [sys.executable, "-m", "yolov5_nas", "export", run, *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    out, found = done.stdout, found_in(run)
    assert set(found) == {(0, PLAIN), *((0, Form(b, p)) for b in ("onnx", "openvino") for p in ("fp32", "int8"))}
    whole = found[0, PLAIN].metrics
    assert whole["map50_95"] > 0.02  # it has begun to detect
    for (_, form), row in found.items():
        if form.precision == "fp32":  # one box at an IoU threshold that falls on its other side is 0.001
            assert row.metrics["map50_95"] == pytest.approx(whole["map50_95"], abs=0.005), form
        # Processors round INT8 in ways of their own, and so short a training may gain from it; a wrong file has 0.
        assert row.metrics["map50_95"] > 0.5 * whole["map50_95"], form
        assert row.metrics["latency_ms"] > 0 and row.metrics["whole_ms"] > 0
    for backend in ("onnx", "openvino"):
        plain, small = (found[0, Form(backend, p)].metrics["megabytes"] for p in ("fp32", "int8"))
        assert small < 0.5 * plain
    assert "openvino int8" in out and "rectangular" in out
    folder = run / "export/0"
    assert "best_int8_openvino_model" in (folder / "README.md").read_text()
    assert "As it is deployed" in (run / "report.html").read_text()
    loaded = host.load_exported(folder / "weights/best_int8.onnx", "int8", torch.device("cpu"))
    assert list(loaded.names.values()) == [str(i) for i in range(10)]  # a stock detect.py knows the classes


def test_a_winner_is_timed_beside_stock_and_a_second_form_joins_the_first(run, capsys):
    assert call("export", run, "--trial", 2, "--include", "onnx", "--validate") == 0
    found = found_in(run)
    assert {number for number, _ in found} == {0, 2}
    assert found[0, Form("onnx")].metrics["latency_ratio"] == 1 != found[2, Form("onnx")].metrics["latency_ratio"]
    assert call("export", run, "--trial", 2, "--include", "torchscript", "--opset", 13, "--out", run / "mine") == 0
    assert (run / "mine/weights/best.torchscript").exists()
    assert found_in(run) == found  # nothing was measured
    assert call("export", run, "--trial", 2, "--include", "torchscript", "--validate", "--latency-batch", 2) == 0
    assert set(found_in(run)) == {*found, (0, Form("torchscript")), (2, Form("torchscript"))}
    batches = {row.form.backend: row.conditions["batch"] for row in found_in(run).values()}
    assert batches["onnx"] == 1 and batches["torchscript"] == 2
    text = (run / "export/2/README.md").read_text()
    assert "best.onnx" in text and "| torchscript" in text and "batch 1 or 2" in text  # of both calls
    assert sorted(p.name for p in (run / "export/2/weights").iterdir()) == ["best.onnx", "best.pt", "best.torchscript"]


def test_timing_that_fails_keeps_the_rest(run, monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("the runtime fell over")

    monkeypatch.setattr("yolov5_nas.run.deploy.timed", broken)
    (run / "trials/0/weights.pt").unlink()
    assert call("export", run, "--trial", 2, "--include", "onnx", "--validate") == 0
    row = found_in(run)[2, Form("onnx")]
    assert "map50_95" in row.metrics and row.problem == "the runtime fell over"
    assert "the weights of trial 0 (stock) were not kept" in capsys.readouterr().out


def test_a_search_deploys_its_winner(run):
    assert call("search", "--resume", run, "--deploy", "onnx", "--audit", 0) == 0
    numbers = {number for number, form in found_in(run) if form == Form("onnx")}
    assert 0 in numbers and len(numbers) == 2
    before = (run / "deployed.json").read_bytes()
    assert call("search", "--resume", run, "--deploy", "onnx", "--audit", 0) == 0
    assert (run / "deployed.json").read_bytes() == before


@pytest.mark.parametrize("words", [["--deploy", "onyx"], ["--deploy", "onnx", "--margin", "0"]])
def test_what_a_search_can_not_deploy_is_said_before_it_begins(run, words, capsys):
    before = (run / "search.yaml").read_text()
    assert call("search", "--resume", run, *words) == 2
    assert (run / "search.yaml").read_text() == before and not (run.parent / "runs").exists()


def test_what_fails_is_one_line_and_the_rest_is_whole(run, host, monkeypatch, capsys):
    def broken(path, images, kept=()):
        file = quantised(path, images, kept)
        model = onnx.load(file)
        first = next(i for i in model.graph.initializer if i.data_type == onnx.TensorProto.FLOAT and i.dims)
        first.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(first) * float("nan"), first.name))
        onnx.save(model, file)
        return file

    stock = type(host).export

    def export(self, model, path, form, *args, **options):
        if form == "openvino":
            raise RuntimeError("the exporter fell over")
        if form == "coreml":
            path.with_suffix(".mlmodel").write_bytes(b"a")
            return path.with_suffix(".mlmodel")
        return stock(self, model, path, form, *args, **options)

    monkeypatch.setattr(type(host), "export", export)
    monkeypatch.setattr("yolov5_nas.cost.mixed.quantised", broken)
    words = "--trial", 0, "--include", "onnx", "openvino", "--precision", "int8", "--calibration", 2, "--validate"
    assert call("export", run, *words) == 0
    found, out = found_in(run), capsys.readouterr().out
    assert "NaN" in found[0, Form("onnx", "int8")].problem and "map50_95" in found[0, Form("onnx")].metrics
    for precision in ("fp32", "int8"):
        assert found[0, Form("openvino", precision)].problem == "the exporter fell over"
    assert "stock in onnx int8: it gives numbers that are not finite (NaN)." in out
    assert call("export", run, "--trial", 0, "--include", "coreml", "--validate") == 0
    assert "not checked" in found_in(run)[0, Form("coreml")].problem
    assert (run / "export/0/weights/best.mlmodel").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--include", "torchscript", "--precision", "int8"], "int8 is not for this.*torchscript"),
        (["--include", "onnx", "--half"], "fp16 .--half. is not for this"),
        (["--include", "coreml", "--precision", "int8"], "int8 is not for this.*coreml"),
        (["--include", "onyx"], "no format of YOLOv5's export.py.*onyx.*onnx"),
        (["--include", "onnx", "--precision", "int8", "--calibration", "5000"], "more images.*5000.*1 to 32"),
        (["--include", "onnx", "--precision", "int8", "--calibration", "0"], "--calibration must be at least 1"),
        (["--include", "onnx", "--margin", "0"], "--margin must be above 0"),
        (["--include", "onnx", "--half", "--precision", "int8"], "--half is --precision fp16"),
        (["--validate"], "--validate is for what --include names"),
        (["--precision", "int8"], "--precision is for what --include names"),
        (["--include", "onnx", "--trial", "1"], "the weights of the trial were not kept.*got 1"),
        (["--include", "onnx", "--trial", "9"], "no such trial.*got 9"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(run, words, said, capsys):
    (run / "trials/1/weights.pt").unlink()
    assert call("export", run, *words) == 2
    out = " ".join(capsys.readouterr().err.split())
    assert re.search(said, out), out
    assert not (run / "export").exists() and not (run / "deployed.json").exists()
