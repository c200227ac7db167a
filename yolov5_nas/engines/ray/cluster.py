"""Joining a Ray cluster, or starting a Ray of this machine that listens on 127.0.0.1 alone."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from ...errors import UserError
from ..contract import EngineError, cores

STORE = 256 * 2**20  # bytes of a local Ray's object store
SUFFIXES = {".py", ".yaml", ".yml", ".json", ".txt"}  # of a folder of code that is sent along
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


# Checks and small things ----------------------------------------------------------------------------------------------


def check_numbers(cpus: float, gpus: float, concurrency: int | None, trial_minutes: float | None) -> None:
    """Raise a UserError unless a trial asks for amounts that Ray can give."""
    if not cpus > 0 or (cpus > 1 and cpus % 1):
        raise UserError("--cpus-per-trial must be a share of a core or a whole number of them", got=cpus)
    if gpus < 0 or (gpus > 1 and gpus % 1):
        raise UserError("--gpus-per-trial must be 0, a share of a GPU or a whole number of them", got=gpus)
    if concurrency is not None and concurrency < 1:
        raise UserError("--concurrency must be at least 1", got=concurrency)
    if trial_minutes is not None and not trial_minutes > 0:
        raise UserError("the minutes of a trial must be above 0", got=trial_minutes)


def check_address(address: str) -> None:
    """Raise a UserError unless something answers at HOST:PORT."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError("--address must be auto or HOST:PORT", got=address)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError) as e:
        raise UserError(f"no Ray answers there ({e})", got=address) from None


def import_ray(address: str | None) -> Any:
    """Ray, told to report to nobody, and where it starts here to stay on this machine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address is None:
        # Ray then takes 127.0.0.1 for its own address, and binds to it alone. Read when it is imported.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default, and latencies are measured there
    elif "RAY_AUTH_MODE" not in os.environ and _has_token():
        os.environ["RAY_AUTH_MODE"] = "token"  # what a cluster whose head found a token wants
    return importlib.import_module("ray")


def _has_token() -> bool:
    given = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    return given or (Path.home() / ".ray" / "auth_token").is_file()


def stage(paths: Sequence[Path], folder: Path) -> None:
    """Copy what nodes need into a folder, by name; of folders their code alone."""
    for path in paths:
        if path.is_dir():
            shutil.copytree(path, folder / path.name, ignore=_no_code)
        else:
            shutil.copy(path, folder / path.name)


def _no_code(folder: str, names: list[str]) -> set[str]:
    """What of a folder is no code: data, weights, runs, version control."""
    skipped = {"__pycache__", "runs", "datasets", "wandb", "node_modules", "venv"}
    return {
        name
        for name in names
        if name in skipped or name.startswith(".") or ((f := Path(folder, name)).is_file() and f.suffix not in SUFFIXES)
    }


def reason(e: BaseException) -> str:
    """An error of Ray's in one line."""
    cause = getattr(e, "cause", None)
    text = str(cause if isinstance(cause, Exception) else e)
    return " ".join(line.strip() for line in text.strip().splitlines()[-3:])[-400:]


def connections(process: psutil.Process) -> list[Any]:
    try:
        return process.net_connections("inet")
    except psutil.Error:
        return []


@contextlib.contextmanager
def signals_kept() -> Iterator[None]:
    """Ray sets a handler of its own for SIGTERM."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


def join(ray: Any, address: str, common: Mapping[str, Any]) -> None:
    """Connect to a cluster that runs.

    Raises:
        UserError: none answers.
    """
    if address != "auto":
        check_address(address)
    try:
        ray.init(address=address, **common)
    except (ConnectionError, RuntimeError, ValueError) as e:
        raise UserError(f"no Ray could be joined ({reason(e)})", got=address) from None


def start_here(ray: Any, common: Mapping[str, Any]) -> None:
    """Start a Ray on this machine.

    Raises:
        EngineError: it does not start, or listens where other machines may reach it.
    """
    try:
        ray.init("local", num_cpus=cores(), include_dashboard=False, object_store_memory=STORE, **common)
    except Exception as e:  # Ray's own are of no class of theirs
        raise EngineError(f"Ray does not start on this machine: {reason(e)}") from None
    own = psutil.Process()
    processes = [own, *own.children(recursive=True)]
    found = [c.laddr for p in processes for c in connections(p) if c.status == psutil.CONN_LISTEN]
    others = [f"{a.ip}:{a.port}" for a in found if a.ip not in LOOPBACK]
    if others:
        raise EngineError(f"Ray listens on {', '.join(others)}, which other machines may reach")
