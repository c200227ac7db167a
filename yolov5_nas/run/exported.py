"""Trials' networks as files of other runtimes: exported by YOLOv5, and quantised."""

from __future__ import annotations

import random
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..cost.latency import Runtime
from ..cost.mixed import FEW, by_harm, gently_quantised
from ..errors import UserError, machine_fault
from ..host.dataset import write_list
from ..host.yolov5 import Host, load
from ..records.journal import TrialRecord
from ..records.metrics import BACKENDS, QUANTISERS
from ..records.options import Options
from ..results.deployed import Form
from ..training.images import plain_dataset
from ..training.process import log_to
from ..training.settings import Settings
from .callbacks import say

JUDGING = 128  # training images by which it is decided how many layers stay in FP32
CALIBRATION = 100  # training images by which activations' ranges are found
STRIDE = 32  # that input sizes are a multiple of


@dataclass(frozen=True)
class How:
    """What is exported, and how.

    Args:
        formats: of `export.py --include`.
        precision: besides fp32.
        validate: measure accuracy and latency too.
        calibration: training images to quantise by; by default up to `CALIBRATION`.
        margin: mAP50-95 that may be lost on the way.
        batch: images in a timed pass of the network.
        exporting: `opset`, `dynamic`, `simplify`, as `export.py` has them.
    """

    formats: tuple[str, ...]
    precision: str = "fp32"
    validate: bool = True
    calibration: int | None = None
    margin: float = 0.005
    batch: int = 1
    exporting: Mapping[str, Any] = field(default_factory=dict)

    @property
    def forms(self) -> list[Form]:
        """Each of them."""
        return [Form(f, p) for f in self.formats for p in dict.fromkeys(("fp32", self.precision))]

    def check(self, host: Host, device: str) -> None:
        """Raise a UserError where YOLOv5 or this machine can't do it, or needs a package for it."""
        known = host.formats()
        if unknown := [f for f in self.formats if f not in known]:
            raise UserError("no format of YOLOv5's export.py", got=unknown, accepted=known)
        if not 0 < self.margin < 1:
            raise UserError("--margin must be above 0 and below 1", got=self.margin)
        if self.calibration is not None and self.calibration < 1:
            raise UserError("--calibration must be at least 1", got=self.calibration)
        for form in self.forms:
            if form.backend in BACKENDS:
                Runtime(form.backend, self.batch, form.precision, device).check()
            elif form.precision != "fp32":
                raise UserError(
                    f"--precision {form.precision} is not for this", got=form.backend, accepted=tuple(QUANTISERS)
                )


def how_of(o: Options) -> How:
    """What a search deploys at its end."""
    return How(o.deploy, o.precision, margin=o.margin, batch=o.latency_batch)


@dataclass
class Network:
    """A trial's network on its way."""

    record: TrialRecord
    name: str
    folder: Path
    imgsz: int
    model: Any
    files: dict[Form, Path] = field(default_factory=dict)
    problems: dict[Form, str] = field(default_factory=dict)
    metrics: dict[Form, dict[str, float]] = field(default_factory=dict)
    kept: dict[Form, list[str]] = field(default_factory=dict)  # layers in FP32 where the others are quantised
    by_harm: list[str] = field(default_factory=list)  # layers, those first that bear INT8 worst, once that is known

    @property
    def weights(self) -> Path:
        """Its stock checkpoint."""
        return self.folder / "weights" / "best.pt"


class Exporter:
    """Writes the files of networks.

    Args:
        settings: of the run's trials, on the device to export on.
        seed: by which images are drawn.
        log: the folder whose log gets what YOLOv5 and the libraries say.

    Raises:
        UserError: YOLOv5 or this machine can't do it, or the data set has too few images.
    """

    def __init__(self, settings: Settings, how: How, seed: int, log: Path):
        self.settings, self.how, self.seed, self.log = settings, how, seed, log
        self.host, self.device = load(settings.location), torch.device(settings.device)
        how.check(self.host, settings.device)
        if how.calibration is not None and "int8" in {form.precision for form in how.forms}:
            count = len(plain_dataset(self.host, settings, settings.imgsz, STRIDE))
            if how.calibration > count:
                rule = "--calibration asks for more images than the data set has to train on"
                raise UserError(rule, got=how.calibration, accepted=f"1 to {count}")

    def export(self, network: Network) -> None:
        """All forms; of one that fails the network has the problem."""
        for form in self.how.forms:
            if problem := network.problems.get(form.plain):
                network.problems[form] = problem
                continue
            say(f"{network.name}: {form}")
            self.guarded(network, form, self._export)

    def guarded(self, network: Network, form: Form, do: Callable[[Network, Form], None]) -> None:
        """Do a step with a form unless an earlier one failed. Exporters and runtimes can raise anything."""
        if form in network.problems:
            return
        with log_to(self.log):
            try:
                do(network, form)
                return
            except Exception as e:
                if machine_fault(e):
                    raise
                traceback.print_exc()
                network.problems[form] = f"{e or type(e).__name__}".strip().splitlines()[0][:300]
        say(f"{network.name}, {form}: {network.problems[form]}")

    def _export(self, network: Network, form: Form) -> None:
        half = form.precision == "fp16"
        path = network.weights.with_name("best_fp16.pt" if half else "best.pt")
        if form.precision == "int8":
            found = self._quantised(network, form)
        else:
            half = half and self.device.type == "cuda"
            given = network.model, path, form.backend, network.imgsz, 1, half, self.device
            found = self.host.export(*given, **self.how.exporting)
        network.files[form] = found
        network.metrics[form] = {"megabytes": size_of(found) / 1e6}

    def _quantised(self, network: Network, form: Form) -> Path:
        """In INT8, with as few layers in FP32 as it takes to lose no more than the margin on training images."""
        images = plain_dataset(self.host, self.settings, network.imgsz, STRIDE)
        order = list(range(len(images)))
        random.Random(self.seed).shuffle(order)
        calibration = Calibration(images, order[: self.how.calibration or CALIBRATION])
        with tempfile.TemporaryDirectory() as folder:
            judging = Path(folder, "judging.txt")
            write_list(judging, (images.im_files[i] for i in order[-JUDGING:]))

            def accuracy(file: Path, precision: str = "int8") -> float:
                return self.accuracies(network, file, precision, {"val": str(judging)})["map50_95"]

            plain = network.files[form.plain]
            wanted = accuracy(plain, "fp32") - self.how.margin

            def ranking() -> list[str]:
                """Once for all runtimes. YOLOv5 writes the ONNX file for OpenVINO too."""
                file = network.weights.with_suffix(".onnx")
                if not network.by_harm and file.exists():
                    network.by_harm = by_harm(file, calibration[:FEW])
                return network.by_harm

            found, network.kept[form] = gently_quantised(plain, calibration, accuracy, wanted, ranking)
        return found

    def accuracies(
        self, network: Network, file: Path, precision: str, data: Mapping[str, str], split: str = "val"
    ) -> dict[str, float]:
        """mAP50 and mAP50-95 of an exported file, by YOLOv5's `val.run`.

        Args:
            data: entries of the data set in place of its own.
        """
        s = self.settings
        given = {"imgsz": network.imgsz, "single_cls": s.single_cls, "task": split, "workers": 0}
        results, _ = self.host.validate_exported(file, precision, self.device, data={**s.data, **data}, **given)
        return {"map50": results[2], "map50_95": results[3]}


class Calibration(Sequence[np.ndarray]):
    """Some images of a data set, (1, 3, imgsz, imgsz) from 0 to 1 each, read when they are needed."""

    def __init__(self, images: Any, places: Sequence[int]):
        self.images, self.places = images, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Calibration(self.images, self.places[index])
        return self.images[self.places[index]][0].numpy()[None].astype(np.float32) / 255


def size_of(path: Path) -> int:
    """Bytes of a file, or of a folder's files."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
