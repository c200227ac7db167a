"""YOLOv5 itself: where it is found, and how all its versions are made to look alike. The only file that imports it.

Supported hosts: a clone of ultralytics/yolov5 (v7.0 to the newest) and the PyPI package `yolov5` 7.0.14. Nothing in
the host's files is changed. What is patched in its modules is patched for the length of a `with` block only. One host
per process, since a clone's checkpoints name its top-level packages (`models.yolo`).
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import importlib.util
import inspect
import logging
import tempfile
import types
from collections.abc import Iterator, Mapping
from copy import deepcopy
from datetime import datetime, timezone
from math import isfinite
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import is_file
from .checkpoints import Trained, model_in, paths_of_any_system, trained_with, unreadable
from .compat import (
    MODULES,
    ByImage,
    Lines,
    compatible,
    first_kept,
    importable,
    module_entry,
    of_version,
    on_cpu,
    patched,
)
from .exporters import exported, own_runtime
from .locate import Location, find

Validation = tuple[tuple[float, ...], list[float | None]]


class Host:
    """The host's modules and the few calls in which its versions differ."""

    def __init__(self, location: Location):
        self.location = location
        with importable(location):
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
        try:
            with self.quiet(), self._no_summary():
                return self.yolo.Model(deepcopy(dict(cfg)), ch=3, nc=nc, anchors=anchors)
        finally:
            self.common.Conv.default_act = default_act

    def fused(self, model: Any, device: Any) -> Any:
        """A model as it is deployed: a copy in float32 on the device, its batch norms folded into convolutions."""
        with self.quiet(), self._no_summary():
            return deepcopy(model).to(device).float().eval().fuse()

    @property
    def conv_activation(self) -> Any:
        """The activation module of the host's `Conv` where a model YAML names none."""
        return self.common.Conv(1, 1).act

    def _no_summary(self) -> contextlib.AbstractContextManager[None]:
        """Without a model's summary, which nobody sees, and which profiles the model."""
        return patched(self.yolo, model_info=lambda *_, **__: None)

    def module(self, name: str) -> Any:
        """A further module of the host, such as `train` or `utils.callbacks`."""
        with importable(self.location):
            return importlib.import_module(("yolov5." if self.location.kind == "package" else "") + name)

    def create_dataloader(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """`create_dataloader`, with the arguments of the newest version."""
        return of_version(self.dataloaders.create_dataloader)(*args, **kwargs)

    def optimizer(self, model: Any, name: str, lr: float, momentum: float, decay: float) -> Any:
        """`smart_optimizer`: YOLOv5's groups of parameters, of which batch norms and biases do not decay."""
        return self.torch_utils.smart_optimizer(model, name, lr, momentum, decay)

    def suppressed(self, predictions: Any, confidence: float, iou: float, most: int) -> list[Any]:
        """`non_max_suppression` of (B, N, 5 + classes): of each image (n, 6), box in pixels, confidence and class."""
        return self.general.non_max_suppression(predictions, confidence, iou, max_det=most)

    def validate(self, by_image: dict[str, Any] | None = None, **kwargs: Any) -> Validation:
        """`val.run`: precision, recall, mAP50, mAP50-95, box, objectness and class loss; and mAP50-95 of each class,
        which is None for a class without labels in the images (for which YOLOv5 itself gives the overall one).

        NMS has no time limit here. YOLOv5's own drops the boxes of the images in a batch that are not done after 0.5 s
        plus 0.05 s per image, so that other load on the machine would lower mAP.

        Args:
            by_image: gets, by the path of each image that has detections or labels, what YOLOv5 computes mAP from:
                whether a detection is right at each IoU threshold (n, 10), its confidence (n), its class (n); and the
                classes of the labels (m).
        """
        import torchvision

        watch = ByImage()
        stopped, nms = types.SimpleNamespace(time=lambda: 0.0), first_kept(torchvision.ops.nms)
        with (
            self.compatible(),
            patched(self.general, time=stopped),
            patched(torchvision.ops, nms=nms),
            patched(self.modules["val"], zip=watch.zip),
            tempfile.TemporaryDirectory() as folder,  # the package writes a results.html
        ):
            found = self.modules["val"].run(**kwargs, save_dir=Path(folder), callbacks=watch)
            if by_image is not None:
                by_image.update(zip(watch.paths, watch.found))
            labelled = {int(label) for one in watch.found for label in one[3].tolist()}
            by_class = [float(x) if i in labelled and isfinite(x) else None for i, x in enumerate(found[1])]
            return tuple(float(x) for x in found[0]), by_class

    def average_precision(self, recall: Any, precision: Any) -> float:
        """YOLOv5's `compute_ap` of a curve, each (n); within `compatible`."""
        return float(self.modules["utils.metrics"].compute_ap(recall, precision)[0])

    def check_dataset(self, data: dict[str, Any], download: bool) -> dict[str, Any]:
        """`check_dataset` of a dict whose paths are absolute; runs its `download:` entry where that is wanted."""
        with self.compatible():
            return self.general.check_dataset(data, autodownload=download)

    def formats(self) -> tuple[str, ...]:
        """Those of `export.py --include`."""
        return tuple(self.module("export").export_formats()["Argument"][1:])  # the first is a checkpoint's

    def export(
        self, model: Any, path: Path, form: str, imgsz: int, batch: int, half: bool, device: Any, **options: Any
    ) -> Path:
        """`export.py` of a model, to a format by its name there (`onnx`, `openvino`, ...), without a checkpoint.

        Args:
            path: where a checkpoint would lie; the exported file or folder gets its name.
            device: torch's.
            options: of `export.py`: `opset`, `dynamic`, `simplify`.

        Returns:
            The exported file or folder.

        Raises:
            RuntimeError: what YOLOv5 says that went wrong.
        """
        return exported(self, model, path, form, imgsz, batch, half, device, **options)

    def load_exported(self, path: Path, precision: str, device: Any) -> Any:
        """`DetectMultiBackend` of an exported model, as `detect.py` and `val.py` run it: images to predictions.

        ONNX Runtime and OpenVINO get as many threads as torch has in this process, instead of all cores, and compute in
        the precision that is named: `fp32`, `fp16` or `int8`.
        """
        with self._loading(path, precision):
            return self.common.DetectMultiBackend(str(path), device=device, fp16=precision == "fp16").eval()

    def validate_exported(self, path: Path, precision: str, device: Any, **kwargs: Any) -> Validation:
        """`validate` of an exported model, as `val.py --weights` does it: square images.

        Args:
            device: torch's.
        """
        with (
            self._loading(path, precision),
            patched(self.modules["val"], select_device=lambda *_, **__: device),  # the host's hides the GPUs
            tempfile.TemporaryDirectory() as folder,
        ):
            half = precision == "fp16"
            return self.validate(weights=str(path), half=half, project=folder, plots=False, **kwargs)

    @contextlib.contextmanager
    def _loading(self, path: Path, precision: str) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            hub = {"attempt_download_from_hub": lambda *_, **__: None} if self.location.kind == "package" else {}
            stack.enter_context(patched(self.common, check_requirements=lambda *_, **__: None, **hub))
            # The host's takes quotes out of a path, and asks the network for what it then doesn't find.
            stack.enter_context(
                patched(self.modules["models.experimental"], attempt_download=lambda file, *_, **__: file)
            )
            stack.enter_context(own_runtime(path, precision))
            stack.enter_context(self.quiet())
            yield

    def compatible(self) -> contextlib.AbstractContextManager[None]:
        """Today's numpy and Pillow as the host expects them, and no download of a font."""
        return compatible([self.modules[name] for name in ("utils.general", "utils.plots")])

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

    @contextlib.contextmanager
    def heard(self) -> Iterator[list[str]]:
        """What the host says comes into the list, instead of onto the terminal."""
        lines, logger = Lines(), self.general.LOGGER
        level = logger.level
        logger.setLevel(logging.INFO)
        try:
            with patched(logger, handlers=[lines], propagate=False):
                yield lines.texts
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
            "model": on_cpu(deepcopy(model).half()),
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
        """The model of a YOLOv5 checkpoint, in float32, repaired as `attempt_load` does it, and run once.

        Raises:
            UserError: the file is missing or no YOLOv5 checkpoint (says what it is), or can't be run.
        """
        return model_in(self._checkpoint(path), path)

    def trained_with(self, path: Path) -> Trained:
        """Return the options that a checkpoint was trained with, as far as it says them.

        Raises:
            UserError: as `load_checkpoint`.
        """
        return trained_with(self._checkpoint(path))

    def _checkpoint(self, path: Path) -> Any:
        """Unpickling runs code: only checkpoints that the user named, or that we wrote, come here."""
        import torch

        if not is_file(path):
            wrong = "the weights must be a file" if path.exists() else "the weights file does not exist"
            raise UserError(wrong, file=path)
        try:
            with self._clone_names(), paths_of_any_system():
                return torch.load(path, map_location="cpu", weights_only=False)
        except Exception as e:  # unpickling can raise anything
            raise unreadable(e, path) from None

    @contextlib.contextmanager
    def _clone_names(self) -> Iterator[None]:
        """The host's classes go by a clone's names while a checkpoint is written or read; by the package's too."""
        with contextlib.ExitStack() as stack:
            if self.location.kind == "clone":  # where the package may not be installed
                stack.enter_context(module_entry("yolov5", types.ModuleType("yolov5")))
            for name in MODULES[:4]:
                module = self.modules[name]
                if self.location.kind == "clone":
                    stack.enter_context(module_entry(f"yolov5.{name}", module))
                    continue
                stack.enter_context(module_entry(name, module))
                for value in vars(module).values():
                    if isinstance(value, type) and value.__module__ == f"yolov5.{name}":
                        stack.enter_context(patched(value, __module__=name))
            yield


_loaded: Host | None = None


def load(location: Location | None = None) -> Host:
    """The host of this process, imported on the first call.

    Raises:
        UserError: another host is loaded already, or this one is too old.
    """
    global _loaded
    location = location or (_loaded.location if _loaded else find())
    if _loaded is None:
        with _no_collections():
            _loaded = Host(location)
        gc.freeze()  # what was imported is no garbage: looking through it took a fifth of a search without trainings
        atexit.register(gc.unfreeze)  # or triton, never freed, says at the end that it leaks
    elif _loaded.location.root != location.root:
        raise UserError("one YOLOv5 per process", got=str(location), accepted=[_loaded.location])
    return _loaded


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """No garbage collection while YOLOv5 is imported: it took a seventh of the time and found nothing."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
