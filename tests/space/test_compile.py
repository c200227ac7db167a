from __future__ import annotations

import random
import re
import time
from typing import Any

import pytest
import torch
import yaml
from places import MODELS

from yolov5_nas import derive as package_derive
from yolov5_nas.errors import UserError
from yolov5_nas.host.yolov5 import Host
from yolov5_nas.space.compile import derive, stock_lines, weight_names
from yolov5_nas.space.space import Space

YAML = """\
nc: 2
depth_multiple: 1.0
width_multiple: 0.5
anchors: [[10, 13], [30, 61]]
backbone:
  - [-1, 1, NASConv, [16, 3, 2]]  # 0
  - [-1, 2, NASC3, [32, {width: [1.0, 1.5], depth: [1, 2], kernel: [1, 3], act: [SiLU, ReLU]}]]  # 1
  - [-1, 1, Conv, [32, 3, 2]]  # 2
head:
  - [-2, 1, NASC3, [32, False]]  # 3
  - [[-1, 1], 1, Concat, [1]]  # 4
  - [[1, 4], 1, Detect, [nc, anchors]]  # 5
"""


def small(text: str = YAML) -> Space:
    return Space.from_dict(yaml.safe_load(text))


def rows(space: Space, **values: Any) -> list[list[Any]]:
    model = derive(space, {**space.default(), **{k.replace("__", "-"): v for k, v in values.items()}})
    return [*model["backbone"], *model["head"]]


def stock_dict(host: Host, size: str) -> dict[str, Any]:
    return yaml.safe_load((host.location.root / "models" / f"yolov5{size}.yaml").read_text())


def shapes(model: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


# The lines ------------------------------------------------------------------------------------------------------------


def test_the_default_is_written_with_stock_layers_and_explicit_numbers() -> None:
    model = derive(small(), small().default())
    assert (model["depth_multiple"], model["width_multiple"], model["nc"]) == (1.0, 1.0, 2)
    assert model["backbone"] == [
        [-1, 1, "Conv", [8, 3, 2, 1]],
        [-1, 2, "C3", [16, True]],
        [-1, 1, "Conv", [16, 3, 2]],
    ]
    assert model["head"] == [
        [1, 1, "C3", [16, False]],  # -2 became absolute
        [[-1, 1], 1, "Concat", [1]],
        [[1, 4], 1, "Detect", ["nc", "anchors"]],
    ]


def test_a_kernel_and_an_activation_become_arguments_of_conv() -> None:
    assert rows(small(), nasconv_0="k5p2")[0] == [-1, 1, "Conv", [8, 5, 2, 2]]
    assert rows(small(), nasconv_0_act="ReLU")[0] == [-1, 1, "Conv", [8, 3, 2, 1, 1, 1, "nn.ReLU()"]]


def test_a_hidden_width_becomes_c3s_expansion() -> None:
    assert rows(small(), c3_1=1.5, c3_1_depth=1)[1] == [-1, 1, "C3", [16, True, 1, 1.0]]  # 8 * 1.5 = 12 -> 16 of 16


def test_an_inner_choice_writes_c3_out_and_renumbers_what_follows() -> None:
    assert rows(small(), c3_1=1.5, nasconv_1__2="k3p1", nasconv_1__1_act="ReLU")[1:] == [
        [-1, 1, "Conv", [16, 1, 1, 0, 1, 1, "nn.ReLU()"]],  # 1: cv1
        [-1, 1, "Bottleneck", [16, True, 1, 1.0]],
        [-1, 1, "Bottleneck", [16, True, 1, 1.0]],
        [0, 1, "Conv", [16, 3, 1, 1]],  # 4: cv2 reads what cv1 read
        [[3, -1], 1, "Concat", [1]],
        [-1, 1, "Conv", [16, 1, 1]],  # 6: cv3, the old layer 1
        [-1, 1, "Conv", [16, 3, 2]],  # 7
        [6, 1, "C3", [16, False]],  # 8
        [[-1, 6], 1, "Concat", [1]],  # 9
        [[6, 9], 1, "Detect", ["nc", "anchors"]],
    ]


def test_a_layer_that_reads_an_earlier_one_is_written_out_from_there() -> None:
    assert rows(small(), nasconv_3__1="k3p1")[3:7] == [
        [1, 1, "Conv", [8, 3, 1, 1]],
        [-1, 1, "Bottleneck", [8, False, 1, 1.0]],
        [1, 1, "Conv", [8, 1, 1, 0]],
        [[4, -1], 1, "Concat", [1]],
    ]


def test_groups_dilation_and_repeats_are_kept() -> None:
    space = small(YAML.replace("[-1, 1, NASConv, [16, 3, 2]]", "[-1, 3, NASConv, [16, 3, 1, None, 2, 2]]"))
    assert rows(space)[0] == [-1, 3, "Conv", [8, 3, 1, 2, 2, 2]]


def test_every_line_knows_the_module_that_it_came_from() -> None:
    space = small()
    architecture = space.default().with_value("nasconv_1-1", "k3p1")
    assert [(line.origin, line.part) for line in stock_lines(space, architecture)][:8] == [
        *((0, ""), (1, "cv1"), (1, "m.0"), (1, "m.1"), (1, "cv2"), (1, "cat"), (1, "cv3"), (2, ""))
    ]
    assert weight_names(space, architecture)["model.2"] == "model.1.m.0"


def test_the_space_stays_as_it_was_and_imgsz_stays_out() -> None:
    space = small(YAML + "imgsz: [64, 96]\n")
    before = yaml.safe_dump(space.yaml)
    model = derive(space, space.default())
    assert "imgsz" not in model
    assert yaml.safe_dump(space.yaml) == before


def test_no_name_of_ours_is_left_and_it_is_plain_yaml() -> None:
    space = Space.from_yaml(MODELS / "yolov5n_elastic.yaml")
    for seed in range(20):
        model = derive(space, space.sample(random.Random(seed)))
        assert yaml.safe_load(yaml.safe_dump(model)) == model
        assert "NAS" not in yaml.safe_dump(model)


def test_an_architecture_of_another_space_is_refused() -> None:
    with pytest.raises(UserError, match="c3_1 must be one of its options, got 9"):
        derive(small(), small().default().with_value("c3_1", 9))


def test_a_thousand_architectures_take_about_a_second() -> None:
    space = Space.from_yaml(MODELS / "yolov5s_nas.yaml")
    architectures = [space.sample(random.Random(seed)) for seed in range(1000)]
    start = time.process_time()
    for architecture in architectures:
        derive(space, architecture)
    assert time.process_time() - start < 3  # 0.4 s on an idle core


# Against the real YOLOv5 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", "nsmlx")
def test_the_default_is_stock_yolov5(host: Host, size: str) -> None:
    stock = shapes(host.build(stock_dict(host, size)))
    for kind in ("nas", "elastic"):
        space = Space.from_yaml(MODELS / f"yolov5{size}_{kind}.yaml")
        assert shapes(host.build(derive(space, space.default()))) == stock


@pytest.mark.parametrize("size", "ns")
def test_the_default_with_stocks_weights_has_stocks_outputs(host: Host, size: str) -> None:
    space = Space.from_yaml(MODELS / f"yolov5{size}_nas.yaml")
    ours, stock = host.build(derive(space, space.default())).eval(), host.build(stock_dict(host, size)).eval()
    ours.load_state_dict(stock.state_dict())
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(x)[0], stock(x)[0])


def test_the_number_of_classes_reaches_the_detections(host: Host) -> None:
    space = Space.from_yaml(MODELS / "yolov5n_nas.yaml", nc=3)
    assert host.build(derive(space, space.default())).model[-1].m[0].out_channels == 3 * (3 + 5)


def test_a_width_that_equals_the_detection_outputs_is_left_unscaled_as_in_yolov5(host: Host) -> None:
    text = YAML.replace("nc: 2", "nc: 27")  # 1 * (27 + 5) = 32, the width of three layers
    stock = re.sub(r", \{.*?\}", "", text).replace("NAS", "")
    model = host.build(derive(small(text), small(text).default()))
    assert model.model[1].cv3.conv.out_channels == 32
    assert shapes(model) == shapes(host.build(yaml.safe_load(stock)))


def test_the_package_exports_it() -> None:
    assert package_derive is derive
