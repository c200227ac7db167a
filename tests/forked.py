"""Processes to be killed, forked by a server that has imported what takes long; what they start, they start as ever."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from places import TESTS

CONTEXT = multiprocessing.get_context("forkserver")


def serve(*modules: str) -> None:
    """Start the server, if it does not run, with these modules."""
    CONTEXT.set_forkserver_preload(list(modules))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)  # it takes modules from nowhere else of ours
        forkserver.ensure_running()


def start(function: Callable[..., Any], *args: Any, output: Path | None = None) -> BaseProcess:
    """Call a function in a session of its own.

    Args:
        output: a folder that gets what it prints, as `out.txt` and `err.txt`.
    """
    process = CONTEXT.Process(target=_call, args=(output, function, *args))
    process.start()
    return process


def _call(output: Path | None, function: Callable[..., Any], *args: Any) -> None:
    os.setsid()
    # As in a process that a shell starts: else YOLOv5's pool that reads labels has a server of its own import it anew.
    multiprocessing.set_start_method(None, force=True)
    if output:
        for stream, name in ((sys.stdout, "out.txt"), (sys.stderr, "err.txt")):
            os.dup2(os.open(output / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream.fileno())
    sys.exit(function(*args))
