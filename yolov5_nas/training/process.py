"""A trial's process: its log, random numbers and memory, the data sets that it keeps, what its errors are called."""

from __future__ import annotations

import contextlib
import gc
import logging
import multiprocessing
import os
import random
import re
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import TrialError, machine_fault
from ..host.compat import patched
from ..host.yolov5 import Host, load
from ..records.run_folder import TrialFolder
from .settings import Settings

MEMORY = "out of memory|ALLOC_FAILED|can't allocate memory|not enough memory"  # as torch and CUDA's libraries say it
AUGMENTATION = (  # the hyper-parameters that a data set reads
    *("hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear", "perspective", "flipud", "fliplr"),
    *("mosaic", "mixup", "copy_paste"),
)


@contextlib.contextmanager
def as_trial(settings: Settings, folder: Path | None) -> Iterator[Host]:
    """The host, logging into the folder; what is raised leaves as a TrialError."""
    with log_to(folder), global_state_kept():
        try:
            host = load(settings.location)
            with host.compatible():
                yield host
        except TrialError as e:
            _write_traceback()
            _forget_model(e)
            raise
        except Exception as e:
            _write_traceback()
            _forget_model(e)
            if fault := machine_fault(e):
                raise TrialError("machine", fault) from e
            reason = "oom" if is_out_of_memory(e) else "crash"
            raise TrialError(reason, f"{type(e).__name__}: {e}".splitlines()[0][:500]) from e


def _forget_model(e: Exception) -> None:
    """Whoever keeps the error does not keep a model with it, and the next trial finds the memory free.

    While the error's frames held the training, nothing could be given back.
    """
    traceback.clear_frames(e.__traceback__)
    free_memory()


def _write_traceback() -> None:
    """Into the log, if that can be written."""
    with contextlib.suppress(OSError):
        traceback.print_exc()


# The process ----------------------------------------------------------------------------------------------------------

_datasets: dict[str, Any] = {}


@contextlib.contextmanager
def dataset_kept(host: Host) -> Iterator[None]:
    """Within this block the host's `create_dataloader` gets a data set that an earlier trial of this process loaded."""
    stock = host.dataloaders.LoadImagesAndLabels

    def kept(path: Any, imgsz: int, batch: int, **kwargs: Any) -> Any:
        hyp = [(name, kwargs["hyp"].get(name)) for name in AUGMENTATION]
        key = repr((path, imgsz, batch, hyp, sorted((k, v) for k, v in kwargs.items() if k != "hyp")))
        if key not in _datasets:
            # Reading images draws random numbers, which a trial that finds them read does not.
            state = random.getstate()
            _datasets[key] = stock(path, imgsz, batch, **kwargs)
            random.setstate(state)
        return _datasets[key]

    kept.collate_fn, kept.collate_fn4 = stock.collate_fn, stock.collate_fn4  # type: ignore[attr-defined]
    with patched(host.dataloaders, LoadImagesAndLabels=kept):
        yield


@contextlib.contextmanager
def forking() -> Iterator[None]:
    """Loaders made in this block fork their processes, as in `train.py`, also where this process was spawned itself.

    Spawned ones would import torch and YOLOv5 again, each, and need a data set that can be pickled.
    """
    method = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("fork", force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(method, force=True)


@contextlib.contextmanager
def log_to(folder: Path | None) -> Iterator[None]:
    """What the host prints goes into the trial's log."""
    if folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    log = TrialFolder(folder).log
    with log.open("a", buffering=1, encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} process {os.getpid()}\n")
        for handler in _stream_handlers():
            handler.setStream(file)
        try:
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield
        finally:
            for handler in _stream_handlers():  # also those of a host that was imported in the block
                handler.setStream(sys.__stderr__)


def _stream_handlers() -> list[Any]:
    """The handlers through which the hosts write to the terminal."""
    loggers = [logging.getLogger(name) for name in ("yolov5", "ultralytics", "")]
    return [h for logger in loggers for h in logger.handlers if type(h) is logging.StreamHandler]


@contextlib.contextmanager
def global_state_kept() -> Iterator[None]:
    """Seeds and determinism that YOLOv5's `init_seeds` sets are set back, since the caller may be a user's script."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    deterministic = torch.are_deterministic_algorithms_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    hash_seed = os.environ.get("PYTHONHASHSEED")
    try:
        yield
    finally:
        random.setstate(python), np.random.set_state(numpy), torch.set_rng_state(cpu)
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
        if hash_seed is None:
            os.environ.pop("PYTHONHASHSEED", None)
        else:
            os.environ["PYTHONHASHSEED"] = hash_seed


def free_memory() -> None:
    """Give back what a training that is over had: its schedule and optimizer refer to each other in circles."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def is_out_of_memory(e: BaseException) -> bool:
    """Whether memory was short, in the words of torch or of CUDA's libraries."""
    is_said = isinstance(e, RuntimeError) and re.search(MEMORY, str(e)) is not None
    return is_said or isinstance(e, torch.OutOfMemoryError | MemoryError)
