"""Exported models in INT8, by the library that belongs to their runtime."""

from __future__ import annotations

import contextlib
import logging
import platform
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

ENDING = "_int8"  # of a file's name, as in YOLOv5's exporter
OPENVINO = "_openvino_model"
OPSET = 13  # of ONNX: the first whose weights can be quantised by channel


def quantised(path: Path, images: Sequence[np.ndarray], kept: Collection[str] = ()) -> Path:
    """Quantise what YOLOv5 exported: weights by channel, activations by the ranges that they have on some images.

    Detect stays in FP32. Boxes, up to the input size, and scores, up to 1, share a tensor in its decoding, and with its
    convolutions quantised too yolov5n lost 0.022 mAP50-95 more on OpenVINO.

    Args:
        path: an ONNX file, or OpenVINO's folder.
        images: (batch, 3, height, width), float32 from 0 to 1, as the model takes them.
        kept: YOLOv5's layers that stay in FP32 too, as `layers_of` names them.

    Returns:
        The new file or folder, beside it: `best_int8.onnx`, `best_int8_openvino_model`.
    """
    if path.suffix == ".onnx":
        return _onnx(path, images, kept)
    return _openvino(path, images, kept)


def layers_of(path: Path) -> list[str]:
    """YOLOv5's layers in an ONNX file, but Detect: `model.0`, ...; [] where nodes don't say which they are of."""
    import onnx

    found = dict.fromkeys(_layer_of(node.name) for node in onnx.load(path).graph.node)
    return [name for name in found if name][:-1]


def _layer_of(node: str) -> str:
    """As torch's exporter names nodes: `/model.17/cv1/conv/Conv`."""
    match = re.match(r"/(model\.\d+)/", node)
    return match[1] if match else ""


def has_vnni() -> bool | None:
    """Whether an x86 processor multiplies INT8 in one instruction; None if that is not known. True of all others.

    Without it (x86) sums of two products are kept in 16 bits, so that weights must keep to 7 bits where they may not
    overflow, and INT8 gains less.
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "i686"):
        return True
    return bool({"avx512_vnni", "avx_vnni", "amx_int8"} & flags) if (flags := _flags()) else None


def instructions() -> list[str]:
    """Of this processor, those that decide how fast INT8 is (x86)."""
    names = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    return [name for name in names if name in _flags()]


def computes_fp16() -> bool:
    """Whether OpenVINO computes in FP16 on this processor."""
    import openvino

    return "FP16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@cache
def _flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


def after_convolutions(
    nodes: Sequence[Any], is_convolution: Callable[[Any], bool], after: Callable[[Any], Iterable[int]]
) -> list[Any]:
    """The nodes of a graph that no convolution comes after: Detect's.

    Args:
        nodes: in topological order, each after its inputs.
        after: the places of the nodes that read a node's output.
    """
    leads = [False] * len(nodes)  # to a convolution
    for place in range(len(nodes) - 1, -1, -1):
        leads[place] = any(is_convolution(nodes[i]) or leads[i] for i in after(nodes[place]))
    return [node for node, does in zip(nodes, leads) if not does]


def _onnx(path: Path, images: Sequence[np.ndarray], own: Collection[str]) -> Path:
    import onnx.version_converter
    from onnxruntime import quantization

    target = path.with_name(path.stem + ENDING + path.suffix)
    model = onnx.load(path)
    if model.opset_import[0].version < OPSET:
        model = onnx.version_converter.convert_version(model, OPSET)
    nodes = list(model.graph.node)
    takes: dict[str, list[int]] = {}
    for place, node in enumerate(nodes):
        for name in node.input:
            takes.setdefault(name, []).append(place)
    kept = after_convolutions(
        nodes, lambda n: n.op_type == "Conv", lambda n: [i for name in n.output for i in takes.get(name, ())]
    )
    batches = ({model.graph.input[0].name: image} for image in images)

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(batches, None)

    with _unsaid():
        quantization.quantize_static(
            model,
            target,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=not has_vnni(),
            nodes_to_exclude=[n.name for n in kept] + [n.name for n in nodes if _layer_of(n.name) in own],
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
    made = onnx.load(target)
    if not made.metadata_props:  # YOLOv5's names and stride
        made.metadata_props.extend(model.metadata_props)
        onnx.save(made, target)
    return target


def _openvino(path: Path, images: Sequence[np.ndarray], own: Collection[str]) -> Path:
    import nncf
    import openvino

    target = path.with_name(path.name.removesuffix(OPENVINO) + ENDING + OPENVINO)
    (xml,) = path.glob("*.xml")
    model = openvino.Core().read_model(xml)
    nodes = model.get_ordered_ops()
    places = {node.get_friendly_name(): place for place, node in enumerate(nodes)}

    def after(node: Any) -> Iterator[int]:
        for output in node.outputs():
            for taker in output.get_target_inputs():
                yield places[taker.get_node().get_friendly_name()]

    kept = after_convolutions(nodes, lambda n: n.get_type_name() in ("Convolution", "GroupConvolution"), after)
    kept += [node for node in nodes if _layer_of(node.get_friendly_name()) in own]
    named = {n.get_friendly_name() for n in kept if n.get_type_name() not in ("Constant", "Result", "Parameter")}
    advanced = nncf.AdvancedQuantizationParameters(
        overflow_fix=nncf.OverflowFix.DISABLE if has_vnni() else nncf.OverflowFix.ENABLE
    )
    with _unsaid():
        made = nncf.quantize(
            model,
            nncf.Dataset(images),
            subset_size=len(images),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=sorted(named)),
            advanced_parameters=advanced,
        )
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    openvino.save_model(made, target / xml.name, compress_to_fp16=False)
    for file in path.glob("*.yaml"):  # YOLOv5's names and stride
        shutil.copy(file, target)
    return target


@contextlib.contextmanager
def _unsaid() -> Iterator[None]:
    """Without the libraries' progress and advice."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
