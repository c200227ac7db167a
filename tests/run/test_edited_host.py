"""Clones that their users have edited: what YOLOv5 takes by default is asked of it, and outputs are compared."""

import functools
import inspect

import pytest
import torch
import yaml
from inline import inline, untrained

from yolov5_nas import search
from yolov5_nas.cli import main
from yolov5_nas.errors import UserError
from yolov5_nas.files import shipped
from yolov5_nas.host.compat import patched
from yolov5_nas.host.defaults import with_host_defaults
from yolov5_nas.records.options import Options
from yolov5_nas.run.prepare import prepare
from yolov5_nas.space.activations import activation_of
from yolov5_nas.space.compile import derive, dump_model, stock_form
from yolov5_nas.space.space import Space
from yolov5_nas.weights.elastic import register, unregister
from yolov5_nas.weights.source import inner_activation

TINY = {"cfg": "yolov5n_elastic.yaml", "imgsz": 64, "epochs": 1, "device": "cpu", "engine": "local"}


def model_of(name="yolov5n_elastic.yaml"):
    return yaml.safe_load((shipped("models") / name).read_text())


@pytest.fixture
def of_relu(host):
    """The host as a user edited it, whose networks have ReLU."""
    with patched(host.common.Conv, default_act=torch.nn.ReLU()):
        yield host


@pytest.fixture
def fixed_relu(host):
    """The host with ReLU written into `Conv` itself, so that no YAML can change it."""
    stock = host.common.Conv.__init__

    @functools.wraps(stock)
    def init(self, c1, c2, k=1, s=1, p=None, g=1, d=1, act=True):
        stock(self, c1, c2, k, s, p, g, d, torch.nn.ReLU() if act is True else act)

    with patched(host.common.Conv, __init__=init):
        yield host


def acts(model):
    return {type(m.act).__name__ for m in model.modules() if hasattr(m, "bn") and hasattr(m, "act")}


def prepared(data, **options):
    return prepare(Options(**{"data": str(data), **TINY, **options}))


@pytest.mark.parametrize("edited", ["of_relu", "fixed_relu"])
def test_what_is_derived_says_the_activation_that_the_host_takes(request, edited, host, digits_yaml):
    request.getfixturevalue(edited)
    found = prepared(digits_yaml)
    space = Space.from_dict(found.model)
    cfg = derive(space, space.default())
    assert space.default()["nasconv_0_act"] == "ReLU" and cfg["activation"] == "nn.ReLU()"
    torch.manual_seed(0)
    here = host.build(cfg)
    assert acts(here) == {"ReLU"} == acts(host.build({**stock_form(model_of()), "nc": 10}))
    request.getfixturevalue("host")
    with patched(host.common.Conv, default_act=torch.nn.SiLU()):  # what a clean clone builds of the same YAML
        assert edited == "fixed_relu" or acts(host.build(cfg)) == {"ReLU"}


def test_a_search_from_scratch_has_one_activation_in_journal_and_checkpoint(of_relu, digits_yaml, tmp_path):
    with inline(), untrained():
        found = search(data=str(digits_yaml), trials=1, strategy="random", project=str(tmp_path), **TINY)
    first = found.trials[0].architecture
    assert {first["nasconv_1_act"], first["nasconv_2-1_act"]} == {"ReLU"}
    assert acts(of_relu.load_checkpoint(found.folder / "best/weights/best.pt")) == {"ReLU"}
    assert yaml.safe_load((found.folder / "best/model.yaml").read_text())["activation"] == "nn.ReLU()"


@pytest.mark.parametrize("act", ["ReLU", "SiLU"])
def test_a_checkpoint_keeps_its_activation_whatever_the_hosts(host, digits_yaml, tmp_path, capsys, act):
    """One of the edited clone comes into a clean one, and the reverse."""
    other = {"ReLU": torch.nn.SiLU(), "SiLU": torch.nn.ReLU()}[act]
    with patched(host.common.Conv, default_act=getattr(torch.nn, act)()):
        host.save_checkpoint(host.build({**stock_form(model_of()), "nc": 10}), tmp_path / "own.pt")
    with patched(host.common.Conv, default_act=other):
        found = prepared(digits_yaml, weights=str(tmp_path / "own.pt"), method="replace", target=("gflops=0.039",))
        space = Space.from_dict(found.model)
        assert inner_activation(host.build(derive(space, space.default()))) == act
        assert f"its activation is {act}, not {activation_of(other)}, and is kept" in capsys.readouterr().out
        prepared(digits_yaml, weights=str(tmp_path / "own.pt"))
    assert f"they were trained with the activation {act}, not {activation_of(other)}" in capsys.readouterr().out


def test_an_activation_of_the_edited_clone_is_an_option_of_its_whole_network(of_relu, digits_yaml, tmp_path):
    model = model_of() | {"activation": ["SiLU", "ReLU"]}
    (tmp_path / "own.yaml").write_text(dump_model(model))
    space = Space.from_dict(prepared(digits_yaml, cfg=str(tmp_path / "own.yaml")).model)
    assert space.default()["activation"] == "ReLU"
    cfgs = [derive(space, {**space.default(), "activation": act}) for act in ("SiLU", "ReLU")]
    assert [acts(of_relu.build(cfg)) for cfg in cfgs] == [{"SiLU"}, {"ReLU"}]


def test_a_host_that_follows_no_yaml_has_no_choice_of_activation(fixed_relu, digits_yaml, tmp_path):
    for given in (["SiLU", "ReLU"], "nn.SiLU()"):
        (tmp_path / "own.yaml").write_text(dump_model(model_of() | {"activation": given}))
        with pytest.raises(UserError, match=r"does not follow the model YAML's activation.* accepted: ReLU"):
            prepared(digits_yaml, cfg=str(tmp_path / "own.yaml"))


def test_an_activation_that_no_yaml_can_name_is_refused(host, digits_yaml, tmp_path, capsys):
    class FReLU(torch.nn.Module):
        def forward(self, x):
            return x.relu()

    with patched(host.common.Conv, default_act=FReLU()):
        assert main(["search", "--data", str(digits_yaml), "--project", str(tmp_path / "runs"), "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "the activation of this YOLOv5's Conv can't be written in a model YAML, got 'FReLU()'" in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("default", [{"shortcut": False}, {"e": 0.25}, {"e": 1.0, "shortcut": False}])
def test_defaults_of_an_edited_c3_are_written_out(host, digits_yaml, default):
    known = inspect.signature(host.common.C3.__init__)
    stock = host.common.C3.__init__
    parameters = [p.replace(default=default.get(p.name, p.default)) for p in known.parameters.values()]

    def init(self, *args, **kwargs):
        bound = init.__signature__.bind(self, *args, **kwargs)
        bound.apply_defaults()
        stock(*bound.args, **bound.kwargs)

    init.__signature__ = known.replace(parameters=parameters)
    with patched(host.common.C3, __init__=init):
        found = prepared(digits_yaml)  # compares each layer's parameters and outputs
        space = Space.from_dict(found.model)
        assert space.layers[2].shortcut == default.get("shortcut", True) and space.layers[2].e == default.get("e", 0.5)
        assert not space.layers[13].shortcut  # which the YAML says
    assert with_host_defaults(model_of(), host) == model_of()


@pytest.mark.parametrize("i", [3, 9])
def test_a_kernel_by_default_is_the_hosts(host, i):
    """Of a NASConv and of SPPF."""
    model, name = model_of(), {3: "Conv", 9: "SPPF"}[i]
    options = [{"act": ["SiLU"]}] if i == 3 else []
    model["backbone"][i][3] = [256, *options]
    known = inspect.signature(getattr(host.common, name))
    wider = [p.replace(default=7) if p.name == "k" else p for p in known.parameters.values()]
    with patched(getattr(host.common, name), __signature__=known.replace(parameters=wider)):
        found = with_host_defaults(model, host)
    assert found["backbone"][i][3] == [256, 7, *options] and found["backbone"][1] == model["backbone"][1]


def test_widths_that_are_rounded_otherwise_are_refused(host, digits_yaml):
    rounded = host.yolo.make_divisible
    with patched(host.yolo, make_divisible=lambda x, _: rounded(x, 12)), pytest.raises(UserError) as e:
        prepared(digits_yaml)
    assert "the derived layer is not what YOLOv5 builds of this line: it has 24 output channels, not 16" in str(e.value)


def test_a_checkpoint_with_another_epsilon_in_batch_norm_is_refused_by_its_layer(host, digits_yaml, tmp_path):
    """Which no YAML can say; stock's train.py would start from it silently."""
    model = host.build({**stock_form(model_of()), "nc": 10})
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-5
            module.running_var.fill_(0.01)
    host.save_checkpoint(model, tmp_path / "own.pt")
    with pytest.raises(UserError, match="layer 0 computes something else"):
        prepared(digits_yaml, weights=str(tmp_path / "own.pt"), method="replace", target=("gflops=0.039",))


def test_a_c3_that_is_not_what_its_lines_compute_is_refused(host, digits_yaml):
    """Its shapes and parameters are stock's."""

    def forward(self, x):
        return self.cv3(torch.cat((self.cv2(x), self.m(self.cv1(x))), 1))  # the branches the other way round

    with patched(host.common.C3, forward=forward), pytest.raises(UserError) as e:
        prepared(digits_yaml)
    assert "with the same weights it computes something else" in str(e.value) and "NASC3" in str(e.value)


def test_another_padding_by_default_is_refused(host, digits_yaml):
    """The same shapes: one pixel of padding is all on one side."""
    stock = host.common.Conv.forward

    def forward(self, x):
        shifted = torch.roll(x, 1, -1) if self.conv.kernel_size == (3, 3) and self.conv.groups == 1 else x
        return stock(self, shifted)

    with patched(host.common.Conv, forward=forward):  # alike in both networks: it is what the host computes
        prepared(digits_yaml)
    original = host.common.autopad
    with (
        patched(host.common, autopad=lambda k, p=None, d=1: original(k, p, d) + (p is None and k == 3)),
        pytest.raises(UserError, match=r"the derived layer is not what YOLOv5 builds|can't build or run"),
    ):
        prepared(digits_yaml)


def test_shared_weights_have_the_hosts_activation(of_relu):
    register(of_relu)
    try:
        shared = of_relu.build(model_of("yolov5n_nas.yaml"))
    finally:
        unregister(of_relu)
    assert shared.model.space.default()["nasconv_0_act"] == "ReLU"
    assert type(shared.model[2].cv3.acts[0]).__name__ == "ReLU"
