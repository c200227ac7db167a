"""YOLOv5 itself: where it is found, how its versions are smoothed. The only file that imports it.

Supported hosts: a clone of ultralytics/yolov5 (v7.0 to the newest) and the PyPI package `yolov5` 7.0.14. Nothing in
the host's files is changed. What is patched in its modules is patched for the length of a `with` block only. One host
per process, since a clone's checkpoints name its top-level packages (`models.yolo`).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import io
import logging
import os
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..errors import UserError

PACKAGE = "package"  # in place of a clone's path
GET_YOLOV5 = (
    "git clone https://github.com/ultralytics/yolov5 and give it by --yolov5 PATH or YOLOV5_ROOT, or pip install"
    " 'yolov5-nas[yolov5]'"
)
# Read by the hosts when they are imported: no pip call, no network, no prompt.
OFFLINE = {
    "YOLOv5_AUTOINSTALL": "false",
    "YOLOV5_AUTOINSTALL": "false",
    "YOLO_AUTOINSTALL": "false",
    "YOLO_OFFLINE": "true",
    "WANDB_MODE": "disabled",
    "COMET_MODE": "DISABLED",
}

MODULES = (
    *("models", "models.common", "models.experimental", "models.yolo", "utils.general", "utils.dataloaders"),
    *("utils.loss", "utils.torch_utils", "utils.autoanchor", "utils.plots", "val"),
)


@dataclass(frozen=True)
class Location:
    """Where YOLOv5 lies: `kind` is "clone" or "package", `found` says by which rule it was found."""

    kind: str
    root: Path
    found: str

    def __str__(self) -> str:
        return f"YOLOv5 {self.kind} at {self.root} ({self.found})"


def find(path: str | Path | None = None) -> Location:
    """Find YOLOv5: the path given, then YOLOV5_ROOT, then the working directory if it is a clone, then the package.

    Args:
        path: of a clone; "package" is the package whatever else there is.

    Raises:
        UserError: the given path or YOLOV5_ROOT is no clone, or there is none anywhere (says how to get one).
    """
    if str(path) != PACKAGE:
        for given, rule in ((path, "--yolov5"), (os.environ.get("YOLOV5_ROOT"), "YOLOV5_ROOT")):
            if given:
                if not is_clone(Path(given)):
                    raise UserError(
                        f"{rule} must be a clone of ultralytics/yolov5", got=str(given), accepted=GET_YOLOV5
                    )
                return Location("clone", Path(given).resolve(), rule)
        if is_clone(Path.cwd()):
            return Location("clone", Path.cwd(), "the working directory")
    spec = importlib.util.find_spec("yolov5")
    if spec and spec.origin and is_clone(Path(spec.origin).parent):  # a mere folder named yolov5 has no origin
        return Location("package", Path(spec.origin).parent, "the installed package")
    raise UserError(f"no YOLOv5 found: {GET_YOLOV5}")


def is_clone(root: Path) -> bool:
    """Whether a folder holds YOLOv5's code."""
    return all((root / name).is_file() for name in ("models/yolo.py", "utils/general.py", "val.py"))


class Host:
    """The host's modules and the few calls in which its versions differ."""

    def __init__(self, location: Location):
        self.location = location
        with _importable(location):
            prefix = "yolov5." if location.kind == "package" else ""
            self.modules: dict[str, Any] = {name: importlib.import_module(prefix + name) for name in MODULES}
        self.common, self.yolo = self.modules["models.common"], self.modules["models.yolo"]
        self.general, self.dataloaders = self.modules["utils.general"], self.modules["utils.dataloaders"]
        self.torch_utils, self.autoanchor = self.modules["utils.torch_utils"], self.modules["utils.autoanchor"]
        self.ComputeLoss = self.modules["utils.loss"].ComputeLoss
        loaded = Path(self.yolo.__file__).resolve()
        if loaded != (location.root / "models" / "yolo.py").resolve():
            raise UserError(f"another YOLOv5 is loaded in this process already: {loaded}", got=str(location))
        if "d" not in inspect.signature(self.common.Conv).parameters:
            raise UserError("YOLOv5 must be v7.0 or newer (its Conv has no dilation)", got=str(location))

    def build(self, cfg: Mapping[str, Any], nc: int | None = None, anchors: int | None = None) -> Any:
        """YOLOv5's `Model` of a model dict, which stays as it is; the YAML's `activation:` does not leak out."""
        default_act = self.common.Conv.default_act
        no_summary = patched(self.yolo, model_info=lambda *_, **__: None)  # nobody sees it; it profiles the model
        try:
            with self.quiet(), no_summary:
                return self.yolo.Model(deepcopy(dict(cfg)), ch=3, nc=nc, anchors=anchors)
        finally:
            self.common.Conv.default_act = default_act

    def module(self, name: str) -> Any:
        """A further module of the host, such as `train` or `utils.callbacks`."""
        with _importable(self.location):
            return importlib.import_module(("yolov5." if self.location.kind == "package" else "") + name)

    def create_dataloader(self, *args: Any, seed: int = 0, **kwargs: Any) -> tuple[Any, Any]:
        """`create_dataloader`, which takes a seed in the newer versions only (in v7.0 the order has a fixed one)."""
        function = self.dataloaders.create_dataloader
        if "seed" in inspect.signature(function).parameters:
            kwargs["seed"] = seed
        return function(*args, **kwargs)

    def validate(self, **kwargs: Any) -> tuple[float, ...]:
        """`val.run`: precision, recall, mAP50, mAP50-95, box, objectness and class loss.

        It takes the time it needs. By itself YOLOv5 drops the boxes of a batch's images that are not through NMS after
        0.5 s and 0.05 s an image, so that other load on the machine would lower mAP.
        """
        import torchvision

        stopped, nms = types.SimpleNamespace(time=lambda: 0.0), _first_kept(torchvision.ops.nms)
        with (
            self.compatible(),
            patched(self.general, time=stopped),
            patched(torchvision.ops, nms=nms),
            tempfile.TemporaryDirectory() as folder,  # the package writes a results.html
        ):
            return tuple(float(x) for x in self.modules["val"].run(**kwargs, save_dir=Path(folder))[0])

    def check_dataset(self, data: dict[str, Any], download: bool) -> dict[str, Any]:
        """`check_dataset` of a dict whose paths are absolute; runs its `download:` entry where that is wanted."""
        with self.compatible():
            return self.general.check_dataset(data, autodownload=download)

    def export(self, model: Any, path: Path, form: str, imgsz: int, batch: int, half: bool, device: Any) -> Path:
        """`export.py` of a model, to a format by its name there (`onnx`, `openvino`, ...), without a checkpoint.

        Args:
            path: where a checkpoint would lie; the exported file or folder gets its name.
            device: torch's.

        Returns:
            The exported file or folder.

        Raises:
            RuntimeError: what YOLOv5 says that went wrong.
        """
        import torch

        exporter, fused = self.module("export"), deepcopy(model).to(device).float().eval().fuse()
        exporting = {
            "attempt_load": lambda *_, **__: fused,
            "select_device": lambda *_: torch.device(device),  # the host's hides the GPUs from this process
            "check_requirements": lambda *_, **__: None,
        }
        if "openvino.inference_engine" in inspect.getsource(exporter):  # gone since OpenVINO 2024
            exporting["export_openvino"] = _export_openvino
        failures, logger = _Failures(), self.general.LOGGER
        legacy: Any = torch.onnx.export
        if "dynamo" in inspect.signature(legacy).parameters:  # the newer exporter needs a further package and opset 18
            legacy = functools.partial(legacy, dynamo=False)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.compatible())
            stack.enter_context(patched(logger, handlers=[failures], propagate=False))
            stack.enter_context(patched(exporter, **exporting))
            stack.enter_context(patched(torch.onnx, export=legacy))
            files = exporter.run(
                weights=path, imgsz=(imgsz, imgsz), batch_size=batch, device="", include=(form,), half=half
            )
        found = [Path(file) for file in files if file]
        if not found or failures.lines:
            raise RuntimeError(failures.lines[-1] if failures.lines else f"{form} gave no file")
        return found[-1]

    def load_exported(self, path: Path, half: bool, device: Any) -> Any:
        """`DetectMultiBackend` of an exported model, as `detect.py` and `val.py` run it: images to predictions.

        ONNX Runtime and OpenVINO get as many threads as torch has in this process, in place of all cores.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(patched(self.common, check_requirements=lambda *_, **__: None))
            if path.suffix == ".onnx":
                stack.enter_context(_onnxruntime_threads())
            elif path.name.endswith("_openvino_model"):
                stack.enter_context(_openvino_threads())
            stack.enter_context(self.quiet())
            return self.common.DetectMultiBackend(str(path), device=device, fp16=half).eval()

    @contextlib.contextmanager
    def compatible(self) -> Iterator[None]:
        """Today's numpy and Pillow as the host expects them, and no download of a font."""
        import numpy as np
        from PIL.ImageFont import FreeTypeFont

        def no_font(*_: Any, **__: Any) -> None:
            """Nothing of ours draws text with the host's fonts."""

        with contextlib.ExitStack() as stack:
            if not hasattr(np, "trapz"):
                stack.enter_context(patched(np, trapz=np.trapezoid))
            if not hasattr(FreeTypeFont, "getsize"):
                stack.enter_context(patched(FreeTypeFont, getsize=lambda f, t, *a, **k: f.getbbox(t)[2:]))
            for name in ("utils.general", "utils.plots"):
                if hasattr(self.modules[name], "check_font"):
                    stack.enter_context(patched(self.modules[name], check_font=no_font))
            yield

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """The host's information lines are left out; its warnings still show."""
        logger = self.general.LOGGER
        level = logger.level
        logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            logger.setLevel(level)

    def save_checkpoint(self, model: Any, path: Path, **entries: Any) -> None:
        """Write a model as YOLOv5's own stripped checkpoint, in half precision, that a clone and the package load.

        The package's classes are written under a clone's names (`models.yolo`), which the package finds too.
        """
        import torch

        checkpoint = {
            "epoch": -1,
            "best_fitness": None,
            "model": _on_cpu(deepcopy(model).half()),
            "ema": None,
            "updates": None,
            "optimizer": None,
            "git": None,
            "date": datetime.now(timezone.utc).isoformat(),
            **entries,
        }
        for parameter in checkpoint["model"].parameters():
            parameter.requires_grad = False
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        with self._clone_names():
            torch.save(checkpoint, temporary)
        temporary.replace(path)

    def load_checkpoint(self, path: Path) -> Any:
        """The model of a YOLOv5 checkpoint, in float32.

        Unpickling runs code: only checkpoints that the user named, or that we wrote, come here.

        Raises:
            UserError: the file is missing or no YOLOv5 checkpoint.
        """
        import torch

        if not path.is_file():
            raise UserError("the weights file does not exist", file=path)
        try:
            with self._clone_names():
                checkpoint = torch.load(path, map_location="cpu", weights_only=False)
            model = checkpoint.get("ema") or checkpoint["model"]
            return model.float()
        except Exception as e:  # unpickling can raise anything
            problem = f"{type(e).__name__}: {e}".splitlines()[0]
            raise UserError(f"no YOLOv5 checkpoint of a detection model ({problem})", file=path) from None

    @contextlib.contextmanager
    def _clone_names(self) -> Iterator[None]:
        """The host's classes go by a clone's names while a checkpoint is written or read; by the package's too."""
        with contextlib.ExitStack() as stack:
            for name in MODULES[:4]:
                module = self.modules[name]
                if self.location.kind == "clone":
                    stack.enter_context(_module_entry(f"yolov5.{name}", module))
                    continue
                stack.enter_context(_module_entry(name, module))
                for value in vars(module).values():
                    if isinstance(value, type) and value.__module__ == f"yolov5.{name}":
                        stack.enter_context(patched(value, __module__=name))
            yield


def _first_kept(nms: Callable[..., Any], most: int = 300) -> Callable[..., Any]:
    """An `nms` of boxes that come with falling scores, which may end after the first `most` that it keeps.

    These are the same, since a box is dropped for an earlier one only. YOLOv5's validation takes 300 an image, and
    spends most of its time on the others while a network is new.
    """

    def first(boxes: Any, scores: Any, iou: float) -> Any:
        count = 4 * most
        while len(kept := nms(boxes[:count], scores[:count], iou)) < most and count < len(boxes):
            count *= 4
        return kept

    return first


def _on_cpu(model: Any) -> Any:
    """A model whose tensors are all on the CPU, also those that are no parameters or buffers."""
    import torch

    if not next(model.parameters()).is_cuda:
        return model
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, map_location="cpu", weights_only=False)


_loaded: Host | None = None


def load(location: Location | None = None) -> Host:
    """The host of this process, imported on the first call.

    Raises:
        UserError: another host is loaded already, or this one is too old.
    """
    global _loaded
    location = location or (_loaded.location if _loaded else find())
    if _loaded is None:
        _loaded = Host(location)
    elif _loaded.location.root != location.root:
        raise UserError("one YOLOv5 per process", got=str(location), accepted=[_loaded.location])
    return _loaded


@contextlib.contextmanager
def patched(target: Any, **attributes: Any) -> Iterator[None]:
    """Attributes set on an object for the length of a `with` block."""
    missing = object()
    old = {name: vars(target).get(name, missing) for name in attributes}
    for name, value in attributes.items():
        setattr(target, name, value)
    try:
        yield
    finally:
        for name, value in old.items():
            delattr(target, name) if value is missing else setattr(target, name, value)


@contextlib.contextmanager
def _module_entry(name: str, module: types.ModuleType) -> Iterator[None]:
    old = sys.modules.get(name)
    sys.modules[name] = module
    try:
        yield
    finally:
        if old is None:
            del sys.modules[name]
        else:
            sys.modules[name] = old


@contextlib.contextmanager
def _importable(location: Location) -> Iterator[None]:
    """The host can be imported: offline, from the front of `sys.path`, with stand-ins for what v7.0 misses today."""
    # The hosts set the threads for every child process; the loggers are the user's own, and those of hooks.
    names = ("OMP_NUM_THREADS", "NUMEXPR_MAX_THREADS", "WANDB_MODE", "COMET_MODE")
    kept = {name: os.environ.get(name) for name in names}
    os.environ.update(OFFLINE)
    if location.kind == "clone":
        if str(location.root) in sys.path:
            sys.path.remove(str(location.root))
        sys.path.insert(0, str(location.root))
        _drop_foreign_packages(location.root)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", "pkg_resources is deprecated")
            for name, stand_in in (("IPython", _ipython), ("pkg_resources", _pkg_resources)):
                if importlib.util.find_spec(name) is None:
                    for module_name, module in stand_in().items():
                        stack.enter_context(_module_entry(module_name, module))
            yield
    except ImportError as e:
        raise UserError(f"{location} can't be imported: {e}") from e
    finally:
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _Failures(logging.Handler):
    """Collects what the host's exporters, which raise nothing, say of a failure."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "export failure" in text:
            self.lines.append(" ".join(text.split("export failure", 1)[1].split(": ", 1)[-1].split())[:300])


@contextlib.contextmanager
def _onnxruntime_threads() -> Iterator[None]:
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession

    def with_threads(*args: Any, **kwargs: Any) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        return session(*args, sess_options=options, **kwargs)

    with patched(onnxruntime, InferenceSession=with_threads):
        yield


@contextlib.contextmanager
def _openvino_threads() -> Iterator[None]:
    import openvino
    import torch

    compile_model = openvino.Core.compile_model

    def with_threads(core: Any, model: Any, device_name: str) -> Any:
        # The newest hosts say AUTO, which may take another device than the one that is asked for.
        return compile_model(core, model, "CPU", {"INFERENCE_NUM_THREADS": torch.get_num_threads()})

    with contextlib.ExitStack() as stack:
        if not importlib.util.find_spec("openvino.runtime"):  # where the older hosts look
            stack.enter_context(_module_entry("openvino.runtime", openvino))
        stack.enter_context(patched(openvino.Core, compile_model=with_threads))
        yield


def _export_openvino(file: Path, metadata: Mapping[str, Any], half: bool, *_: Any, **__: Any) -> tuple[str, None]:
    """In place of v7.0's and the package's: as the newest clone does it."""
    import openvino
    import yaml

    folder = Path(str(file).replace(".pt", "_openvino_model"))
    xml = folder / file.with_suffix(".xml").name
    openvino.save_model(openvino.convert_model(file.with_suffix(".onnx")), xml, compress_to_fp16=half)
    (folder / file.with_suffix(".yaml").name).write_text(yaml.safe_dump(dict(metadata)))
    return str(folder), None


def _drop_foreign_packages(root: Path) -> None:
    """Forget `models` and `utils` of somebody else that were imported before the clone's."""
    for name in [n for n in sys.modules if n.split(".")[0] in ("models", "utils", "val")]:
        file = getattr(sys.modules[name], "__file__", None)
        if file is None or root not in Path(file).resolve().parents:
            del sys.modules[name]


def _ipython() -> dict[str, types.ModuleType]:
    """v7.0 imports IPython for notebooks only."""
    ipython, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.get_ipython = lambda: None  # type: ignore[attr-defined]
    display.display = print  # type: ignore[attr-defined]
    ipython.display = display  # type: ignore[attr-defined]
    return {"IPython": ipython, "IPython.display": display}


def _pkg_resources() -> dict[str, types.ModuleType]:
    """v7.0 and the package use it to compare versions; setuptools 81 dropped it."""
    from packaging.version import parse

    module = types.ModuleType("pkg_resources")
    module.parse_version = parse  # type: ignore[attr-defined]
    return {"pkg_resources": module}
