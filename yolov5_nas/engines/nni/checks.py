"""Whether NNI is installed and runs here, and which ports are free."""

from __future__ import annotations

import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from ...errors import UserError

PORT, HOST = 8083, "127.0.0.1"
HOSTS = ("127.0.0.1", "0.0.0.0")


# Checks ---------------------------------------------------------------------------------------------------------------


def has_nni() -> bool:
    """Whether NNI is installed, without importing it, on a system that this engine knows."""
    return sys.platform == "linux" and find_spec("nni") is not None and find_spec("nni_node") is not None


def check_nni() -> None:
    """Raise a UserError unless NNI is installed and its node program runs here."""
    if not has_nni():
        raise UserError(
            "--engine nni needs NNI 3.0: pip install 'yolov5-nas[nni]' (Linux on x86-64: it has no other wheel),"
            " or take --engine local"
        )
    spec = find_spec("nni_node")
    assert spec and spec.submodule_search_locations
    node = Path(spec.submodule_search_locations[0]) / "node"
    try:
        subprocess.run([node, "--version"], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as e:
        raise UserError(f"NNI's node program does not start here ({e}); take --engine local", file=node) from None


def is_free(port: int, host: str) -> bool:
    """Whether a server could listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError):
            return False
    return True


def free_ports(host: str) -> list[int]:
    """A few free ports from 8083 on.

    Raises:
        UserError: there is none.
    """
    ports = [port for port in range(PORT, PORT + 200) if is_free(port, host)][:5]
    if not ports:
        raise UserError(f"no port from {PORT} to {PORT + 199} is free; name one by --port")
    return ports
