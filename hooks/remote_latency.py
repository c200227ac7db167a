"""Milliseconds of a forward pass on another device, over SSH, as the metric `remote_ms`.

The model is exported to ONNX and copied to HOST, where COMMAND runs with the file's path for {model}. The last number
that it prints is taken. Nothing is asked and no host key is accepted unseen, so log in once by hand before:

    --hook "remote_latency HOST=pi@10.0.0.7 'COMMAND=python3 time_onnx.py {model}'"
"""

import re
import shlex
import subprocess
import tempfile
from pathlib import Path

HOST = ""  # [user@]host, or a name in ~/.ssh/config
COMMAND = ""  # what prints the milliseconds; {model} is the ONNX file there
SSH = ""  # further options of ssh and scp, such as "-i ~/.ssh/pi -o Port=2222"
FOLDER = "/tmp"  # on the device, for the ONNX file while it is measured
SECONDS = 300.0  # after which the device is given up
OPSET = 12
PRECISION = "fp32"  # or int8, quantised by ONNX Runtime's own tool; the figures in it are not calibrated


def measure(model, imgsz):
    from filelock import FileLock

    if PRECISION not in ("fp32", "int8"):
        raise RuntimeError(f"PRECISION must be fp32 or int8, not {PRECISION}")
    if not HOST or "{model}" not in COMMAND:
        raise RuntimeError("set HOST and COMMAND (with {model}): --hook \"remote_latency HOST=... 'COMMAND=...'\"")
    # One measurement at a time, whatever trials this machine trains meanwhile.
    lock = Path(tempfile.gettempdir(), "yolov5-nas-remote-" + re.sub(r"\W", "-", HOST) + ".lock")
    with tempfile.TemporaryDirectory() as folder, FileLock(lock):
        file = Path(folder, "model.onnx")
        write_onnx(model, imgsz, file)
        file = quantised(file, imgsz) if PRECISION == "int8" else file
        return {"remote_ms": remote_milliseconds(file)}


def write_onnx(model, imgsz, file):
    """The model as ONNX: images (1, 3, imgsz, imgsz) to predictions (1, boxes, 5 + classes), as YOLOv5 exports it."""
    import torch

    model = model.cpu().eval()
    model.model[-1].export = True  # predictions alone
    torch.onnx.export(
        model,
        torch.zeros(1, 3, imgsz, imgsz),
        str(file),
        opset_version=OPSET,
        input_names=["images"],
        output_names=["output0"],
        dynamo=False,  # the newer exporter needs a further package
    )


def quantised(file, imgsz):
    """The file in INT8, by two images of noise: what they hold does not change the time."""
    from yolov5_nas.cost import latency, quantisation

    return quantisation.quantised(file, latency.noise((1, 3, imgsz, imgsz)))


def remote_milliseconds(file):
    remote = run("ssh", HOST, f"mktemp {shlex.quote(FOLDER)}/yolov5-nas-XXXXXX").strip()
    try:
        run("scp", "-q", str(file), f"{HOST}:{remote}")
        printed = run("ssh", HOST, COMMAND.replace("{model}", shlex.quote(remote)))
    finally:
        run("ssh", HOST, f"rm -f {shlex.quote(remote)}")
    numbers = re.findall(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?", printed)
    if not numbers:
        raise RuntimeError(f"the command printed no number but {printed[-200:]!r}")
    return float(numbers[-1])


def run(program, *arguments):
    """What a program prints.

    Raises:
        RuntimeError: it failed; with the last line of what it said.
    """
    options = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=10", *shlex.split(SSH)]
    try:
        done = subprocess.run(
            [program, *options, *arguments], capture_output=True, text=True, timeout=SECONDS, encoding="utf-8"
        )
    except FileNotFoundError:
        raise RuntimeError(f"{program} is not installed: apt install openssh-client") from None
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{HOST} did not answer in {SECONDS:g} s") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise RuntimeError(f"{program} {HOST}: {said}")
    return done.stdout
