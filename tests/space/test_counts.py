"""Costs on paper are those of the networks."""

import random
import time

import pytest

from yolov5_nas.cost.measure import gflops, parameters
from yolov5_nas.space.compile import derive
from yolov5_nas.space.counts import count
from yolov5_nas.space.space import Space


@pytest.mark.parametrize("name", ["yolov5n_nas", "yolov5n_elastic", "yolov5s_elastic"])
def test_a_network_has_what_is_counted(host, name):
    space, rng = Space.from_yaml(f"{name}.yaml", nc=6), random.Random(0)
    for architecture in (space.default(), *(space.sample(rng) for _ in range(4))):
        model = host.build(derive(space, architecture))
        assert count(space, architecture, 96) == {"params": parameters(model), "gflops": gflops(model, 96)}


def test_a_form_counts_too(host):
    yaml = {**Space.from_yaml("yolov5n_elastic.yaml", nc=6).yaml, "scale": [0.5, 1.0], "imgsz": [64, 96]}
    space = Space.from_dict(yaml)
    architecture = {**space.default(), "scale": 0.5, "imgsz": 64}
    model = host.build(derive(space, architecture))
    assert count(space, architecture, 96) == {"params": parameters(model), "gflops": gflops(model, 64)}


def test_a_layer_that_is_not_known_is_named():
    yaml = dict(Space.from_yaml("yolov5n_nas.yaml").yaml)
    yaml["backbone"] = [row if row[2] != "SPPF" else [-1, 1, "SPP", [1024, [5, 9, 13]]] for row in yaml["backbone"]]
    space = Space.from_dict(yaml)
    with pytest.raises(KeyError, match="SPP"):
        count(space, space.default(), 64)


@pytest.mark.parametrize(
    "row",
    [
        [-1, 1, "Conv", [128, [3, 3], 2]],
        [-1, 1, "nn.Upsample", [None, [2, 2], "nearest"]],
        [-1, 1, "nn.Upsample", [8, None, "nearest"]],
    ],
    ids=str,
)
def test_a_form_that_is_rare_is_not_known(row):
    yaml = dict(Space.from_yaml("yolov5n_nas.yaml").yaml)
    space = Space.from_dict({**yaml, "head": [*yaml["head"][:-1], row, yaml["head"][-1]]})
    with pytest.raises(KeyError, match=row[2]):
        count(space, space.default(), 64)


def test_none_may_be_a_word():
    yaml = dict(Space.from_yaml("yolov5n_nas.yaml").yaml)
    rows = [row if i else [-1, 1, "Conv", [64, 6, 2, "None"]] for i, row in enumerate(yaml["backbone"])]
    space = Space.from_dict({**yaml, "backbone": rows})
    assert count(space, space.default(), 64)["params"] > 1e6


def test_it_takes_no_time():
    space, rng = Space.from_yaml("yolov5n_elastic.yaml"), random.Random(0)
    drawn = [space.sample(rng) for _ in range(200)]
    start = time.process_time()
    for architecture in drawn:
        count(space, architecture, 640)
    assert time.process_time() - start < 1.0  # seen: 0.1
