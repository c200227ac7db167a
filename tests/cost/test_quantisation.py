"""INT8 files, and which layers bear it worst."""

import numpy as np
import onnx
import pytest
import torch

from yolov5_nas.cost.mixed import by_harm, gently_quantised
from yolov5_nas.cost.quantisation import layers_of, quantised

ROWS = [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "C3", [16]], [-1, 1, "Conv", [16, 3, 2]]]
MODEL = {"nc": 2, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": [[10, 13, 16, 30]], "backbone": ROWS}


@pytest.fixture
def network(host):
    torch.manual_seed(0)
    return host.build({**MODEL, "head": [[[3], 1, "Detect", ["nc", "anchors"]]]}).eval()


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [rng.random((1, 3, 64, 64), dtype=np.float32) for _ in range(2)]


def exported(host, network, tmp_path, form="onnx"):
    return host.export(network, tmp_path / "m.pt", form, 64, 1, False, "cpu")


def quantised_layers(path):
    """Those in which a convolution has quantised weights."""
    model = onnx.load(path)
    dequantised = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    return {int(n.name.split("/")[1].split(".")[1]) for n in convolutions if n.input[1] in dequantised}


def test_all_layers_but_detect_are_quantised_and_those_kept_are_not(host, network, images, tmp_path):
    file = exported(host, network, tmp_path)
    assert layers_of(file) == ["model.0", "model.1", "model.2", "model.3"]
    assert quantised_layers(quantised(file, images)) == {0, 1, 2, 3}
    assert quantised_layers(quantised(file, images, ["model.1", "model.2"])) == {0, 3}


def test_the_layer_that_bears_it_worst_comes_first_and_stays_in_fp32(host, network, images, tmp_path):
    with torch.no_grad():
        network.model[1].conv.weight[:, 0] *= 300  # of a channel that then takes all of the range
        network.model[0].bn.weight[0] = 0.002
    file = exported(host, network, tmp_path)
    before = quantised(file, images).read_bytes()
    assert by_harm(file, images)[0] == "model.1"
    assert file.with_name("m_int8.onnx").read_bytes() == before  # that of another runtime's export stays as it is
    ranking = lambda: by_harm(file, images)  # noqa: E731
    needs = lambda path: 0.5 if 1 in quantised_layers(path) else 1.0  # noqa: E731
    found, kept = gently_quantised(file, images, needs, 0.9, ranking)
    assert kept == ["model.1"] and quantised_layers(found) == {0, 2, 3}
    assert gently_quantised(file, images, needs, 0.4, ranking)[1] == []
    found, kept = gently_quantised(file, images, lambda path: 0.1 * len(quantised_layers(path)), 0.9, ranking)
    assert kept == [] and quantised_layers(found) == {0, 1, 2, 3}  # more layers in FP32 would not have helped
