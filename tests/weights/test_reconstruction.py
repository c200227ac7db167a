"""Refitting what a mapping could not keep, on YOLOv5's own models with random weights and statistics."""

import pytest
import torch
from test_mapping import chosen, depth, kernel, smooth, space_of, stock, width
from torch import nn
from torch.optim.swa_utils import update_bn

from yolov5_nas.space.compile import derive
from yolov5_nas.weights.mapping import inherit
from yolov5_nas.weights.reconstruction import _ridge, refit, solve
from yolov5_nas.weights.source import read_source

IMAGES = smooth(96, 1)


@pytest.fixture(scope="module")
def parent(host):
    model = stock(host, space_of("n_elastic")).float()
    update_bn([IMAGES], model)
    return model


def heir(host, parent, architecture):
    space = space_of("n_elastic")
    model = host.build(derive(space, architecture))
    model.load_state_dict(inherit(read_source(parent, space, "weights.pt"), space, architecture).state)
    return model.float()


def writers(model):
    return read_source(model, space_of("n_elastic"), "weights.pt").writers()


def refitted(model, parent):
    ours, theirs = writers(model), writers(parent)
    refit(model, parent, {i: (ours[i], theirs[i]) for i in ours}, IMAGES)
    return model


def missed(model, parent):
    """Share of what the parent predicts that a model with batch norm of its own does not."""
    images = smooth(8, 2)
    update_bn([IMAGES], model)
    with torch.no_grad():
        pairs = zip(model.eval()(images)[1], parent.eval()(images)[1])
        return sum(float((a - b).square().mean() / b.var()) for a, b in pairs) / 3


def relu(choice):
    return "ReLU" if choice.label.endswith("_act") and "ReLU" in choice.options else None


@pytest.mark.parametrize("choose", [width(0.5), relu, kernel(min), depth(max, range(10, 24)), depth(min, range(10))])
def test_it_comes_nearer_to_the_parent(host, parent, choose):
    model = heir(host, parent, chosen(space_of("n_elastic"), choose))
    before = missed(model, parent)
    after = missed(refitted(model, parent), parent)
    assert after < 0.95 * before


@pytest.mark.parametrize("choose", [lambda c: None, width(1.5), kernel(max), depth(max, range(10))])
def test_what_computes_the_same_is_left_as_it_is(host, parent, choose):
    model = heir(host, parent, chosen(space_of("n_elastic"), choose))
    state = {name: value.clone() for name, value in model.state_dict().items() if "running" not in name}
    refitted(model, parent)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items() if "num_b" not in name)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in [*model.modules(), *parent.modules()])


def test_frozen_layers_are_left_as_they_are(host, parent):
    model = heir(host, parent, chosen(space_of("n_elastic"), relu))
    frozen = list(model.model[:3].parameters())
    for parameter in frozen:
        parameter.requires_grad = False
    before = [p.clone() for p in frozen]
    refitted(model, parent)
    assert all(torch.equal(a, b) for a, b in zip(before, frozen))


def test_every_layer_that_has_a_convolution_at_its_end_is_solved(host, parent):
    assert sorted(writers(parent)) == [*range(11), 13, 14, 17, 18, 20, 21, 23]
    assert all(isinstance(conv.conv, nn.Conv2d) for conv in writers(parent).values())


@pytest.mark.parametrize("n", [12, 200])
def test_ridge_regression_is_the_same_in_either_dimension(n):
    rng = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, d, generator=rng, dtype=torch.float64) for d in (40, 3))
    x = x - x.mean(0)
    ridge = 0.3 * x.square().sum() / n
    expected = torch.linalg.inv(x.T @ x + ridge * torch.eye(40)) @ x.T @ y
    assert torch.allclose(_ridge(x, y), expected, atol=1e-9)


@pytest.mark.parametrize("zeros", ["filter", "gamma", "both"])
def test_what_was_pruned_to_zero_or_switched_off_stays_finite_however_often_it_is_solved(host, zeros):
    conv = host.common.Conv(8, 4, 1)
    with torch.no_grad():
        if zeros != "gamma":
            conv.conv.weight[0] = 0
        if zeros != "filter":
            conv.bn.weight[0] = 0
        rng = torch.Generator().manual_seed(0)
        read = torch.randn(64, 8, generator=rng)
        for wanted in (torch.zeros(64, 4), torch.randn(64, 4, generator=rng), torch.zeros(64, 4)):
            wanted[:, 1:] = torch.randn(64, 3, generator=rng)
            solve(conv, read, wanted)
            assert all(value.isfinite().all() for value in conv.state_dict().values())
            assert conv.eval()(read[..., None, None]).isfinite().all()
