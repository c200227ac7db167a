import pytest
import torch
from torch import nn

from yolov5_nas.cost.latency import Runtime, compare
from yolov5_nas.cost.measure import gflops, measure, parameters
from yolov5_nas.files import shipped
from yolov5_nas.records.metrics import ERROR_BOUND
from yolov5_nas.space.compile import derive
from yolov5_nas.space.space import Space


@pytest.fixture(scope="module")
def space():
    return Space.from_yaml(shipped("models") / "yolov5n_nas.yaml")


def test_parameters_counted_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))
    assert parameters(model) == 3 * 8 * 9 + 2 * 8 + (8 * 4 + 4)


def test_gflops_counted_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.SiLU(), nn.Conv2d(8, 4, 1))
    pixels = 32 * 32  # of a 64 x 64 image at stride 2
    assert gflops(model, 64) == pytest.approx(2 * pixels * (3 * 8 * 9 + 8 * 4) / 1e9)
    assert model.training


def test_gflops_of_yolov5n_are_what_yolov5_says(host, space):
    # YOLOv5 publishes 4.5 GFLOPs at 640 pixels for 80 classes (batch norms and activations counted too)
    assert gflops(host.build(derive(space, space.default())), 640) == pytest.approx(4.5, rel=0.04)


def test_gflops_grow_with_the_square_of_the_side(host, space):
    model = host.build(derive(space, space.default()))
    assert gflops(model, 128) == pytest.approx(4 * gflops(model, 64))


def test_a_model_is_as_fast_as_itself_and_slower_with_a_layer_more(in_earnest):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), *(nn.Conv2d(16, 16, 3, padding=1) for _ in range(4))]
    model, longer = nn.Sequential(*layers), nn.Sequential(*layers, *layers[1:])
    image = torch.zeros(1, 3, 160, 160)
    with torch.inference_mode():
        same = compare(lambda: model(image), lambda: model(image))
        ratio = compare(lambda: longer(image), lambda: model(image))
    assert same["latency_ratio"] == pytest.approx(1.0, abs=0.1 + 3 * same["latency_error"])
    # Eight and one convolutions beside four and one; on a busy machine it is known as well as it says.
    assert ratio["latency_ratio"] == pytest.approx(1.9, abs=0.5 + 3 * ratio["latency_error"])
    assert ratio["latency_spread"] >= 0


def test_measure_gives_every_cost_and_leaves_the_model_as_it_was(host, space, in_earnest):
    model, stock = (host.build(derive(space, space.default())) for _ in range(2))
    names = list(model.state_dict())
    costs, conditions = measure(model, lambda: stock, (64, 64), Runtime(), host)
    timed = {"latency_ms", "latency_p95_ms", "latency_ratio", "latency_spread", "latency_error"}
    assert set(costs) == {"params", "gflops", *timed}
    assert conditions["runtime"].startswith("torch ")
    assert (conditions["batch"], conditions["imgsz"], conditions["dtype"]) == (1, 64, "float32")
    assert conditions["trusted"] == (costs["latency_error"] <= ERROR_BOUND)
    assert costs["params"] == 1872157  # stock yolov5n with 80 classes
    assert list(model.state_dict()) == names  # not fused
    assert model.training
