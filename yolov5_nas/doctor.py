"""Whether a search can run on this machine: what is there, what is broken, and how to get or mend it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import host as hosts
from .derive import derive
from .engines.nni import check_nni, has_nni
from .errors import UserError
from .files import shipped
from .metrics import BACKENDS
from .space import Space, load_yaml

OK, ABSENT, BROKEN = "✓", "-", "✗"
PLAIN = {OK: "ok", BROKEN: "!!"}  # for terminals that have no such characters
FREE = 1.0  # GB of disk below which a search may end for want of it
IMGSZ = 64  # pixels, of the model by which backends are tried
PATIENCE = 120.0  # seconds for an import


@dataclass(frozen=True)
class Check:
    """What was found of one thing.

    Args:
        mark: `OK`, `ABSENT` (a search runs without it) or `BROKEN`.
        fix: what to do about it.
    """

    name: str
    mark: str
    text: str
    fix: str = ""


def doctor(yolov5: str | None = None, project: str = "runs/nas") -> Iterator[Check]:
    """Look at everything that a search may use, one after the other.

    Args:
        yolov5: as `--yolov5`.
        project: where runs would be kept.
    """
    yield _python()
    yield _torch()
    yield _cuda()
    os.environ.setdefault("YOLO_VERBOSE", "False")  # Ultralytics greets where it makes its settings
    host, check = _host(yolov5)
    yield check
    yield _nni()
    yield _ray()
    for backend in BACKENDS:
        yield _backend(backend, host)
    yield _plot_font()
    if host:
        yield _host_font(host)
    yield _disk("disk for runs", Path(project))
    yield _disk("disk for temporary files", Path(tempfile.gettempdir()))


def lines(check: Check, encoding: str | None) -> list[str]:
    """A check as lines of text, in characters that the terminal has."""
    try:
        mark = check.mark.encode(encoding or "ascii").decode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        mark = PLAIN[check.mark]
    first = f"{mark:<2} {check.name:<25} {check.text}"
    return [first, f"{'':<28} -> {check.fix}"] if check.fix else [first]


def _python() -> Check:
    good = (3, 10) <= sys.version_info < (3, 13)
    fix = "" if good else "use Python 3.10, 3.11 or 3.12"
    return Check("Python", OK if good else BROKEN, f"{platform.python_version()} at {sys.executable}", fix)


def _torch() -> Check:
    try:
        import torch
        import torchvision
    except Exception as e:  # a broken installation can raise anything
        return Check("torch", BROKEN, _line(e), "pip install torch torchvision")
    return Check("torch", OK, f"{torch.__version__}, torchvision {torchvision.__version__}")


def _cuda() -> Check:
    try:
        import torch

        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if names:
            torch.zeros(1, device="cuda:0")
            return Check("CUDA", OK, f"{torch.version.cuda}: {', '.join(names)}")
    except Exception as e:  # of torch, or of the driver
        return Check("CUDA", BROKEN, _line(e), "make torch and the NVIDIA driver fit: https://pytorch.org/get-started")
    if Path("/dev/nvidia0").exists():
        fix = "install the torch for CUDA (https://pytorch.org/get-started), and look at CUDA_VISIBLE_DEVICES"
        return Check("CUDA", BROKEN, "there is an NVIDIA GPU, and torch sees none", fix)
    return Check("CUDA", ABSENT, "no GPU: trials train on the CPU")


def _host(yolov5: str | None) -> tuple[hosts.Host | None, Check]:
    """YOLOv5 and what there is to say of it; None where it can't be used."""
    try:
        location = hosts.find(yolov5)
    except UserError as e:
        return None, Check("YOLOv5", BROKEN, e.rule.split(":")[0], hosts.GET_YOLOV5)
    try:
        host = hosts.load(location)
        host.build(_model())
        return host, Check("YOLOv5", OK, f"{_host_version(location)}, {location}")
    except UserError as e:
        fix = f"pip install -r {location.root}/requirements.txt" if isinstance(e.__cause__, ImportError) else ""
        return None, Check("YOLOv5", BROKEN, str(e), fix or hosts.GET_YOLOV5)
    except (Exception, SystemExit) as e:  # its files may be of any kind
        return None, Check("YOLOv5", BROKEN, f"{location} is broken: {_line(e)}", hosts.GET_YOLOV5)


def _host_version(location: hosts.Location) -> str:
    if location.kind == "package":
        return _version("yolov5")
    command = ["git", "-C", str(location.root), "describe", "--tags", "--always"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "version unknown (git does not say)"


def _nni() -> Check:
    name, get = "engine nni", "pip install 'yolov5-nas[nni]' (Linux on x86-64), or --engine local"
    if not has_nni():
        return Check(name, ABSENT, "NNI is not installed: searches run with --engine local", get)
    try:
        check_nni()
    except UserError as e:
        return Check(name, BROKEN, str(e), get)
    problem = _import_problem("nni.nas.experiment, pytorch_lightning")
    return Check(name, BROKEN, problem, get) if problem else Check(name, OK, f"NNI {_version('nni')}")


def _ray() -> Check:
    name, get = "engine ray", "pip install 'yolov5-nas[ray]'"
    if not find_spec("ray"):
        return Check(name, ABSENT, "Ray is not installed", get)
    problem = _import_problem("ray")
    return Check(name, BROKEN, problem, get) if problem else Check(name, OK, f"Ray {_version('ray')}")


def _backend(backend: str, host: hosts.Host | None) -> Check:
    """Whether a model runs on a backend, by one forward pass of a small one."""
    name = f"latency on {backend}"
    if host is None:
        return Check(name, ABSENT, "can't be tried without YOLOv5")
    try:
        import torch

        from .latency import PACKAGES, Runtime, prepare

        runtime = Runtime(backend, device="cuda:0" if torch.cuda.is_available() else "cpu")
        if backend == "engine" and runtime.device == "cpu":
            return Check(name, ABSENT, "TensorRT needs an NVIDIA GPU")
        try:
            runtime.check()
        except UserError as e:
            return Check(name, ABSENT, str(e))
        with tempfile.TemporaryDirectory() as folder, torch.no_grad(), host.quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            prepare(host.build(_model()), IMGSZ, runtime, host, Path(folder, "model"))()
        used = runtime.conditions(IMGSZ)
        return Check(name, OK, f"{used['runtime']} on {used['device']}")
    except Exception as e:  # a runtime can raise anything
        packages = PACKAGES[backend] or ("torch",)
        return Check(name, BROKEN, _line(e), f"pip install --force-reinstall {' '.join(packages)}")


def _plot_font() -> Check:
    try:
        from matplotlib.font_manager import findfont

        return Check("font of the pictures", OK, findfont("DejaVu Sans", fallback_to_default=False))
    except Exception as e:  # ValueError where there is none
        return Check("font of the pictures", BROKEN, _line(e), "pip install --force-reinstall matplotlib")


def _host_font(host: hosts.Host) -> Check:
    """YOLOv5's own scripts fetch a font that they lack; a search does not."""
    path = Path(host.general.CONFIG_DIR) / "Arial.ttf"
    if path.exists():
        return Check("font of YOLOv5's scripts", OK, str(path))
    text = "YOLOv5's val.py and train.py fetch Arial.ttf when they first run; a search needs none"
    return Check("font of YOLOv5's scripts", ABSENT, text, f"offline: copy any .ttf to {path}")


def _disk(name: str, folder: Path) -> Check:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free / 1e9
    text = f"{free:.1f} GB free at {there}"
    if not os.access(there, os.W_OK):
        return Check(name, BROKEN, f"{there} can't be written", "give another --project, or set TMPDIR")
    return Check(name, OK, text) if free >= FREE else Check(name, BROKEN, text, f"make {FREE:g} GB free")


def _model() -> dict[str, Any]:
    """Stock yolov5n."""
    space = Space.from_dict(load_yaml(shipped("models") / "yolov5n_nas.yaml")[0])
    return derive(space, space.default())


def _import_problem(modules: str) -> str:
    """What goes wrong when modules are imported in a fresh process; "" where nothing does."""
    command = [sys.executable, "-W", "ignore", "-c", f"import {modules}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return f"its import takes longer than {PATIENCE:g} s"
    return "" if done.returncode == 0 else f"it can't be imported: {(done.stderr.splitlines() or ['it crashed'])[-1]}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "version unknown"


def _line(e: BaseException) -> str:
    return f"{type(e).__name__}: {e}".splitlines()[0][:300]
