"""What the options of a checkpoint cost: loss increases, time and memory of a sensitivity analysis in one process.

    python benchmarks/sensitivity.py best.pt --data my.yaml --imgsz 320
    python benchmarks/sensitivity.py best.pt --data my.yaml --imgsz 320 --plant 4
    python benchmarks/sensitivity.py best.pt --data my.yaml --imgsz 1280 --only c3_4=0.5

Each option is scored alone, on one thread, as a search does. `--plant LAYER` makes half of the hidden channels of a
C3 copies of the others first, and scores that layer at half width, which should cost nothing. `--only` takes some
options, for example to see the memory at a large input size. To compare two versions, run it in a checkout of each.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from yolov5_nas.host.yolov5 import Host
from yolov5_nas.records.options import Options
from yolov5_nas.run.prepare import prepare, write_run
from yolov5_nas.space.architecture import Architecture
from yolov5_nas.strategies.replacement import rows
from yolov5_nas.training.process import as_trial
from yolov5_nas.training.replacement import ReplacementScorer
from yolov5_nas.training.settings import Settings
from yolov5_nas.weights.mapping import inherit
from yolov5_nas.weights.source import read_source


def settings_of(args: argparse.Namespace) -> Settings:
    """Return the settings of scores on the CPU."""
    given = {
        "method": "replace",
        "weights": args.weights,
        "data": args.data,
        "imgsz": args.imgsz,
        "yolov5": args.yolov5,
    }
    o = Options().with_given({**given, "target": "params=1e9", "device": "cpu", "cfg": args.cfg})
    settings = write_run(Path(tempfile.mkdtemp(prefix="sensitivity-")), prepare(o))
    alone: dict[str, Any] = {"constraints": (), "needed": (), "hooks": (), "base_epochs": None, "workers": 0}
    return replace(settings, replaces=True, device="cpu", **alone)


def planted(host: Host, settings: Settings, layer: int, imgsz: int) -> Settings:
    """Return settings with a checkpoint in which half of a C3's hidden channels are copies of the others."""
    space, weights = settings.space, Path(settings.weights or "")
    narrow = ReplacementScorer(host, settings, imgsz, 0).parent.child({**space.default(), f"c3_{layer}": 0.5})
    model = host.load_checkpoint(weights)
    model.load_state_dict(inherit(read_source(narrow, space, weights), space, space.default()).state)
    file = Path(tempfile.mkdtemp(prefix="planted-")) / "planted.pt"
    host.save_checkpoint(model, file)
    return replace(settings, weights=str(file))


def asked(args: argparse.Namespace, settings: Settings) -> Iterator[Mapping[str, Any]]:
    """Return the changes to score."""
    default = settings.space.default()
    if args.plant is not None:
        yield {f"c3_{args.plant}": 0.5}
    elif args.only:
        for text in args.only:
            label, value = text.split("=")
            yield {label: next(option for option in settings.space.choices[label].options if str(option) == value)}
    else:
        for architecture in rows(settings.space)[1:]:
            yield {label: value for label, value in architecture.items() if value != default[label]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("--data", required=True)
    parser.add_argument("--imgsz", type=int, required=True)
    parser.add_argument("--cfg", default="yolov5n_elastic.yaml")
    parser.add_argument("--yolov5", help="a clone of YOLOv5")
    parser.add_argument("--plant", type=int, help="line of a C3")
    parser.add_argument("--only", nargs="+", metavar="LABEL=VALUE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = settings_of(args)
    with as_trial(settings, None) as host:
        if args.plant is not None:
            settings = planted(host, settings, args.plant, settings.imgsz)
        start, total = time.process_time(), 0.0
        scorer = ReplacementScorer(host, settings, settings.imgsz, 0)
        print(f"loss {sum(scorer.losses) / len(scorer.losses):.4f}, opened in {time.process_time() - start:.0f} s")
        for change in asked(args, settings):
            before = time.process_time()
            score = scorer.score(Architecture({**settings.space.default(), **change}))
            total += score["rise"]
            shown = ", ".join(f"{label} {value}" for label, value in change.items())
            seconds = time.process_time() - before
            print(f"{shown}: {score['rise']:+.5f} ± {score['rise_error']:.5f}, {seconds:.1f} s", flush=True)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # of kilobytes
        print(f"sum {total:.4f}, {time.process_time() - start:.0f} s of processor time, {memory:.2f} GB at most")


if __name__ == "__main__":
    main()
