"""Runs the jobs of a benchmark in processes of their own, and keeps what came of each in a file."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Protocol

from yolov5_nas.engines.local import end_with

SHOWN = {"map50_95": "mAP50-95", "latency_ratio": "latency / parent"}


class Job(Protocol):
    """What is done in one call."""

    @property
    def labels(self) -> dict[str, Any]:
        """By which it is known what was done; they become part of its line."""


def lines_of(
    jobs: Sequence[Job], do: Callable[..., dict[str, Any]], file: Path, processes: int, *given: Any
) -> list[Any]:
    """The lines of a file, after those jobs were done that it lacks; one that is cut off goes on there.

    Args:
        do: called as `do(job, *given)` on one thread; its metrics become a line.
    """
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    left = [job for job in jobs if not any(job.labels.items() <= line.items() for line in lines)]
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _start, (os.getpid(),)) as pool:
        futures = {pool.submit(do, job, *given): job for job in left}
        for number, future in enumerate(as_completed(futures), 1):
            line = {**future.result(), **futures[future].labels}
            with file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(line) + "\n")
            lines.append(line)
            what = ", ".join(f"{name} {value}" for name, value in futures[future].labels.items())
            shown = ", ".join(f"{label} {line[key]:.4f}" for key, label in SHOWN.items() if key in line)
            print(f"[{number}/{len(left)}] {what}: {shown}", flush=True)
    return lines


def _start(parent: int) -> None:
    """The processes end with a benchmark that is killed."""
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
