"""Input size, scale and activation of a network as a whole: choices at the top of a model YAML."""

import random

import pytest

from yolov5_nas.errors import UserError
from yolov5_nas.files import shipped
from yolov5_nas.space.compile import derive, stock_form, stock_lines
from yolov5_nas.space.model_yaml import read_model_yaml
from yolov5_nas.space.space import Space

MODEL, _ = read_model_yaml(shipped("models") / "yolov5n_elastic.yaml")
WHOLE = {"imgsz": [256, 320], "scale": [0.5, 0.75, 1.0], "activation": ["SiLU", "ReLU", "Hardswish"]}


def space_with(**keys):
    return Space.from_dict({**MODEL, **keys}, nc=4)


@pytest.fixture(scope="module")
def space():
    return space_with(**WHOLE)


def test_each_is_a_choice_and_stock_is_the_default(space):
    assert all(space.choices[label].options == tuple(options) for label, options in WHOLE.items())
    default = space.default()
    assert (default["imgsz"], default["scale"], default["activation"]) == (320, 1.0, "SiLU")
    assert len(space.forms) == 18 and space.forms[0] == {"imgsz": 320, "scale": 1.0, "activation": "SiLU"}
    stock = space_with()
    assert derive(space, default) == {**derive(stock, stock.default()), "activation": "nn.SiLU()"}
    assert stock.forms == [{}]


def test_a_scale_is_yolov5s_width_multiple(space):
    half = derive(space, {**space.default(), "scale": 0.5})
    stock = space_with(width_multiple=0.125)
    assert half == {**derive(stock, stock.default()), "activation": "nn.SiLU()"}
    assert half["backbone"][0] == [-1, 1, "Conv", [8, 6, 2, 2]]


def test_an_activation_is_yolov5s_own_key_and_a_layers_default_follows_it(space):
    relu = {**space.default(), "activation": "ReLU"}
    cfg = derive(space, relu)
    assert cfg["activation"] == "nn.ReLU()" and derive(space, space.default())["activation"] == "nn.SiLU()"
    assert len(cfg["backbone"]) == len(MODEL["backbone"])  # no layer is written out
    assert derive(space, {**relu, "nasconv_1_act": "ReLU"}) == cfg
    other = derive(space, {**relu, "nasconv_1_act": "Hardswish"})
    assert other["backbone"][1] == [-1, 1, "Conv", [32, 3, 2, 1, 1, 1, "nn.Hardswish()"]]


def test_an_architecture_goes_into_its_form_and_back(space):
    for seed in range(200):
        architecture = space.sample(random.Random(seed))
        form, inner = space.form_of(architecture), space.inner(architecture)
        formed = space.in_form(form)
        formed.validate(inner)
        assert space.inner(space.outer(inner, form)) == inner
        assert derive(space, architecture) == derive(formed, inner)
        assert stock_lines(space, architecture) == stock_lines(formed, inner)


def test_a_hidden_width_that_has_no_form_line_by_line_keeps_its_kernels(space):
    """At 0.75 the C3 of layer 2 has 12 hidden channels."""
    formed = space.in_form({**space.forms[0], "scale": 0.75})
    layer = formed.layers[2]
    assert layer.hidden(1.0) == 12 and layer.kernels[0].options == ("k1p0",) and layer.acts[0].options == ("SiLU",)
    assert formed.layers[4].kernels[0].options == ("k1p0", "k3p1")
    architecture = {**space.default(), "scale": 0.75, "nasconv_2-1": "k3p1", "c3_2": 0.5}
    assert space.inner(architecture)["nasconv_2-1"] == "k1p0"


def test_equal_hidden_widths_are_one(space):
    formed = space.in_form({**space.forms[0], "scale": 0.5})
    assert formed.layers[2].width.options == (1.0, 1.5)  # 8 channels are the fewest
    assert space.inner({**space.default(), "scale": 0.5, "c3_2": 0.75})["c3_2"] == 1.0


def test_a_parent_may_have_another_activation():
    space = space_with(activation=["SiLU", "ReLU"], default={"activation": "ReLU", "nasconv_1_act": "Hardswish"})
    assert space.default()["activation"] == "ReLU" and space.default()["nasconv_0_act"] == "ReLU"
    assert derive(space, space.default())["activation"] == "nn.ReLU()"
    silu = {**space.default(), "activation": "SiLU"}
    assert derive(space, silu)["activation"] == "nn.SiLU()" and space.inner(silu)["nasconv_0_act"] == "SiLU"
    assert space.inner(silu)["nasconv_1_act"] == "Hardswish"


def test_a_layer_keeps_its_own_options_in_every_form():
    rows = [list(row) for row in MODEL["backbone"]]
    rows[1] = [-1, 1, "NASConv", [128, 3, 2, None, 1, 1, "nn.LeakyReLU(0.1)"]]
    rows[3] = [-1, 1, "NASConv", [256, 3, 2, {"act": ["ReLU", "Identity"]}]]
    space = space_with(backbone=rows, scale=[0.75, 1.0], activation=["SiLU", "ReLU"])
    for form in space.forms:
        formed = space.in_form(form)
        assert formed.default()["nasconv_1_act"] == "LeakyReLU(0.1)" and formed.default()["nasconv_3_act"] == "ReLU"
        for architecture in formed.neighbours(formed.default()):
            whole = space.outer(architecture, form)
            space.validate(whole)
            assert space.inner(whole) == architecture


def test_the_stock_form_is_that_of_the_default(space):
    assert stock_form(space.yaml) == {**stock_form(space_with().yaml), "activation": "nn.SiLU()"}


REFUSED = {
    "no list": ({"scale": 0.5}, "scale must be a list"),
    "twice the same": ({"scale": [0.5, 0.5]}, "scale must be a list of different"),
    "nothing": ({"scale": [0.0]}, "a scale must be a number above 0"),
    "true": ({"scale": [True]}, "a scale must be a number above 0"),
    "a word": ({"scale": ["half"]}, "a scale must be a number above 0"),
    "weights": ({"activation": ["SiLU", "PReLU"]}, "without weights, got 'PReLU'"),
    "none": ({"activation": []}, "activation must be a list of different activations"),
    "no 1.0": ({"scale": [0.5, 0.75]}, "scale must list 1.0"),
    "sizes": ({"imgsz": [320, 320]}, "imgsz must be a list of different sizes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_taken_is_said(name):
    keys, words = REFUSED[name]
    with pytest.raises(UserError) as e:
        space_with(**keys)
    assert words in str(e.value)


def test_a_layer_that_has_no_channels_for_its_groups_is_named():
    model = {**MODEL, "backbone": [list(row) for row in MODEL["backbone"]]}
    model["backbone"][3] = [-1, 1, "NASConv", [256, 3, 2, None, 32]]
    with pytest.raises(UserError, match=r"layer 3: .*groups.* \(at scale 0.25\)"):
        Space.from_dict({**model, "scale": [0.25, 1.0]}, nc=4)


def test_a_c3_of_odd_width_has_no_layer_of_its_own_that_the_parent_had():
    space = space_with(scale=[0.75, 1.0], default={"nasconv_2-1_act": "ReLU", "nasconv_4-1_act": "ReLU"})
    form = {"scale": 0.75}  # 12 hidden channels in layer 2, 24 in layer 4
    formed = space.in_form(form)
    assert formed.default()["nasconv_2-1_act"] == "SiLU" and formed.default()["nasconv_4-1_act"] == "ReLU"
    kinds = [line.row[2] for line in stock_lines(formed, formed.default()) if line.origin == 2]
    assert kinds == ["C3"]
