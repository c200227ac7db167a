"""What a user named, found and checked: what can't be taken is one line, exit code 2, and nothing is written."""

import pytest
import torch
import yaml
from datasets import write_data
from inline import inline, untrained

from yolov5_nas.cli import main
from yolov5_nas.errors import UserError
from yolov5_nas.files import shipped
from yolov5_nas.host.dataset import read_data
from yolov5_nas.records.options import Options
from yolov5_nas.run.check_parent import with_method
from yolov5_nas.run.prepare import prepare
from yolov5_nas.space.compile import derive
from yolov5_nas.space.space import Space
from yolov5_nas.training.initial import freeze

GOOD = "0 .5 .5 .1 .1"
TINY = ["--imgsz", "64", "--epochs", "1", "--trials", "1", "--device", "cpu", "--engine", "local"]

DATA = {
    "a subset without objects": ({"labels": (GOOD, *("",) * 40)}, ("--subset", "0.1"), "--subset must leave"),
    "names of mixed keys": ({"names": {0: "a", "b": "b"}}, (), "names must list the classes"),
    "sizes in a list": ({"imgsz": [64, 64]}, (), "imgsz must be a whole number"),
    "splits in a mapping": ({"train": {"a": "images"}}, (), "train must be a folder or file"),
    "a test split that is none": ({"test": [3]}, (), "test must be a folder or file"),
    "a download that brings nothing": (
        {"train": "none", "download": "print(1)"},
        (),
        "download: has left no images of",
    ),
    "a download that ends": (
        {"train": "none", "download": "raise SystemExit(3)"},
        (),
        "download: has left no images of",
    ),
    "a number of classes that is none": ({"names": None, "nc": True}, (), "names must list the classes"),
    "a name longer than any file's": ({"train": "a" * 400}, (), "can't be read (File name too long)"),
    "six columns in all labels": ({"labels": (GOOD + " 0",) * 2}, (), "labels require 5 columns"),
    "layers that are not there": ({}, ("--freeze", "99"), "--freeze must name layers of the model"),
    "all layers frozen": ({}, ("--freeze", "25"), "--freeze leaves no layer to train"),
    "all layers frozen one by one": ({}, ("--freeze", *map(str, range(25))), "--freeze leaves no layer to train"),
    "all layers frozen that have weights": (
        {},
        ("--freeze", *(str(i) for i in range(25) if i not in (11, 12))),  # Upsample and Concat
        "--freeze leaves no layer to train",
    ),
    "all layers of a supernet frozen": ({}, ("--freeze", "25", "--one-shot", "1"), "--freeze leaves no layer to train"),
    "parameters out of reach": ({}, ("--constraint", "params<=1.7e6"), "reaches the constraint params<=1.7e+06"),
    "GFLOPs out of reach": ({}, ("--constraint", "gflops<=0.039"), "reaches the constraint gflops<=0.039"),
    "a size below zero": ({}, ("--imgsz", "-64"), "--imgsz must be at least 1"),
    "loaders below zero": ({}, ("--workers", "-1"), "--workers must be at least 0"),
    "another folder's file": ({}, ("--cfg", "mnie/yolov5n_nas.yaml"), "model YAML (--cfg) does not exist"),
    "a run of too long a name": ({}, ("--name", "a" * 400), "(File name too long)"),
    "weights that are not there": ({}, ("--weights", "~/none.pt"), "the weights file does not exist"),
}


@pytest.mark.parametrize("name", DATA)
def test_it_is_one_line_and_nothing_is_written(host, tmp_path, capsys, name):
    entries, flags, words = DATA[name]
    data = write_data(tmp_path / "set", **entries)
    with inline(), untrained():
        argv = ["search", *TINY, "--data", data, "--project", tmp_path / "runs", *flags]
        assert main(list(map(str, argv))) == 2
    *progress, line = capsys.readouterr().err.splitlines()
    assert all("Scanning" in text for text in progress if text)  # YOLOv5's bar
    assert line.startswith("error: ") and words in line
    assert not (tmp_path / "runs").exists()


def test_a_subset_is_drawn_once_and_kept_as_it_was_checked(host, tmp_path):
    data = write_data(tmp_path / "set", labels=(GOOD,) * 10)
    options = Options(data=str(data), subset=0.3, device="cpu", engine="local", imgsz=64)
    assert len(prepare(options).subset) == 3
    with inline(), untrained():
        argv = ["search", *TINY, "--data", data, "--project", tmp_path / "runs", "--subset", "0.3"]
        assert main(list(map(str, argv))) == 0
    lines = (tmp_path / "runs/exp/train_subset.txt").read_text().splitlines()
    assert lines == prepare(options).subset


def test_the_input_size_is_the_checkpoints(host, trained_n, digits_yaml, tmp_path, capsys):
    """Whatever the data YAML says; one that does not know its size has the data YAML's."""
    given = {"weights": str(trained_n), "data": str(digits_yaml), "target": ["params=1.5e6"], "device": "cpu"}
    assert prepare(Options().with_given(with_method({**given, "engine": "local"}))).options.imgsz == 64
    assert f"input size: 64 px, at which {trained_n} was trained" in capsys.readouterr().out
    host.save_checkpoint(host.load_checkpoint(trained_n), tmp_path / "nameless.pt")
    model = yaml.safe_load((shipped("models") / "yolov5n_elastic.yaml").read_text())
    for sizes, size in (([64, 96], 64), ([96, 128], 128)):
        (tmp_path / "sizes.yaml").write_text(yaml.safe_dump({**model, "imgsz": sizes}))
        sized = {**given, "cfg": str(tmp_path / "sizes.yaml"), "engine": "local"}
        assert prepare(Options().with_given(with_method(sized))).options.imgsz == size
    assert "input size: 128 px; the model YAML does not list 64 px" in capsys.readouterr().out
    given["weights"] = str(tmp_path / "nameless.pt")
    assert prepare(Options().with_given(with_method({**given, "engine": "local"}))).options.imgsz == 128
    assert f"input size: 128 px; {tmp_path / 'nameless.pt'} does not say which" in capsys.readouterr().out


def test_both_hyper_parameter_files_have_the_same_anchors(host, tmp_path, capsys):
    data, text = write_data(tmp_path / "set"), (shipped("data") / "hyp.inherit.yaml").read_text()
    for name, anchors in (("three", 3), ("four", 4)):
        (tmp_path / f"{name}.yaml").write_text(f"{text}\nanchors: {anchors}\n")
    common = {"data": str(data), "device": "cpu", "engine": "local", "imgsz": 64, "base_epochs": 1}
    found = prepare(Options(hyp=str(tmp_path / "four.yaml"), inherit_hyp="hyp.inherit.yaml", **common))
    assert found.inherit_hyp["anchors"] == found.model["anchors"] == 4
    argv = ["search", *TINY, "--data", data, "--hyp", tmp_path / "four.yaml", "--inherit-hyp", tmp_path / "three.yaml"]
    with inline(), untrained():
        assert main([*map(str, argv), "--base-epochs", "1", "--project", str(tmp_path / "runs")]) == 2
    assert "anchors must be those of --hyp, got 3; accepted: 4" in capsys.readouterr().err


def test_all_but_the_detection_layer_may_be_frozen_as_in_stock(host, tmp_path):
    """Of which `train.py --freeze 25` fails in its first step."""
    options = Options(data=str(write_data(tmp_path / "set")), freeze=(24,), device="cpu", engine="local", imgsz=64)
    found = prepare(options).model
    model = host.build(derive(space := Space.from_dict(found), space.default()))
    for frozen, works in ((24, True), (25, False)):
        freeze(model, range(frozen))
        loss = sum(output.sum() for output in model(torch.zeros(1, 3, 64, 64)))
        assert loss.requires_grad is works


EVOLVED = """# YOLOv5 Hyperparameter Evolution Results
# Best generation: 12
# Last generation: 29
#    metrics/precision,       metrics/recall,      metrics/mAP_0.5, metrics/mAP_0.5:0.95,         val/box_loss
#              0.54321,              0.54321,              0.54321,              0.54321,              0.54321

"""  # as `utils.general.print_mutation` writes them


@pytest.mark.parametrize("anchors", [3.21, 4.6])
@pytest.mark.parametrize("flag", ["hyp", "inherit_hyp"])
def test_a_checkpoint_keeps_its_anchors_whatever_was_evolved(
    host, trained_n, digits_yaml, tmp_path, capsys, flag, anchors
):
    text = (shipped("data") / "hyp.inherit.yaml").read_text()
    (evolved := tmp_path / "hyp_evolve.yaml").write_text(f"{EVOLVED}{text}\nanchors: {anchors}\n")
    common = {"data": str(digits_yaml), "device": "cpu", "engine": "local", flag: str(evolved)}
    given = with_method({**common, "weights": str(trained_n), "target": ["params=1.5e6"]})
    found = prepare(Options().with_given(given))
    assert f"{evolved}: anchors is ignored, since {trained_n} keeps its anchors" in capsys.readouterr().out
    assert not {"anchors"} & ({*found.hyp} | {*found.inherit_hyp}) and len(found.model["anchors"][0]) == 6
    if flag == "inherit_hyp":
        found = prepare(Options(**common, base_epochs=1, imgsz=64))
        assert f"{evolved}: anchors is ignored, since trial 0 keeps its anchors" in capsys.readouterr().out
        assert "anchors" not in found.inherit_hyp and len(found.model["anchors"][0]) == 6
        return
    found = prepare(Options(**common, imgsz=64))  # from scratch it counts, as in stock
    derived = derive(space := Space.from_dict(found.model), space.default())
    stock = host.build(
        yaml.safe_load((host.location.root / "models" / "yolov5n.yaml").read_text()), nc=10, anchors=anchors
    )
    assert host.build(derived).model[-1].na == stock.model[-1].na == round(anchors)


def test_label_smoothing_is_the_options_as_in_stock(host, tmp_path, capsys):
    text = (shipped("data") / "hyp.short.yaml").read_text()
    (hyp := tmp_path / "hyp.yaml").write_text(f"{text}\nlabel_smoothing: 0.1\n")
    prepare(Options(data=str(write_data(tmp_path / "set")), hyp=str(hyp), device="cpu", engine="local", imgsz=64))
    assert f"{hyp}: label_smoothing is ignored, as in YOLOv5; --label-smoothing is 0" in capsys.readouterr().out


LEAST = {"params": 1137063, "gflops": 0.023517184}  # of yolov5n_elastic.yaml for ten classes at 64 px


@pytest.mark.parametrize("metric", LEAST)
def test_what_is_counted_exactly_gets_no_slack(host, trained_n, digits_yaml, metric):
    """2 % below the smallest architecture is out of reach; itself is not."""
    common = {"weights": str(trained_n), "data": str(digits_yaml), "device": "cpu", "engine": "local"}

    def prepared(share, **more):
        target = [f"{metric}={share * LEAST[metric]!r}"]
        return prepare(Options().with_given(with_method({"target": target, **common, **more})))

    assert prepared(1).options.plans[0][0].metric == metric
    with pytest.raises(UserError, match=f"reaches the target {metric}.*at least"):
        prepared(0.98)
    with pytest.raises(UserError, match=f"reaches the constraint {metric}.*at least"):
        prepared(1, constraint=[f"{metric}<={0.98 * LEAST[metric]!r}"])


def test_the_sets_of_the_host_itself_are_read(host, tmp_path, monkeypatch):
    """Each of its data YAMLs: the images are not there, and that is all that is said."""

    files = sorted((host.location.root / "data").glob("*.yaml"))
    assert len(files) > 5
    for file in files:
        if "train" not in yaml.safe_load(file.read_text(errors="ignore")):
            continue  # ImageNet's, of classification
        try:
            assert read_data(file)["nc"] > 0
        except UserError as e:
            raise AssertionError(file) from e
