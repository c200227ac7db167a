"""Networks sliced to other widths, on YOLOv5's models with random weights."""

import pytest
import torch
from test_mapping import smooth, space_of, trained
from torch import nn

from yolov5_nas.errors import UserError
from yolov5_nas.files import shipped
from yolov5_nas.space.compile import derive
from yolov5_nas.space.model_yaml import read_model_yaml
from yolov5_nas.space.space import Space
from yolov5_nas.weights.mapping import fitting, inherit
from yolov5_nas.weights.replacement import Parent
from yolov5_nas.weights.scaling import scaled
from yolov5_nas.weights.source import read_source

IMAGES = smooth(96, 1)
MODEL, _ = read_model_yaml(shipped("models") / "yolov5n_elastic.yaml")
SPACE = Space.from_dict({**MODEL, "scale": [0.5, 0.75, 1.0], "activation": ["SiLU", "ReLU"]}, nc=4)
PLAIN = space_of("n_elastic")


def form(**values):
    return SPACE.in_form({**SPACE.forms[0], **values})


def network(host, space):
    return trained(host.build(derive(space, space.default()))).float()


def silence(model):
    """Half of the channels of each convolution give 0, at random; along a shortcut the same ones."""
    rng = torch.Generator().manual_seed(0)

    def quiet(*convs):
        channels = torch.randperm(len(convs[0].bn.weight), generator=rng)[: len(convs[0].bn.weight) // 2]
        for conv in convs:
            conv.bn.weight.data[channels], conv.bn.bias.data[channels] = 0.0, 0.0

    for module in model.modules():
        name = type(module).__name__
        if name == "C3":
            quiet(module.cv2), quiet(module.cv3)
            chain = [module.cv1, *(b.cv2 for b in module.m)]
            quiet(*chain) if module.m[0].add else [quiet(conv) for conv in chain]
            [quiet(b.cv1) for b in module.m]
        elif name == "SPPF":
            quiet(module.cv1), quiet(module.cv2)
    for module in model.model:
        if type(module).__name__ == "Conv":
            quiet(module)


def outputs(model, images=IMAGES[:4]):
    with torch.no_grad():
        return torch.cat([x.flatten(1) for x in model.eval()(images)[1]], 1)


def test_channels_that_say_nothing_are_the_ones_that_go_and_nothing_changes(host):
    """Through Concat, SPPF and the detection layer."""
    model = network(host, PLAIN)
    silence(model)
    half = form(scale=0.5)
    source, kept = scaled(read_source(model, PLAIN, "w.pt"), PLAIN, half)
    assert [len(kept[i]) for i in (0, 9, 12, 23)] == [8, 128, 128, 128]
    own = host.build(derive(half, half.default()))
    taken, left = fitting(inherit(source, half, half.default()).state, own.state_dict())
    assert not left
    own.load_state_dict(taken)
    assert torch.allclose(outputs(own), outputs(model), atol=1e-4)


@pytest.mark.parametrize("values", [{"scale": 0.75}, {"scale": 0.5}, {"activation": "ReLU"}], ids=str)
def test_solved_it_is_nearer_to_its_parent_than_mapped(host, values):
    parent = Parent(host, network(host, PLAIN), PLAIN, IMAGES)
    space = form(**values)
    source, _ = scaled(parent.source, PLAIN, space)
    wanted = outputs(parent.model)
    mapped, solved = (outputs(m) for m in (parent._mapped(source, space, space.default())[0], parent.formed(space)))
    missed = [float((found - wanted).square().mean() / wanted.var()) for found in (mapped, solved)]
    assert missed[1] < min(0.9 * missed[0], 1.0), missed
    assert parent.formed(space).model[1].act.__class__.__name__ == values.get("activation", "SiLU")


def test_the_same_form_is_the_same_network(host):
    parent = Parent(host, network(host, PLAIN), PLAIN, IMAGES)
    source, kept = scaled(parent.source, PLAIN, PLAIN)
    assert all(torch.equal(channels, torch.arange(len(channels))) for channels in kept.values())
    state, own = inherit(source, PLAIN, PLAIN.default()).state, parent.trained.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in state.items())


def test_stock_layers_are_sliced_too(host):
    """A YAML in which one layer alone is searchable, and which is less deep too."""
    rows = {part: [list(row) for row in MODEL[part]] for part in ("backbone", "head")}
    for part, lines in rows.items():
        for i, row in enumerate(lines):
            if row[2].startswith("NAS") and (part, i) != ("backbone", 1):
                row[2], row[3] = row[2].removeprefix("NAS"), row[3][:-1]
    model = {**MODEL, **rows}
    whole, half = (Space.from_dict({**model, **keys}, nc=4) for keys in ({}, {"width_multiple": 0.125}))
    parent = Parent(host, network(host, whole), whole, IMAGES)
    assert outputs(parent.formed(half)).shape == outputs(parent.model).shape
    deep = Space.from_dict({**model, "depth_multiple": 0.67}, nc=4)
    deep = Parent(host, network(host, deep), deep, IMAGES)
    assert outputs(deep.formed(half)).shape == outputs(parent.model).shape


def test_a_layer_that_cannot_be_sliced_is_named(host):
    model = {**MODEL, "backbone": [list(row) for row in MODEL["backbone"]]}
    model["backbone"][9] = [-1, 1, "SPP", [1024, [5, 9, 13]]]
    whole, half = (Space.from_dict({**model, **keys}, nc=4) for keys in ({}, {"width_multiple": 0.125}))
    with pytest.raises(UserError, match=r"layer 9 \(SPP\) can't be sliced"):
        scaled(read_source(network(host, whole), whole, "w.pt"), whole, half)
    assert isinstance(network(host, whole).model[9], nn.Module)
