"""YOLOv5's exporters and exported models, on today's runtimes."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import machine_fault
from .compat import module_entry, patched


def failures(said: Iterable[str]) -> list[str]:
    """Return the failures that the host's exporters have logged, in order; they seldom raise them."""
    found = [text.split("export failure", 1)[1] for text in said if "export failure" in text]
    return [_in_words(" ".join(text.split(": ", 1)[-1].split())[:300]) for text in found]


def _in_words(problem: str) -> str:
    """Return a failure with what to do about it, where it is a package that is missing."""
    missing = re.search(r"No module named '(\w+)", problem)
    return (
        f"it needs the package {missing[1]}, which is not installed: pip install {missing[1]}" if missing else problem
    )


def own_runtime(path: Path, precision: str) -> contextlib.AbstractContextManager[None]:
    """Within this block an exported file's runtime gets as many threads as torch has here, instead of all cores, and
    OpenVINO computes in FP32, or FP16, where by itself it may take BF16."""
    if path.suffix == ".onnx":
        return _onnxruntime_threads()
    return _openvino_as_told(precision) if path.name.endswith("_openvino_model") else contextlib.nullcontext()


@contextlib.contextmanager
def _onnxruntime_threads() -> Iterator[None]:
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession

    def with_threads(*args: Any, **kwargs: Any) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Or its threads go on spinning after a pass, and disturb whatever is timed next: another session's pass.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return session(*args, sess_options=options, **kwargs)

    with patched(onnxruntime, InferenceSession=with_threads):
        yield


@contextlib.contextmanager
def _openvino_as_told(precision: str) -> Iterator[None]:
    import openvino
    import torch

    compile_model = openvino.Core.compile_model
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f16" if precision == "fp16" else "f32",
    }

    def with_threads(core: Any, model: Any, device_name: str) -> Any:
        # The newest hosts say AUTO, which may take another device than the one that is asked for.
        return compile_model(core, model, "CPU", settings)

    with contextlib.ExitStack() as stack:
        if not importlib.util.find_spec("openvino.runtime"):  # where the older hosts look
            stack.enter_context(module_entry("openvino.runtime", openvino))
        stack.enter_context(patched(openvino.Core, compile_model=with_threads))
        yield


def export_openvino(file: Path, metadata: Mapping[str, Any], half: bool, *_: Any, **__: Any) -> tuple[str, None]:
    """In place of v7.0's and the package's: as the newest clone does it."""
    import openvino
    import yaml

    folder = Path(str(file).replace(".pt", "_openvino_model"))
    xml = folder / file.with_suffix(".xml").name
    openvino.save_model(openvino.convert_model(file.with_suffix(".onnx")), xml, compress_to_fp16=half)
    (folder / file.with_suffix(".yaml").name).write_text(yaml.safe_dump(dict(metadata)), encoding="utf-8")
    return str(folder), None


def exported(
    host: Any, model: Any, path: Path, form: str, imgsz: int, batch: int, half: bool, device: Any, **options: Any
) -> Path:
    """See `Host.export`."""
    import torch

    exporter, fused = host.module("export"), host.fused(model, device)
    exporting = {
        "attempt_load": lambda *_, **__: fused,
        "select_device": lambda *_: torch.device(device),  # the host's hides the GPUs from this process
        "check_requirements": lambda *_, **__: None,
    }
    if "openvino.inference_engine" in inspect.getsource(exporter):  # gone since OpenVINO 2024
        exporting["export_openvino"] = export_openvino
    legacy: Any = torch.onnx.export
    if "dynamo" in inspect.signature(legacy).parameters:  # the newer exporter needs a further package and opset 18
        legacy = functools.partial(legacy, dynamo=False)
    with contextlib.ExitStack() as stack:
        stack.enter_context(host.compatible())
        said = stack.enter_context(host.heard())
        stack.enter_context(patched(exporter, **exporting))
        stack.enter_context(patched(torch.onnx, export=legacy))
        # In a folder of its own, since exporters replace every ".pt" in a path.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        weights = folder / path.name
        given = {"weights": weights, "imgsz": (imgsz, imgsz), "batch_size": batch, "device": "", "half": half}
        try:
            found = [Path(file) for file in exporter.run(**given, include=(form,), **options) if file]
        except Exception as e:  # of a later step, which lacks what an earlier one failed to give
            if machine_fault(e) or not failures(said):
                raise
            found = []
        if wrong := failures(said):
            raise RuntimeError(wrong[0])
        if not found:
            raise RuntimeError(f"{form} gave no file")
        for made in folder.iterdir():
            _move(made, path.with_name(made.name))
    return path.with_name(found[-1].name)


def _move(made: Path, to: Path) -> None:
    if to.is_dir():
        shutil.rmtree(to)
    shutil.move(made, to)
