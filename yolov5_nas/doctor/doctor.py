"""Whether a search can run on this machine: what is there, what is broken, and how to get or fix it.

A quick look reads versions and files, asks programs that answer at once, and imports nothing heavy. A thorough one also
tries each thing.
"""

from __future__ import annotations

import ast
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..engines.nni.checks import check_nni, has_nni
from ..errors import UserError
from ..files import absolute, is_file, shipped
from ..host.compat import MODULES
from ..host.locate import GET_YOLOV5, Location, find
from ..host.yolov5 import load
from ..records.metrics import BACKENDS, PACKAGES, QUANTISERS
from ..space.compile import derive
from ..space.model_yaml import load_yaml
from ..space.space import Space
from . import packages
from .check import ABSENT, BROKEN, OK, Check, first_line

FREE = 1.0  # GB of disk below which a search may end for want of it
IMGSZ = 64  # pixels, of the model by which backends are tried
QUICK = 3.0  # seconds for a program that should answer at once
DEVICES = Path("/dev")
CUDA_BUILD = "install the torch for CUDA (https://pytorch.org/get-started), and look at CUDA_VISIBLE_DEVICES"
CUDA_FIT = "make torch and the NVIDIA driver fit: https://pytorch.org/get-started"


def doctor(yolov5: str | None = None, project: str = "runs/nas", thorough: bool = False) -> Iterator[Check]:
    """Look at everything that a search may use, one after the other.

    Args:
        yolov5: as `--yolov5`.
        project: where runs would be kept.
        thorough: also import everything, build a model and run it on each backend. Else nothing heavy is imported.
    """
    tried: Callable[[Check], Check] = Check.tried if thorough else lambda check: check
    yield _python()
    yield _requirements()
    yield tried(_torch())
    yield (cuda := tried(_cuda()))
    location, check = _host(yolov5)
    yield (host := tried(check))
    usable = location if host.mark == OK else None
    yield tried(_nni())
    yield tried(_ray())
    for backend in BACKENDS:
        yield tried(_backend(backend, cuda.mark == OK, usable))
        if QUANTISERS.get(backend) not in (None, *PACKAGES[backend]):
            yield tried(_quantiser(backend))
    yield tried(_plot_font())
    if usable:
        yield _host_font()
    yield _disk("disk for runs", lambda: absolute(project), "give another --project")
    yield _disk("disk for temporary files", lambda: Path(tempfile.gettempdir()), "set TMPDIR")


# What is looked at ----------------------------------------------------------------------------------------------------


def _python() -> Check:
    good = (3, 10) <= sys.version_info < (3, 15)
    text = f"{platform.python_version()} at {sys.executable}"
    return Check("Python", OK if good else BROKEN, text, "use Python 3.10 to 3.14")


def _requirements() -> Check:
    """What a search imports besides torch."""
    name, required = "required packages", [r for r in packages.required_packages().values() if not r.marker]
    if not required:
        return Check(name, ABSENT, "not known, since yolov5-nas is not installed", "pip install . in its folder")
    bad = [r for r in required if not packages.folder_of(r.name) or packages.problem_of(r.name)]
    check = packages.look(name, [r.name for r in required], f"pip install {' '.join(repr(str(r)) for r in bad)}")
    return check if bad else replace(check, text=f"all {len(required)} are installed")


def _torch() -> Check:
    return packages.look("torch", ("torch", "torchvision"), "pip install torch torchvision", attempt=_try_torch)


def _try_torch(check: Check) -> Check:
    import torch
    import torchvision

    return replace(check, text=f"torch {torch.__version__}, torchvision {torchvision.__version__}")


def _cuda() -> Check:
    name = "CUDA"
    try:
        gpus = _gpus()
    except UserError as e:
        return Check(name, BROKEN, str(e), CUDA_FIT, _try_cuda)
    if not gpus:
        return Check(name, ABSENT, "no GPU: trials train on the CPU", attempt=_try_cuda)
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return Check(name, BROKEN, "there is an NVIDIA GPU, and CUDA_VISIBLE_DEVICES hides it", CUDA_BUILD, _try_cuda)
    if version := _cuda_of_torch():
        return Check(name, OK, f"{', '.join(gpus)}; torch is built for CUDA {version}", attempt=_try_cuda)
    torch = "the installed torch is for the CPU only" if packages.folder_of("torch") else "torch is not installed"
    return Check(name, BROKEN, f"there is an NVIDIA GPU, and {torch}", CUDA_BUILD, _try_cuda)


def _try_cuda(check: Check) -> Check:
    try:
        import torch

        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if names:
            torch.zeros(1, device="cuda:0")
    except ImportError:  # said of torch
        return check
    except Exception as e:  # of torch, or of the driver
        return replace(check, mark=BROKEN, text=first_line(e), fix=CUDA_FIT)
    if names:
        return replace(check, mark=OK, text=f"{', '.join(names)}; torch is built for CUDA {torch.version.cuda}")
    if check.mark == OK:
        return replace(check, mark=BROKEN, text="there is an NVIDIA GPU, and torch sees none", fix=CUDA_FIT)
    return check


def _gpus() -> list[str]:
    """The NVIDIA GPUs of this machine.

    Raises:
        UserError: there is one, and its driver does not answer.
    """
    devices = sorted(DEVICES.glob("nvidia[0-9]*"))
    unnamed = [f"GPU {device.name.removeprefix('nvidia')}" for device in devices]
    program = shutil.which("nvidia-smi")
    if not program:
        return unnamed
    try:
        done = subprocess.run(
            [program, "-L"], capture_output=True, text=True, timeout=QUICK, check=False, encoding="utf-8"
        )
    except (OSError, subprocess.TimeoutExpired):
        return unnamed
    if devices and done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"nvidia-smi: {said[0]}")
    return re.findall(r"^GPU \d+: (.+) \(UUID", done.stdout, re.M) or unnamed


def _cuda_of_torch() -> str:
    """The CUDA that the installed torch is built for; "" for none."""
    folder = packages.folder_of("torch")
    file = folder / "version.py" if folder else None
    found = (
        re.search(r"^cuda\b.*'([\d.]+)'", file.read_text(encoding="utf-8"), re.M) if file and file.is_file() else None
    )
    return found[1] if found else ""


def _host(yolov5: str | None) -> tuple[Location | None, Check]:
    """Where YOLOv5 is, and what there is to say of it."""
    name = "YOLOv5"
    try:
        location = find(yolov5)
        damage = _damage(location.root)
    except UserError as e:
        problem = f": {e.got} {_damage(Path(str(e.got)))}" if e.got else ""
        return None, Check(name, BROKEN, e.rule.split(":")[0] + problem, GET_YOLOV5)
    except OSError as e:  # it may not be read
        return None, Check(name, BROKEN, first_line(e), GET_YOLOV5)
    if damage:
        return location, Check(name, BROKEN, f"{location} {damage}", GET_YOLOV5)
    if location.kind == "package" and (problem := packages.problem_of("yolov5")):
        return location, Check(name, BROKEN, problem, "pip install 'yolov5-nas[yolov5]'")
    text = f"{_host_version(location)}, {location}"
    return location, Check(name, OK, text, GET_YOLOV5, partial(_try_host, location))


def _try_host(location: Location, check: Check) -> Check:
    os.environ.setdefault("YOLO_VERBOSE", "False")  # Ultralytics greets where it makes its settings
    try:
        load(location).build(_model())
    except UserError as e:
        if not isinstance(e.__cause__, ImportError):
            raise
        clone = location.kind == "clone"
        fix = f"pip install -r {location.root}/requirements.txt" if clone else "pip install 'yolov5-nas[yolov5]'"
        return replace(check, mark=BROKEN, text=str(e), fix=fix)
    except (Exception, SystemExit) as e:  # its files may be of any kind
        return replace(check, mark=BROKEN, text=f"{location} is broken: {first_line(e)}")
    return check


def _damage(root: Path) -> str:
    """What is wrong with YOLOv5's files, as far as that shows without importing them; "" for nothing."""
    files = [f"{name.replace('.', '/')}.py" for name in MODULES if name != "models"]
    if missing := [file for file in files if not is_file(root / file)]:
        return f"lacks {missing[0]}" + (f" and {len(missing) - 1} more files" if missing[1:] else "")
    for file in files:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of escapes in strings
                ast.parse((root / file).read_bytes(), file)
        except (SyntaxError, ValueError) as e:
            return f"is broken: {first_line(e)}"
    common = (root / "models/common.py").read_text(encoding="utf-8")
    conv = re.search(r"^class Conv\(.*?def __init__\((.*?)\)", common, re.M | re.S)
    return "" if conv and " d=" in conv[1] else "must be v7.0 or newer (its Conv has no dilation)"


def _host_version(location: Location) -> str:
    if location.kind == "package":
        return packages.version_of("yolov5") or "version unknown"
    unknown = "version unknown (git does not say)"
    if not (location.root / ".git").exists():  # git would tell of a repository around it
        return unknown
    command = ["git", "-C", str(location.root), "describe", "--tags", "--always"]
    try:
        return subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=QUICK, encoding="utf-8"
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return unknown


def _nni() -> Check:
    name, get = "engine nni", "pip install 'yolov5-nas[nni]' (Linux on x86-64), or --engine local"
    if not has_nni():
        return Check(name, ABSENT, "NNI is not installed: searches run with --engine local", get)
    attempt = packages.importing("nni.nas.experiment, pytorch_lightning")
    try:
        check_nni()
    except UserError as e:
        return Check(name, BROKEN, str(e), get)
    return packages.look(name, ("nni", "pytorch_lightning"), get, attempt=attempt)


def _ray() -> Check:
    return packages.look("engine ray", ("ray",), "pip install 'yolov5-nas[ray]'", ABSENT, packages.importing("ray"))


def _backend(backend: str, gpu: bool, location: Location | None) -> Check:
    """Whether latency can be measured on a backend."""
    name, needed = f"latency on {backend}", PACKAGES[backend] or ("torch",)
    if backend == "engine" and not gpu:
        return Check(name, ABSENT, "TensorRT needs an NVIDIA GPU")
    attempt = partial(_try_backend, backend, gpu, location)
    return packages.look(name, needed, f"pip install {' '.join(needed)}", ABSENT, attempt)


def _quantiser(backend: str) -> Check:
    """Whether networks can be made INT8 for a backend."""
    own = QUANTISERS[backend]
    return packages.look(f"INT8 on {backend}", (own,), f"pip install {own}", ABSENT, packages.importing(own))


def _try_backend(backend: str, gpu: bool, location: Location | None, check: Check) -> Check:
    """One forward pass of a small model."""
    if location is None:
        return replace(check, mark=ABSENT, text="can't be tried without YOLOv5", fix="")
    import torch

    from ..cost.latency import Runtime, prepare

    host, runtime = load(location), Runtime(backend, device="cuda:0" if gpu else "cpu")
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), host.quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepare(host.build(_model()), IMGSZ, runtime, host, Path(folder, "model"))()
    used = runtime.conditions(IMGSZ)
    return replace(check, text=f"{used['runtime']} on {used['device']}")


def _plot_font() -> Check:
    name, fix = "font of the pictures", "pip install --force-reinstall matplotlib"
    folder = packages.folder_of("matplotlib")
    if folder is None:
        return Check(name, BROKEN, "not installed: matplotlib", fix)
    path = folder / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    if not path.is_file():
        return Check(name, BROKEN, f"{path} is missing", fix)
    return Check(name, OK, str(path), fix, _try_plot_font)


def _try_plot_font(check: Check) -> Check:
    from matplotlib.font_manager import findfont

    return replace(check, text=findfont("DejaVu Sans", fallback_to_default=False))  # ValueError where there is none


def _host_font() -> Check:
    """YOLOv5's own scripts fetch a font that they lack; a search does not."""
    try:
        config = Path.home() / ".config"
    except RuntimeError:  # a user without a home, as in containers
        config = Path("/")
    folder = (config if os.access(config, os.W_OK) else Path("/tmp")) / "Ultralytics"
    path = Path(os.environ.get("YOLOV5_CONFIG_DIR") or folder) / "Arial.ttf"  # as `utils.general.CONFIG_DIR`
    if os.access(path, os.F_OK):
        return Check("font of YOLOv5's scripts", OK, str(path))
    text = "YOLOv5's val.py and train.py fetch Arial.ttf when they first run; a search needs none"
    return Check("font of YOLOv5's scripts", ABSENT, text, f"offline: copy any .ttf to {path}")


def _disk(name: str, find_folder: Callable[[], Path], fix: str) -> Check:
    try:
        folder = find_folder()
    except (OSError, UserError) as e:  # the working directory is gone, or no temporary folder can be written
        return Check(name, BROKEN, first_line(e), fix)
    there = next(path for path in (folder, *folder.parents) if os.access(path, os.F_OK))
    if not there.is_dir() or not os.access(there, os.W_OK):
        return Check(name, BROKEN, f"{there} is no folder that can be written", fix)
    free = shutil.disk_usage(there).free / 1e9
    return Check(name, OK if free >= FREE else BROKEN, f"{free:.1f} GB free at {there}", f"make {FREE:g} GB free")


def _model() -> dict[str, Any]:
    """Stock yolov5n."""
    space = Space.from_dict(load_yaml(shipped("models") / "yolov5n_nas.yaml")[0])
    return derive(space, space.default())
