"""Mapping of weights onto other architectures, on YOLOv5's own models with random weights and statistics."""

import random
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from yolov5_nas.errors import UserError
from yolov5_nas.files import shipped
from yolov5_nas.space.architecture import Architecture
from yolov5_nas.space.arithmetic import parse_kernel
from yolov5_nas.space.compile import derive
from yolov5_nas.space.model_yaml import load_yaml
from yolov5_nas.space.space import Space
from yolov5_nas.weights import supernet
from yolov5_nas.weights.channels import choose, reading, writing
from yolov5_nas.weights.elastic import extract
from yolov5_nas.weights.mapping import fitting, inherit, map_conv, shared_state
from yolov5_nas.weights.source import ConvWeights, read_source

# In double precision, so that what is exact is told from what is nearly so; a real one is in test_trial.py.
IMAGES = torch.rand(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def smooth(count, seed):
    """Images (count, 3, 64, 64) whose pixels are like their neighbours, as those of photographs are; noise has nothing
    that a layer could be fitted to."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, 64, mode="bicubic").clamp(0, 1)


def space_of(name, nc=4):
    return Space.from_yaml(shipped("models") / f"yolov5{name}.yaml", nc=nc)


def trained(model, seed=0):
    """A model whose batch norms are like those of a trained one: no two channels are alike."""
    rng = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = torch.randn(parameter.shape, generator=rng) / parameter[0].numel() ** 0.5
    for bn in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        bn.weight.data = torch.rand(bn.weight.shape, generator=rng) + 0.5
        bn.bias.data = torch.randn(bn.bias.shape, generator=rng) * 0.3
    for conv in model.model[-1].m:  # the others have no bias; YOLOv5 draws this one by torch's own random numbers
        conv.bias.data = torch.randn(conv.bias.shape, generator=rng) * 0.3
        conv.bias.data.view(3, -1)[:, 4] -= 5
    update_bn([torch.rand(4, 3, 64, 64, generator=rng)], model)
    return model.eval().double()


def stock(host, space):
    return trained(host.build(derive(space, space.default())))


def heir(host, space, model, architecture):
    """The model of an architecture with inherited weights, and whether they are said to be exact."""
    inherited = inherit(read_source(model, space, "weights.pt"), space, architecture)
    built = host.build(derive(space, architecture)).double()
    assert {n: v.shape for n, v in built.state_dict().items()} == {n: v.shape for n, v in inherited.state.items()}
    built.load_state_dict(inherited.state)
    return built.eval(), inherited.exact


def difference(a, b):
    """The largest one between the outputs of two models, before boxes are made of them."""
    with torch.no_grad():
        return max(float((x - y).abs().max()) for x, y in zip(a(IMAGES)[1], b(IMAGES)[1]))


def chosen(space, choose):
    """The default architecture with `choose(choice)` for each choice where that is no None."""
    picked = {c.label: choose(c) for c in space.choices.values()}
    return space.default().choices | {label: value for label, value in picked.items() if value is not None}


def layer_of(choice):
    return int(choice.label.split("_")[1].split("-")[0])


def width(scale):
    return lambda c: scale if c.label == f"c3_{layer_of(c)}" and scale in c.options else None


def depth(pick, layers):
    return lambda c: pick(c.options) if c.label.endswith("_depth") and layer_of(c) in layers else None


def kernel(pick):
    def choose(c):
        if c.label.startswith("nasconv") and not c.label.endswith("_act"):
            return pick(c.options, key=lambda option: int(option[1]))
        return None

    return choose


# What is exact --------------------------------------------------------------------------------------------------------

BACKBONE, HEAD = range(10), range(10, 24)


@pytest.mark.parametrize("name", ["n_nas", "n_elastic", "s_nas", "s_elastic"])
def test_the_default_architecture_computes_what_stock_yolov5_does(host, name):
    space = space_of(name)
    cfg, _ = load_yaml(host.location.root / "models" / f"yolov5{name[0]}.yaml")
    model = trained(host.build({**cfg, "nc": 4}))
    built, exact = heir(host, space, model, space.default())
    assert exact
    assert difference(model, built) == 0.0


@pytest.mark.parametrize(
    ("name", "choose", "most"),
    [
        ("n_nas", width(2.0), 1e-9),
        ("n_elastic", width(1.5), 1e-9),
        ("s_elastic", width(1.5), 1e-9),
        ("n_nas", kernel(max), 1e-9),
        ("n_elastic", kernel(max), 1e-9),
        ("n_elastic", depth(max, BACKBONE), 1e-9),
    ],
)
def test_more_of_everything_computes_the_same(host, name, choose, most):
    space = space_of(name)
    model = stock(host, space)
    architecture = chosen(space, choose)
    assert architecture != space.default()
    built, exact = heir(host, space, model, architecture)
    assert exact
    assert difference(model, built) < most
    back, exact = heir(host, space, built, space.default())  # what was repeated is not what is most important
    assert not exact or difference(model, back) < most


def test_bottlenecks_without_shortcuts_are_nearly_identities(host):
    space = space_of("n_elastic")
    model = stock(host, space)
    built, exact = heir(host, space, model, chosen(space, depth(max, HEAD)))
    assert not exact  # SiLU bends a little
    with torch.no_grad():
        outputs = zip(model(IMAGES)[1], built(IMAGES)[1])
        assert all((a - b).square().mean() < 0.05 * a.var() for a, b in outputs)


def grows(choice):
    """The largest option, but for activations, and depth where there is no shortcut."""
    if choice.label.endswith("act") or (choice.label.endswith("depth") and layer_of(choice) > 9):
        return None
    return max(choice.options, key=lambda o: parse_kernel(o)[0] if isinstance(o, str) else float(o))


@pytest.mark.parametrize("name", ["n_elastic", "n_nas", "s_elastic"])
def test_what_only_adds_to_the_source_computes_the_same_in_a_shared_network(host, name):
    space = space_of(name)
    model = stock(host, space)
    shared = supernet.build(host, space.yaml, 4)
    state = shared_state(read_source(model, space, "weights.pt"), space, supernet.extreme(space, max))
    assert {n: v.shape for n, v in shared.state_dict().items()} == {n: v.shape for n, v in state.items()}
    shared.load_state_dict(state)
    stock_ = estimated(deepcopy(model))
    for architecture in (space.default(), chosen(space, grows), *(chosen(space, some(grows, i)) for i in range(3))):
        slice_ = extract(shared, Architecture(architecture), host)
        assert difference(stock_, estimated(slice_)) < 2e-3  # single precision


def some(choose, seed):
    """`choose` for about half of the choices."""
    rng = random.Random(seed)
    return lambda c: choose(c) if rng.random() < 0.5 else None


def test_the_narrower_of_a_supernet_have_the_most_important_channels(host):
    space = space_of("n_elastic")
    model = stock(host, space)
    shared = supernet.build(host, space.yaml, 4)
    state = shared_state(read_source(model, space, "weights.pt"), space, supernet.extreme(space, max))
    shared.load_state_dict(state)
    narrow = Architecture(chosen(space, width(0.5)))
    slice_ = estimated(extract(shared, narrow, host))
    heir_ = estimated(heir(host, space, model, narrow)[0])
    assert difference(heir_, slice_) < 2e-3


def estimated(model):
    """In double precision, with batch norm statistics of its own."""
    update_bn([IMAGES], model.double())
    return model.eval()


def test_what_kernels_grew_by_is_cut_off_again(host):
    space = space_of("n_elastic")
    model = stock(host, space)
    built, _ = heir(host, space, model, chosen(space, kernel(max)))
    back, exact = heir(host, space, built, space.default())
    assert not exact  # it may have learned something there by now
    assert difference(model, back) == 0.0


@pytest.mark.parametrize(
    "choose", [width(0.5), kernel(min), depth(min, BACKBONE), lambda c: "ReLU" if c.label.endswith("_act") else None]
)
def test_less_or_another_activation_is_not_exact(host, choose):
    space = space_of("n_elastic")
    model = stock(host, space)
    built, exact = heir(host, space, model, chosen(space, choose))
    assert not exact
    assert difference(model, built) > 1e-3


def test_any_architecture_inherits_from_any_other(host):
    import random

    space, rng = space_of("n_elastic"), random.Random(0)
    parent = trained(host.build(derive(space, first := space.sample(rng))))
    same, exact = heir(host, space, parent, first)
    assert exact
    assert difference(parent, same) == 0.0
    for _ in range(5):
        parent, _ = heir(host, space, parent, space.sample(rng))


def test_a_space_of_other_options_takes_it_too(host):
    parent = trained(host.build(derive(space := space_of("n_nas"), chosen(space, width(2.0)))))
    elastic = space_of("n_elastic")  # has no width 2.0
    built, exact = heir(host, elastic, parent, chosen(elastic, width(1.5)))
    assert not exact
    assert built.model[2].cv1.conv.out_channels == 24


def test_grouped_and_repeated_convolutions(host):
    model, _ = load_yaml(shipped("models") / "yolov5n_nas.yaml")
    model["depth_multiple"], backbone = 1.0, [list(row) for row in model["backbone"]]
    backbone[1] = [-1, 1, "NASConv", [128, 3, 2, None, 2]]
    backbone[3] = [-1, 1, "NASConv", [256, 3, 2]]
    backbone[4] = [-1, 2, "NASC3", [256, False, 2, 0.5, {"width": [0.5, 1.0, 1.5], "kernel": [1]}]]
    backbone[9] = [-1, 2, "NASConv", [1024, 3, 1]]
    space = Space.from_dict({**model, "backbone": backbone}, nc=4)
    parent = stock(host, space)
    wider = chosen(space, lambda c: 1.5 if c.label == "c3_4" else "k5p2" if "k5p2" in c.options else None)
    built, exact = heir(host, space, parent, wider)
    assert exact
    assert difference(parent, built) < 1e-9
    heir(host, space, built, space.default().with_value("c3_4", 0.5))


# By hand --------------------------------------------------------------------------------------------------------------


def conv(weight, act=None, **kwargs):
    """A convolution (c2, c1, k, k) whose batch norm's scale is 1, 2, 3, ... along its outputs."""
    ones = torch.ones(len(weight))
    bn = {"weight": ones.cumsum(0), "bias": 0 * ones, "running_mean": 0 * ones, "running_var": ones}
    return ConvWeights(weight, bn, act or nn.SiLU(), **kwargs)


@pytest.mark.parametrize(
    ("given", "wanted", "taps"),
    [
        ((3, 1), (1, 0), [4]),
        ((1, 0), (3, 1), [None] * 4 + [0] + [None] * 4),
        ((4, 1), (2, 0), [5, 6, 9, 10]),
        ((2, 0), (3, 0), [0, 1, None, 2, 3, None, None, None, None]),  # no padding more: nothing moves
        ((3, 1), (3, 2), [None, None, None, None, 0, 1, None, 3, 4]),
    ],
)
def test_taps_stay_where_they_are_on_the_input(given, wanted, taps):
    (k, p), (kk, pp) = given, wanted
    weight = torch.arange(k * k, dtype=torch.float).reshape(1, 1, k, k) + 1
    mapped, exact = map_conv(conv(weight, p=p), kk, pp, nn.SiLU())
    assert mapped.weight.flatten().tolist() == [0.0 if tap is None else tap + 1.0 for tap in taps]
    assert mapped.weight.shape == (1, 1, kk, kk)
    assert exact == (sum(tap is not None for tap in taps) == k * k)


def test_an_activation_is_the_same_by_what_it_does():
    weight = torch.ones(1, 1, 1, 1)
    assert map_conv(conv(weight, nn.LeakyReLU(0.1, inplace=True)), 1, 0, nn.LeakyReLU(0.1))[1]
    assert not map_conv(conv(weight, nn.LeakyReLU(0.1)), 1, 0, nn.LeakyReLU(0.2))[1]


def test_the_most_important_channels_are_kept_in_their_order_and_repeated_first():
    score = torch.tensor([0.1, 0.9, 0.5, 0.7])
    assert choose(score, 2).tolist() == [1, 3]
    assert choose(score, 6).tolist() == [0, 1, 2, 3, 1, 3]
    assert choose(score, 10).tolist() == [0, 1, 2, 3, 1, 3, 2, 0, 1, 3]
    assert choose(score, 2, g=2).tolist() == [1, 3]
    assert choose(score, 6, g=2).tolist() == [0, 1, 1, 2, 3, 3]


def test_a_repeated_channel_is_shared_out_among_its_copies_and_copies_are_told_apart():
    channels = torch.tensor([0, 1, 1])
    written = writing(conv(torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1)), channels)
    assert written.weight.flatten().tolist() == [1.0, 2.0, 2.0]
    assert written.bn["weight"].tolist() == [1.0, 2.0, 2.0]
    read = reading(conv(torch.tensor([[3.0, 4.0], [5.0, 6.0]]).reshape(2, 2, 1, 1)), channels).weight[:, :, 0, 0]
    assert read[:, 0].tolist() == [3.0, 5.0]
    assert read[:, 1:].sum(1).tolist() == pytest.approx([4.0, 6.0])
    assert read[0, 1] / 4.0 != pytest.approx(read[1, 1] / 6.0)
    assert 0 < float(read[0, 1]) < 4.0


def test_batch_norm_statistics_are_the_mean_over_the_batches():
    model = nn.Sequential(nn.BatchNorm2d(1, momentum=0.03)).eval()
    model[0].running_mean.fill_(9.0)
    update_bn([torch.full((2, 1, 2, 2), 1.0), torch.full((2, 1, 2, 2), 4.0)], model)
    assert float(model[0].running_mean) == 2.5
    assert model[0].momentum == 0.03
    assert not model.training


# What is no source ----------------------------------------------------------------------------------------------------


def refusal(model, space):
    with pytest.raises(UserError) as error:
        read_source(model, space, "weights.pt")
    return str(error.value)


def test_other_models_are_refused_in_one_line(host):
    space = space_of("n_elastic")
    root = host.location.root / "models"

    def built(name):
        return host.build(load_yaml(root / name)[0])

    start = "weights.pt: the weights must be of yolov5n_elastic.yaml or its stock form: "
    assert refusal(built("yolov5s.yaml"), space) == (
        f"{start}layer 0 has 32 channels in them, not 16 (is it of another size, or a P6 model?)"
    )
    outputs = (
        "weights.pt: the weights must have as many outputs as yolov5n_elastic.yaml, 3, got '4 outputs (a P6 model)'"
    )
    assert refusal(built("hub/yolov5n6.yaml"), space) == f"{outputs}; accepted: --cfg with a YAML of 4"
    pruned = built("yolov5n.yaml")
    pruned.model[0] = host.common.Conv(3, 13, 6, 2, 2)
    assert refusal(pruned, space).endswith("pruned to 13 channels, a width that YOLOv5's parser can't build")
    assert refusal(nn.Linear(1, 1), space) == f"{start}layer 0 is nothing in them, not Conv"
    assert "fused" in refusal(built("yolov5n.yaml").fuse(), space)


def test_a_model_for_other_classes_leaves_its_detection_layer(host):
    space = space_of("n_elastic", nc=4)
    model = stock(host, space_of("n_elastic", nc=7))
    own = host.build(derive(space, space.default())).state_dict()
    taken, left = fitting(inherit(read_source(model, space, ""), space, space.default()).state, own)
    assert {name.split(".")[1] for name in left} == {"24"}
    assert len(left) == 7  # three convolutions with bias, and the anchors that belong to them
    assert len(taken) == len(own) - 7
