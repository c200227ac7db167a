"""How far a process that measures without pause slows down the trainings beside it.

    python benchmarks/fair_turns.py --seconds 60

Two trainings (yolov5n on the digits, 128 px, one thread each) run beside a process that keeps one core busy, then
beside one that measures a latency over and over, as searches do before each trial. Prints the trainings' images per
second in both, and their ratio. Wanted: at least 0.6.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "10000"}

import torch

from yolov5_nas.cost.device_lock import DeviceLock, LockedLoader
from yolov5_nas.cost.latency import Runtime, latency
from yolov5_nas.digits import render
from yolov5_nas.files import shipped
from yolov5_nas.host.dataset import check_data, resolve_data
from yolov5_nas.host.yolov5 import load
from yolov5_nas.space.compile import derive, dump_model
from yolov5_nas.space.model_yaml import load_yaml
from yolov5_nas.space.space import Space

IMGSZ, BATCH = 128, 16
SPACE = Space.from_yaml(shipped("models") / "yolov5n_elastic.yaml", nc=10)


def train(folder: str, images: Any) -> None:
    """Train without end, counting images."""
    host = load()
    model = host.build(derive(SPACE, SPACE.default())).train()
    data, _ = load_yaml(shipped("data") / "digits.yaml")
    data = {**data, "path": folder, "train": f"{folder}/images/train", "val": f"{folder}/images/val"}
    hyp, _ = load_yaml(shipped("data") / "hyp.short.yaml")
    model.hyp = hyp
    loss_of, optimizer = host.ComputeLoss(model), torch.optim.AdamW(model.parameters(), lr=1e-3)
    loader, _ = host.create_dataloader(data["train"], IMGSZ, BATCH, 32, hyp=hyp, augment=True, cache="ram", workers=0)
    while True:
        for batch, targets, _, _ in LockedLoader(loader, DeviceLock("cpu")):
            loss, _ = loss_of(model(batch.float() / 255), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with images.get_lock():
                images.value += len(batch)


def keep_busy() -> None:
    """Use one core."""
    while True:
        torch.randn(256, 256) @ torch.randn(256, 256)


def measure() -> None:
    """Measure without pause."""
    host = load()
    model, stock = (host.build(derive(SPACE, SPACE.default())) for _ in range(2))
    while True:
        latency(model, stock, (IMGSZ, IMGSZ), Runtime(), host)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each of the two (default: 60)")
    parser.add_argument("--repeats", type=int, default=2, help="how often each of the two is timed (default: 2)")
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "digits")
        render(folder)
        host = load()
        file = Path(temporary, "digits.yaml")
        data, _ = load_yaml(shipped("data") / "digits.yaml")
        file.write_text(dump_model({**data, "path": str(folder)}), encoding="utf-8")
        check_data(resolve_data(file, host), host, IMGSZ, file)
        images = context.Value("l", 0)
        trainings = [context.Process(target=train, args=(str(folder), images)) for _ in range(2)]
        for process in trainings:
            process.start()
        rates: dict[str, list[float]] = {"busy": [], "measuring": []}
        try:
            for _ in range(args.repeats):
                for name, beside in (("busy", keep_busy), ("measuring", measure)):
                    rates[name].append(_rate(context.Process(target=beside), images, args.seconds))
                    print(f"beside a process that is {name}: {rates[name][-1]:.1f} images per second", flush=True)
        finally:
            for process in trainings:
                process.kill()
    busy, measuring = (sum(found) / len(found) for found in rates.values())
    print(f"{torch.get_num_threads()} thread each: {measuring:.1f} / {busy:.1f} = {measuring / busy:.2f}")


def _rate(beside: Any, images: Any, seconds: float) -> float:
    """Images per second of the trainings beside a process, from when it is at work."""
    beside.start()
    try:
        time.sleep(20)  # it imports, and the trainings do at first
        first, start = images.value, time.monotonic()
        time.sleep(seconds)
        return float(images.value - first) / (time.monotonic() - start)
    finally:
        beside.kill()
        beside.join()


if __name__ == "__main__":
    main()
