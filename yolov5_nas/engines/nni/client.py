"""What NNI runs as a trial: a stand-in that costs 40 ms. The trial itself runs in a process of the engine's.

It asks the manager for its parameters, tells the search which NNI trial they went to, and stays until the search says
how the trial ended. It is run as a script, without site-packages, and so imports nothing but the standard library; the
two requests are NNI's own protocol (`nni.runtime.command_channel.http`), whose module takes seconds to import.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
import time
from typing import Any
from urllib.parse import urlsplit

SOCKET = "engine.sock"


def main(folder: str) -> int:
    """Returns the exit code that NNI shows as SUCCEEDED (0) or FAILED."""
    record = _parameters(os.environ["NNI_TRIAL_COMMAND_CHANNEL"])
    if record is None:
        return 1
    hello = {
        "number": record["parameters"]["trial"],
        "architecture": record["parameters"]["architecture"],
        "parameter_id": record["parameter_id"],
        "job": os.environ["NNI_TRIAL_JOB_ID"],
        "output": os.environ["NNI_OUTPUT_DIR"],
        "path": urlsplit(os.environ["NNI_TRIAL_COMMAND_CHANNEL"]).path,
    }
    with connect(folder) as engine:
        engine.sendall(json.dumps(hello).encode() + b"\n")
        return int(engine.recv(1) or b"1")  # nothing: the search is gone


def connect(folder: str) -> socket.socket:
    """The engine's socket in a folder, whose path may be longer than the 107 bytes that a socket's may have."""
    descriptor = os.open(folder, os.O_PATH)
    try:
        engine = socket.socket(socket.AF_UNIX)
        engine.connect(f"/proc/self/fd/{descriptor}/{SOCKET}")
        return engine
    finally:
        os.close(descriptor)


def _parameters(url: str) -> dict[str, Any] | None:
    """Ask the manager; None once it has stopped serving."""
    parts = urlsplit(url)
    manager = http.client.HTTPConnection(parts.hostname or "", parts.port)  # it may be slow
    _request(manager, "PUT", parts.path, json.dumps({"type": "request_parameter"}))
    while True:
        status, body = _request(manager, "GET", parts.path)
        if status == 200:
            return json.loads(json.loads(body)["parameter"])
        if status != 408:  # 408: not yet
            return None
        time.sleep(0.05)


def _request(manager: http.client.HTTPConnection, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
    manager.request(method, path, body, {"Content-Type": "application/json"})
    response = manager.getresponse()
    return response.status, response.read()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
