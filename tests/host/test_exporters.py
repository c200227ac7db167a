"""What YOLOv5's exporters say that went wrong."""

from importlib.util import find_spec

import pytest

from yolov5_nas.files import shipped
from yolov5_nas.host.exporters import failures
from yolov5_nas.space.compile import derive
from yolov5_nas.space.space import Space


@pytest.mark.skipif(find_spec("tensorflow") is not None, reason="TensorFlow is installed")
def test_a_format_without_its_package_names_the_package(host, tmp_path):
    """And not what a later step of the exporter lacked: 'NoneType' object has no attribute 'outputs'."""
    space = Space.from_yaml(shipped("models") / "yolov5n_elastic.yaml", nc=2)
    model = host.build(derive(space, space.default()))
    with pytest.raises(RuntimeError, match="it needs the package tensorflow, which is not installed: pip install"):
        host.export(model, tmp_path / "best.pt", "tflite", 64, 1, False, "cpu")
    assert not list(tmp_path.iterdir())


def test_the_first_of_several_failures_comes_first():
    said = ["ONNX: starting", "ONNX: export failure 0.1s: opset 99 is unknown", "CoreML: export failure 0.0s: no ONNX"]
    assert failures(said) == ["opset 99 is unknown", "no ONNX"]
