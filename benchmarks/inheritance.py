"""Short trainings on inherited weights beside longer ones from scratch, over the same architectures.

    python benchmarks/inheritance.py --architectures 8

Stock yolov5n is trained once (the base). Then each architecture, drawn at random from yolov5n_elastic.yaml, is trained
for a few epochs on the base's weights and for more from scratch. First the outputs of architectures that only grow are
compared with the base's before any training. Data: the built-in digits at 128 px. Seconds are of all epochs with their
validations. `--folder` keeps what is trained, and a second call goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from yolov5_nas import host as hosts
from yolov5_nas.architecture import Architecture
from yolov5_nas.data import check_data, find_data, resolve_data
from yolov5_nas.derive import derive
from yolov5_nas.files import WEIGHTS, shipped
from yolov5_nas.inherit import inherit, read_source
from yolov5_nas.space import Choice, Space, read_model_yaml
from yolov5_nas.trial import Settings, run_trial

IMGSZ = 128
# What grows, by the label of a choice and its options.
GROWN: dict[str, Callable[[Choice], Any]] = {
    "nothing (stock)": lambda c: c.default,
    "hidden widths x 1.5": lambda c: 1.5 if c.label.startswith("c3") and 1.5 in c.options else c.default,
    "kernels": lambda c: max(c.options, key=str) if str(c.default).startswith("k") else c.default,
    "depth, backbone": lambda c: max(c.options) if _is_depth(c, range(10)) else c.default,
    "depth, head": lambda c: max(c.options) if _is_depth(c, range(10, 24)) else c.default,
}


def _is_depth(choice: Choice, layers: range) -> bool:
    return choice.label.endswith("_depth") and int(choice.label.split("_")[1]) in layers


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        settings = prepare(args)
        base = train(settings.space.default(), settings, args.base_epochs, args.seed, folder / "base")
        weights = folder / "base" / WEIGHTS
        print(f"base: {args.base_epochs} epochs, {line(base)}", flush=True)
        for name, difference in differences(settings.space, weights):
            print(f"output difference before training, {name}: {difference:.1e}", flush=True)
        rng = random.Random(args.seed)
        pairs = []
        for i in range(args.architectures):
            architecture = settings.space.sample(rng)
            child = settings.of_child(weights)
            heir = train(architecture, child, args.epochs, args.seed, folder / f"{i}-inherited")
            scratch = train(architecture, settings, args.scratch_epochs, args.seed, folder / f"{i}-scratch")
            pairs.append((heir, scratch))
            print(f"{architecture.id}  inherited {line(heir)}  from scratch {line(scratch)}", flush=True)
    print_table(pairs, args)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", type=int, default=8)
    parser.add_argument("--base-epochs", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=3, help="on inherited weights")
    parser.add_argument("--scratch-epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--hyp", default="hyp.inherit.yaml", help="of trainings on inherited weights")
    parser.add_argument("--folder", help="keep what is trained here")
    return parser.parse_args()


def prepare(args: argparse.Namespace) -> Settings:
    """The settings of a training from scratch."""
    host = hosts.load()
    file = find_data("digits.yaml", host.location.root)
    data = resolve_data(file, host)
    check_data(data, host, IMGSZ, file)
    model, _ = read_model_yaml(shipped("models") / "yolov5n_elastic.yaml")
    return Settings(
        model,
        {key: value for key, value in data.items() if key != "download"},
        read_hyp("hyp.short.yaml"),
        host.location,
        imgsz=IMGSZ,
        cache="ram",
        optimizer="AdamW",
        inherit_hyp=read_hyp(args.hyp),
    )


def read_hyp(name: str) -> dict[str, float]:
    hyp = yaml.safe_load((shipped("data") / name).read_text())
    return {key: value for key, value in hyp.items() if key != "optimizer"}


def train(architecture: Architecture, settings: Settings, epochs: int, seed: int, folder: Path) -> dict[str, float]:
    """mAP and seconds of a training, which an earlier call may have left in the folder."""
    kept = folder / "result.json"
    if not kept.exists():
        settings = replace(settings, epochs=epochs, val_period=max(1, epochs // 4))
        result = run_trial(architecture, settings, seed, folder)
        kept.write_text(json.dumps({**result.metrics, "seconds": result.curve[-1]["seconds"]}))
    found: dict[str, float] = json.loads(kept.read_text())
    return found


def differences(space: Space, weights: Path) -> list[tuple[str, float]]:
    """The largest difference of the raw outputs to the source's, for what only grows, in single precision."""
    host = hosts.load()
    model = host.load_checkpoint(weights).eval()
    source, found = read_source(model, space, weights), []
    images = torch.rand(4, 3, IMGSZ, IMGSZ, generator=torch.Generator().manual_seed(0))
    for name, grow in GROWN.items():
        architecture = {c.label: grow(c) for c in space.choices.values()}
        grown = host.build(derive(space, architecture), nc=model.nc)
        grown.load_state_dict(inherit(source, space, architecture).state)
        with torch.no_grad():
            pairs = zip(model(images)[1], grown.eval()(images)[1])
            found.append((name, max(float((a - b).abs().max()) for a, b in pairs)))
    return found


def line(result: dict[str, float]) -> str:
    return f"mAP50-95 {result['map50_95']:.3f}, mAP50 {result['map50']:.3f}, {result['seconds']:.1f} s"


def print_table(pairs: list[tuple[dict[str, float], dict[str, float]]], args: argparse.Namespace) -> None:
    print(f"\nyolov5n_elastic.yaml, digits at {IMGSZ} px, {len(pairs)} architectures, {args.threads} threads\n")
    print("| | epochs | mAP50-95, median (lowest to highest) | seconds, median |\n|---|---|---|---|")
    rows = (("inherited", args.epochs, 0), ("from scratch", args.scratch_epochs, 1))
    for name, epochs, which in rows:
        scores = [pair[which]["map50_95"] for pair in pairs]
        seconds = statistics.median(pair[which]["seconds"] for pair in pairs)
        median = statistics.median(scores)
        print(f"| {name} | {epochs} | {median:.3f} ({min(scores):.3f} to {max(scores):.3f}) | {seconds:.1f} |")
    better = sum(heir["map50_95"] > scratch["map50_95"] for heir, scratch in pairs)
    ratio = statistics.median(scratch["seconds"] / heir["seconds"] for heir, scratch in pairs)
    print(f"\ninherited is better in {better} of {len(pairs)}, in 1/{ratio:.1f} of the time (median of the pairs)")


if __name__ == "__main__":
    main()
