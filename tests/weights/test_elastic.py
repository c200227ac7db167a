from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from places import MODELS
from torch import nn

from yolov5_nas.errors import UserError
from yolov5_nas.host.yolov5 import Host
from yolov5_nas.space.architecture import Architecture
from yolov5_nas.space.compile import derive
from yolov5_nas.space.space import Space
from yolov5_nas.weights.elastic import NASC3, NASConv, extract, register, set_architecture, unregister

ODD = """\
nc: 2
depth_multiple: 1.0
width_multiple: 1.0
activation: nn.LeakyReLU(0.2)
anchors: 2
backbone:
  - [-1, 1, Conv, [16, 3, 2]]  # 0
  - [-1, 3, NASConv, [16, 3, 1, None, 4]]  # 1: three repeats, groups
  - [-1, 1, NASConv, [32, 3, 2, 2, 1, 2, nn.Tanh()]]  # 2: padding, dilation and activation given
  - [-1, 2, NASC3, [32, False, 2, 0.75]]  # 3: no shortcut, groups, wider
  - [-2, 1, NASC3, [32, True, 1, 0.25, {width: [1, 2.5], depth: [1, 3], kernel: [3, 1], act: [Mish, nn.ELU(0.5)]}]]  # 4
  - [[-1, -2], 1, Concat, [1]]  # 5
  - [-1, 1, NASConv, [24, 1, 1, {kernel: [5, 1], act: [Hardswish, Softplus]}]]  # 6
head:
  - [-1, 1, nn.Upsample, [None, 2, nearest]]  # 7
  - [[7, 1], 1, Concat, [1]]  # 8
  - [-1, 1, NASConv, [16, 4, 2, 1, 1, 1, False]]  # 9: even kernel, no activation
  - [[-1, 5], 1, Detect, [nc, anchors]]  # 10
"""


@pytest.fixture(autouse=True)
def registered(host: Host) -> Iterator[None]:
    register(host)
    yield
    unregister(host)


def shared_model(host: Host, cfg: Any, seed: int = 0) -> Any:
    """A shared-weights model whose every weight and statistic matters to its outputs, as after training."""
    model = host.build(cfg)
    generator = torch.Generator().manual_seed(seed)
    for bn in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        for tensor, low, high in ((bn.weight, 0.8, 1.6), (bn.bias, -0.3, 0.3), (bn.running_mean, -0.3, 0.3)):
            tensor.data.uniform_(low, high, generator=generator)
        bn.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def outputs(model: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(x)[0]


def image(batch: int = 1, size: int = 64) -> torch.Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def stock_yaml(host: Host, size: str) -> Path:
    return host.location.root / "models" / f"yolov5{size}.yaml"


def rebuilt(host: Host, space: Space, architecture: Architecture, weights: nn.Module) -> Any:
    """The stock YAML through the host's own Model, with the weights loaded."""
    model = host.build(yaml.safe_load(yaml.safe_dump(derive(space, architecture))))
    model.load_state_dict(weights.state_dict())
    return model.train(weights.training)


# Every architecture is a stock model ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["nas", "elastic"])
@pytest.mark.parametrize("size", "ns")
def test_random_architectures_equal_their_stock_models(host: Host, size: str, kind: str) -> None:
    space = Space.from_yaml(MODELS / f"yolov5{size}_{kind}.yaml")
    shared, x, rng, seen = shared_model(host, space.yaml), image(), random.Random(f"{size}{kind}"), []
    for number in range(24 if size == "n" else 8):
        architecture = space.sample(rng)
        stock = extract(shared, architecture, host)
        seen.append(outputs(shared, x))
        torch.testing.assert_close(outputs(stock, x), seen[-1], rtol=0, atol=1e-5)
        assert type(stock) is host.yolo.Model  # the host's own, built from the derived YAML
        assert stock.yaml == {**derive(space, architecture), "ch": 3}
        if number % 10 == 0:  # once more from a file's text, with the weights loaded: the same by construction
            again = rebuilt(host, space, architecture, stock)
            torch.testing.assert_close(outputs(again, x), seen[-1], rtol=0, atol=1e-5)
    assert (torch.stack(seen).std(0).amax() > 1e-2).item()  # the choices do change the outputs


def test_odd_layers_equal_their_stock_models(host: Host) -> None:
    """Groups, repeats, dilation, given padding and activation, no shortcut, other expansions, `activation:`."""
    space = Space.from_dict(yaml.safe_load(ODD))
    shared, x, rng = shared_model(host, space.yaml), image(), random.Random(0)
    for architecture in [space.default(), *(space.sample(rng) for _ in range(16))]:
        stock = extract(shared, architecture, host)
        expected = outputs(shared, x)
        torch.testing.assert_close(outputs(stock, x), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(outputs(rebuilt(host, space, architecture, stock), x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_training_mode_and_its_statistics_are_equal(host: Host, seed: int) -> None:
    space = Space.from_yaml(MODELS / "yolov5n_elastic.yaml")
    shared, architecture = shared_model(host, space.yaml).train(), space.sample(random.Random(seed))
    stock = extract(shared, architecture, host)
    assert stock.training
    for ours, theirs in zip(shared(image(2)), stock(image(2))):  # one raw tensor for each Detect layer
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
    after = extract(shared, architecture, host).state_dict()
    for name, value in stock.state_dict().items():
        torch.testing.assert_close(value, after[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("seed", range(3))
def test_a_fused_stock_model_is_equal(host: Host, seed: int) -> None:
    space = Space.from_yaml(MODELS / "yolov5n_elastic.yaml")
    shared, architecture = shared_model(host, space.yaml), space.sample(random.Random(seed))
    with host.quiet():
        fused = extract(shared, architecture, host).fuse()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    torch.testing.assert_close(outputs(fused, image()), outputs(shared, image()), rtol=1e-4, atol=1e-3)


def test_extracting_copies_the_weights_and_what_training_attached(host: Host) -> None:
    space = Space.from_yaml(MODELS / "yolov5n_nas.yaml", nc=2)
    shared = shared_model(host, space.yaml)
    shared.names, shared.hyp = {0: "cat", 1: "dog"}, {"box": 0.05}
    shared.model[-1].anchors *= 2  # as autoanchor does
    stock = extract(shared, space.default(), host)
    assert (stock.names, stock.hyp, stock.yaml["nc"]) == (shared.names, shared.hyp, 2)
    assert torch.equal(stock.model[-1].anchors, shared.model[-1].anchors)
    before = outputs(shared, image())
    for parameter in stock.parameters():
        parameter.data.zero_()
    assert torch.equal(outputs(shared, image()), before)


def test_extracted_models_hold_yolov5s_and_torchs_classes_only(host: Host) -> None:
    space = Space.from_yaml(MODELS / "yolov5n_elastic.yaml")
    stock = extract(host.build(space.yaml), space.sample(random.Random(0)), host)
    assert not [type(m) for m in stock.modules() if type(m).__module__.startswith("yolov5_nas")]


def test_the_derived_yaml_of_a_built_model_is_the_files(host: Host) -> None:
    """The host's parser writes into the rows that it reads; the model's space must not notice."""
    space = Space.from_yaml(MODELS / "yolov5n_nas.yaml")
    derived = derive(host.build(space.yaml).model.space, space.default())
    assert derived == {**derive(space, space.default()), "ch": 3}  # YOLOv5's Model notes the channels of its input


def test_an_architecture_of_another_space_or_a_stock_model_is_refused(host: Host) -> None:
    space = Space.from_yaml(MODELS / "yolov5n_nas.yaml")
    with pytest.raises(UserError, match="c3_2 must be one of its options, got 7"):
        set_architecture(host.build(space.yaml), space.default().with_value("c3_2", 7))
    with pytest.raises(UserError, match="must be built from a YAML with NASConv or NASC3 layers, after register"):
        extract(host.build(derive(space, space.default())), space.default(), host)


def test_smaller_options_are_slices_of_one_weight(host: Host) -> None:
    space = Space.from_yaml(MODELS / "yolov5n_elastic.yaml")
    shared = shared_model(host, space.yaml)
    conv, c3 = shared.model[0], shared.model[4]
    assert isinstance(conv, NASConv) and isinstance(c3, NASC3)
    assert conv.conv.conv.weight.shape == (16, 3, 6, 6)  # kernels 4 and 6
    assert c3.cv1.conv.weight.shape == (48, 64, 3, 3)  # hidden 32 * 1.5, kernels 1 and 3
    assert len(c3.m) == 3  # depths 1, 2, 3
    set_architecture(shared, {**space.default(), "nasconv_0": "k4p1", "c3_4": 0.5})
    assert torch.equal(conv.conv.weight(), conv.conv.conv.weight[:, :, 1:5, 1:5])
    assert torch.equal(c3.cv1.weight(), c3.cv1.conv.weight[:16, :, 1:2, 1:2])
    assert c3.cv3.weight().shape == (64, 32, 1, 1)


# YOLOv5's own parser --------------------------------------------------------------------------------------------------


def test_yolov5s_own_model_builds_the_file_and_forgets_it_when_unregistered(host: Host) -> None:
    path = str(MODELS / "yolov5s_nas.yaml")
    with host.quiet():
        model = host.yolo.Model(path)
        assert isinstance(model.model[0], NASConv) and isinstance(model.model[8], NASC3)
        assert model.model.space.size == 1586874322944
        assert host.yolo.Model(path, nc=7).model.space.yaml["nc"] == 7
        unregister(host)
        with pytest.raises(NameError, match="NASConv"):
            host.yolo.Model(path)


def test_registering_twice_is_registering_once(host: Host) -> None:
    ours = host.yolo.parse_model
    register(host)
    assert host.yolo.parse_model is ours
    unregister(host)
    stock = host.yolo.parse_model
    assert stock.__module__ == host.yolo.__name__ and not hasattr(stock, "stock")
    unregister(host)
    assert host.yolo.parse_model is stock


@pytest.mark.parametrize("file", ["yolov5n.yaml", "hub/yolov5-p6.yaml", "hub/yolov5s-ghost.yaml"])
def test_stock_yamls_build_exactly_as_before(host: Host, file: str) -> None:
    cfg = yaml.safe_load((host.location.root / "models" / file).read_text())

    def build() -> tuple[list[Any], str, dict[str, torch.Tensor]]:
        torch.manual_seed(0)
        with host.quiet():
            layers, save = host.yolo.parse_model(copy.deepcopy(cfg), ch=[3])
        marks = [(m.i, m.f, m.type, m.np) for m in layers]
        return [marks, save], repr(layers), layers.state_dict()

    marks, text, state = build()
    unregister(host)
    marks_before, text_before, state_before = build()
    assert (marks, text) == (marks_before, text_before)
    assert state.keys() == state_before.keys()
    assert all(torch.equal(value, state_before[name]) for name, value in state.items())


def test_a_searchable_layer_carries_the_parsers_marks(host: Host) -> None:
    space = Space.from_yaml(MODELS / "yolov5n_nas.yaml")
    layer = host.build(space.yaml).model[2]
    assert (layer.i, layer.f, layer.type) == (2, -1, "yolov5_nas.weights.elastic.NASC3")
    assert layer.np == sum(p.numel() for p in layer.parameters())


def test_it_trains_on_the_shared_weights_with_yolov5s_own_loss(host: Host) -> None:
    space = Space.from_yaml(MODELS / "yolov5n_elastic.yaml", nc=2)
    torch.manual_seed(0)
    model = host.build(space.yaml).train()
    model.hyp = yaml.safe_load((host.location.root / "data/hyps/hyp.scratch-low.yaml").read_text())
    loss_of, optimizer = host.ComputeLoss(model), torch.optim.SGD(model.parameters(), lr=1.0)
    target = torch.tensor([[0, 1, 0.5, 0.5, 0.4, 0.4], [1, 0, 0.3, 0.3, 0.2, 0.2]])  # image, class, x, y, w, h
    set_architecture(model, {**space.default(), "nasconv_0": "k4p1", "c3_4": 0.5, "c3_4_depth": 1})
    before = {name: value.clone() for name, value in model.named_parameters()}
    loss, _ = loss_of(model(image(2)), target)
    loss.backward()
    optimizer.step()
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert {"model.0.conv.conv.weight", "model.4.cv1.conv.weight", "model.4.m.0.cv2.conv.weight"} <= changed
    assert not any(name.startswith("model.4.m.1.") for name in changed)  # bottlenecks that did not run
    kernel = (model.model[0].conv.conv.weight.detach() - before["model.0.conv.conv.weight"]).abs().amax((0, 1))
    assert (kernel[1:5, 1:5] > 0).all() and (kernel > 0).sum() == 16  # the centre only


def test_the_shared_model_survives_yolov5s_ema(host: Host) -> None:
    space = Space.from_yaml(MODELS / "yolov5n_nas.yaml")
    model = shared_model(host, space.yaml)
    ema = host.torch_utils.ModelEMA(model)
    ema.update(model)
    set_architecture(ema.ema, space.at(space.size - 1))
    set_architecture(model, space.at(space.size - 1))
    assert outputs(ema.ema, image()).shape == outputs(model, image()).shape
