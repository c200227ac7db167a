"""A search's model before anything is written: what the host builds is asked of the host."""

import inspect
import re

import pytest
import yaml
from inline import inline, untrained

from yolov5_nas.cli import main
from yolov5_nas.errors import UserError
from yolov5_nas.files import shipped
from yolov5_nas.host.compat import patched
from yolov5_nas.records.journal import read_journal
from yolov5_nas.records.options import Options
from yolov5_nas.run.prepare import prepare
from yolov5_nas.space.compile import derive, dump_model, stock_form
from yolov5_nas.space.space import Space

TINY = ["--imgsz", "64", "--epochs", "1", "--trials", "1", "--device", "cpu", "--engine", "local"]


def model_of(name="yolov5n_nas.yaml"):
    return yaml.safe_load((shipped("models") / name).read_text())


def written(tmp_path, model):
    path = tmp_path / "model.yaml"
    path.write_text(dump_model(model))
    return path


def prepared(cfg, data, **options):
    return prepare(Options(cfg=str(cfg), data=str(data), device="cpu", engine="local", **{"imgsz": 64, **options}))


def size(host, cfg):
    return sum(p.numel() for p in host.build(cfg).parameters())


def journal_size(cfg, digits_yaml, tmp_path, *flags):
    """The parameters that a search's journal, and its winner's checkpoint, have for stock YOLOv5."""
    with inline(), untrained():
        argv = ["--cfg", cfg, "--data", digits_yaml, "--project", tmp_path, *TINY, *flags]
        assert main(["search", *map(str, argv)]) == 0
    return int(read_journal(tmp_path / "exp")[0].metrics["params"])


# The parser is asked --------------------------------------------------------------------------------------------------


@pytest.fixture
def gated(host):
    """The host with a user's own module in it and in its parser's list: a C3 that ends in a gate."""

    class C3Gate(host.common.C3):
        def __init__(self, c1, c2, n=1, shortcut=True, g=1, e=0.5):
            super().__init__(c1, c2, n, shortcut, g, e)
            self.gate = host.common.Conv(c2, c2, 1)

        def forward(self, x):
            y = super().forward(x)
            return y * self.gate(y).sigmoid()

    C3Gate.__module__, C3Gate.__qualname__ = host.common.__name__, "C3Gate"
    parser = getattr(host.yolo.parse_model, "stock", host.yolo.parse_model)
    source, count = re.subn(r"\bC3x\b(?!\()", "C3x, C3Gate", inspect.getsource(parser))
    assert count >= 2  # scaled, repeated
    names = vars(host.yolo)
    with patched(host.yolo, C3Gate=C3Gate), patched(host.common, C3Gate=C3Gate):
        exec(compile(source, host.yolo.__file__, "exec"), names, own := {})
        with patched(host.yolo, parse_model=own["parse_model"]):
            yield host


def test_a_users_own_module_is_scaled_as_the_hosts_parser_scales_it(gated, digits_yaml, tmp_path):
    model = model_of()
    model["backbone"][4][2:] = ["C3Gate", [256]]
    cfg = written(tmp_path, model)
    found = prepared(cfg, digits_yaml)
    assert "C3Gate" in found.model["scaled_modules"]
    expected = size(gated, {**stock_form(model), "nc": 10})
    space = Space.from_dict(found.model)
    assert size(gated, derive(space, space.default())) == expected
    assert derive(space, space.default())["backbone"][4] == [-1, 2, "C3Gate", [64]]
    assert "scaled_modules" not in derive(space, space.default())
    assert journal_size(cfg, digits_yaml, tmp_path) == expected


def test_what_the_parser_leaves_as_it_is_stays_as_it_is(host, digits_yaml, tmp_path):
    class Twice(host.yolo.nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor, self.own = factor, host.yolo.nn.Parameter(host.yolo.torch.zeros(factor))

        def forward(self, x):
            return x * self.factor

    model = model_of()
    model["backbone"][8] = [-1, 1, "Twice", [6]]  # not one of the parser's: its argument is no width
    with patched(host.yolo, Twice=Twice):
        found = prepared(written(tmp_path, model), digits_yaml)
        space = Space.from_dict(found.model)
        assert derive(space, space.default())["backbone"][-2][3] == [6]
        assert size(host, derive(space, space.default())) == size(host, {**stock_form(model), "nc": 10})


def test_a_module_whose_channels_can_be_written_in_no_way_is_refused(host, digits_yaml, tmp_path):
    """Its parameters follow the YAML's multiple by themselves."""
    drawn = iter(range(3, 99))

    class Odd(host.yolo.nn.Module):
        def __init__(self):
            super().__init__()
            self.own = host.yolo.nn.Parameter(host.yolo.torch.zeros(next(drawn)))

        def forward(self, x):
            return x

    model = model_of()
    model["backbone"][8] = [-1, 1, "Odd", []]
    cfg = written(tmp_path, model)
    with patched(host.yolo, Odd=Odd), pytest.raises(UserError, match="is not what YOLOv5 builds of this line") as e:
        prepared(cfg, digits_yaml)
    assert "Odd" in cfg.read_text().splitlines()[e.value.line - 1]


# Input sizes ----------------------------------------------------------------------------------------------------------


def p6(host):
    """The host's own YAML of four outputs, made searchable."""
    path = host.location.root / "models/hub/yolov5n6.yaml"
    if path.exists():
        model = yaml.safe_load(path.read_text())
    else:
        model = yaml.safe_load((host.location.root / "models/hub/yolov5s6.yaml").read_text()) | {"width_multiple": 0.25}
    for row in [*model["backbone"], *model["head"]]:
        row[2] = "NAS" + row[2] if row[2] in ("Conv", "C3") else row[2]
    return model


@pytest.mark.parametrize(("wanted", "taken"), [(96, 128), (64, 128), (128, 128), (130, 192), (1, 128)])
def test_sizes_are_what_yolov5_makes_of_them_also_with_a_stride_of_64(
    host, digits_yaml, tmp_path, wanted, taken, capsys
):
    found = prepared(written(tmp_path, p6(host)), digits_yaml, imgsz=wanted)
    assert found.options.imgsz == taken == host.general.check_img_size(wanted, 64, floor=128)
    assert (f"{taken} is taken for {wanted}" in capsys.readouterr().out) == (taken != wanted)


def test_sizes_that_the_yaml_lists_too(host, digits_yaml, tmp_path, capsys):
    cfg = written(tmp_path, {**p6(host), "imgsz": [128, 160, 192, 200]})
    found = prepared(cfg, digits_yaml, imgsz=None)
    assert found.model["imgsz"] == [128, 192, 256]
    assert "192 is taken for 160" in capsys.readouterr().out
    with inline(), untrained():
        argv = ["--cfg", cfg, "--data", digits_yaml, "--project", tmp_path, *TINY[2:], "--trials", "3"]
        assert main(["search", *map(str, argv)]) == 0
    assert [r.state for r in read_journal(tmp_path / "exp")] == ["complete"] * 3


# One model, however it is built ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("anchors", [5, 2, "3", 4.0])
def test_anchors_of_the_hyper_parameters_are_those_of_every_model(host, digits_yaml, tmp_path, anchors):
    hyp = tmp_path / "hyp.yaml"
    hyp.write_text((shipped("data") / "hyp.short.yaml").read_text() + f"anchors: {anchors!r}\n")
    cfg = shipped("models") / "yolov5n_nas.yaml"
    stock = host.build({**stock_form(model_of()), "nc": 10}, anchors=float(anchors))  # as YOLOv5's train.py builds it
    expected = sum(p.numel() for p in stock.parameters())
    assert journal_size(cfg, digits_yaml, tmp_path, "--hyp", hyp) == expected
    best = host.load_checkpoint(tmp_path / "exp/best/weights/best.pt")
    assert sum(p.numel() for p in best.parameters()) == expected
    assert best.model[-1].na == int(float(anchors))


def test_a_yaml_without_anchors_takes_those_of_the_hyper_parameters(host, digits_yaml, tmp_path):
    model = model_of()
    del model["anchors"]
    cfg, hyp = written(tmp_path, model), tmp_path / "hyp.yaml"
    with pytest.raises(UserError, match="must have the key anchors"):
        prepared(cfg, digits_yaml)
    hyp.write_text((shipped("data") / "hyp.short.yaml").read_text() + "anchors: 3\n")
    assert prepared(cfg, digits_yaml, hyp=str(hyp)).model["anchors"] == 3


# What can't be built --------------------------------------------------------------------------------------------------


def changed(place, row):
    model = model_of()
    rows = [*model["backbone"], *model["head"]]
    rows[place] = row(rows[place]) if callable(row) else row
    return {**model, "backbone": rows[:10], "head": rows[10:]}


def segment(row):
    return [row[0], 1, "Segment", ["nc", "anchors", 32, 256]]


BAD = {
    "a misspelt module": (changed(9, [-1, 1, "SPPFF", [1024, 5]]), "no module of this name", 9),
    "a misspelt module of torch": (changed(11, [-1, 1, "nn.Upsamplee", [None, 2, "nearest"]]), "no module of this", 11),
    "no Detect": (changed(-1, [-1, 1, "Conv", [64, 1, 1]]), "must be a Detect", -1),
    "Segment": (changed(-1, segment), "only detection is searched", -1),
    "sizes that do not fit": (changed(12, [[-1, 4], 1, "Concat", [1]]), "can't build or run this layer", 12),
    "an argument too many": (changed(9, [-1, 1, "SPPF", [1024, 5, 6, 7, 8]]), "can't build or run this layer", 9),
    "images of one channel": ({**model_of(), "ch": 1}, "can't build or run this layer", 0),
    "a Concat of one layer": (changed(12, [-1, 1, "Concat", [1]]), "can't build or run this layer", 12),
    "two rows of anchors": ({**model_of(), "anchors": model_of()["anchors"][:2]}, "a row for each of the 3", -1),
    "four rows of anchors": ({**model_of(), "anchors": [*model_of()["anchors"], [1, 2] * 3]}, "for each of the 3", -1),
    "rows of unlike lengths": ({**model_of(), "anchors": [[1, 2, 3, 4], [1, 2], [1, 2]]}, "as many for each", None),
    "an anchor of no size": ({**model_of(), "anchors": [[1, 2], [1, 0], [1, 2]]}, "anchors must be", None),
    "an anchor that is not finite": ({**model_of(), "anchors": [[1, 2], [1, float("nan")], [1, 2]]}, "anchors", None),
    "an activation that is a class": ({**model_of(), "activation": "nn.SiLU"}, "layer", None),
    "scaled_modules of no list": ({**model_of(), "scaled_modules": 5}, "scaled_modules must be a list", None),
    "an anchor that is no number": ({**model_of(), "anchors": [["a", 2], [1, 2], [1, 2]]}, "anchors must be", None),
}


@pytest.mark.parametrize("name", BAD)
def test_what_the_host_cannot_build_is_one_line_with_nothing_written(host, digits_yaml, tmp_path, capsys, name):
    model, words, place = BAD[name]
    cfg = written(tmp_path, model)
    with inline():
        argv = ["search", "--cfg", cfg, "--data", digits_yaml, "--project", tmp_path / "runs", *TINY]
        assert main(list(map(str, argv))) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and line.startswith(f"error: {cfg}:")
    assert not (tmp_path / "runs").exists()
    if place is not None:
        number = int(line.split(":")[2])
        module = [*model["backbone"], *model["head"]][place][2]
        assert module in cfg.read_text().splitlines()[number - 1]
