"""The commands by which YOLOv5's own scripts take what a run found, with the run's own options."""

from __future__ import annotations

import shlex
from pathlib import Path

from ..records.journal import TrialRecord
from ..records.options import Options
from ..records.run_folder import RunFolder
from ..space.model_yaml import load_yaml

FLAGS = ("cos_lr", "rect", "multi_scale", "noautoanchor")  # of train.py, which has them by the same names


def command(script: str, o: Options, imgsz: object, *args: object) -> str:
    """Return the line for a shell that runs a script of YOLOv5 at a run's input size, classes, device and precision.

    Args:
        script: such as `val.py`.
        imgsz: input size in pixels; None if it is not known.
        args: of the script, besides.
    """
    found = [*args, *(["--imgsz", imgsz] if imgsz else [])]
    if o.single_cls and script in ("val.py", "train.py"):
        found.append("--single-cls")
    if o.device and o.engine != "ray":  # whose devices are those of its nodes
        found += ["--device", o.device.split(",")[0]]
        if o.precision == "fp16" and o.device != "cpu" and script != "train.py":
            found.append("--half")
    return f"{_program(script, o)} {shlex.join(map(str, found))}"


def _program(script: str, o: Options) -> str:
    """A script of the run's clone; of the package, which has none of its own, by our command."""
    if o.yolov5 == "package":
        return f"yolov5-nas with {script}"
    return f"python {shlex.quote(str(Path(o.yolov5) / script)) if o.yolov5 else script}"


def commands(run: Path, winner: TrialRecord, o: Options) -> dict[str, str]:
    """Return the lines that detect, validate, export and train on with the files in a run's `best/`."""
    files = RunFolder(run.resolve())
    weights, size = files.best / "weights" / "best.pt", winner.architecture.get("imgsz") or o.imgsz
    formats = o.deploy or (("onnx",) if o.latency_backend == "pytorch" else (o.latency_backend,))
    # What was trained before is worth keeping where trials started from weights.
    is_inherited = bool(winner.budget.get("weights"))
    start = ("--weights", weights) if is_inherited else ("--cfg", files.best / "model.yaml", "--weights", "")
    return {
        "detect": command("detect.py", o, size, "--weights", weights, "--source", "IMAGES"),
        "validate": command("val.py", o, size, "--weights", weights, "--data", o.data),
        "export": command("export.py", o, size, "--weights", weights, "--include", *formats),
        "train on": command("train.py", o, size, *start, "--data", o.data, *_training(files, is_inherited, o)),
    }


def _training(files: RunFolder, is_inherited: bool, o: Options) -> list[str]:
    """The options of train.py by which trials were trained."""
    hyp = files.inherit_hyp if is_inherited and files.inherit_hyp.exists() else files.hyp
    found, optimizer = ["--batch-size", str(o.batch_size)], o.optimizer
    if hyp.exists():
        found += ["--hyp", str(hyp)]
        optimizer = load_yaml(hyp)[0].get("optimizer", optimizer)
    found += ["--optimizer", optimizer] if optimizer else []
    found += ["--label-smoothing", str(o.label_smoothing)] if o.label_smoothing else []
    return [*found, *(f"--{name.replace('_', '-')}" for name in FLAGS if getattr(o, name))]
