"""Another activation everywhere: what refitting the trained network to it keeps, beside the usual way.

    yolov5-nas search --method replace --weights best.pt --data my.yaml --trials 0
    python benchmarks/activation.py RUN --activation ReLU --seeds 1 2 3 --epochs 25

Three networks are validated as they are and trained alike for the same further epochs: the parent; the parent refitted
to the activation, as a search with `activation: [SiLU, ReLU]` in its YAML has it; and the usual way, the YAML with
another activation into which the parent's weights are loaded. The mAP50-95 of the last epoch counts. Lines go to
RUN/activation.jsonl, where a later call goes on. Checkpoints of the first seed are kept in RUN/activation.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs import lines_of
from replacement import add_options, options_of, parent_settings

from yolov5_nas.records.journal import TrialResult
from yolov5_nas.records.options import Options
from yolov5_nas.space.activations import ACTIVATIONS

PARENT, REFITTED, LOADED = "parent", "refitted", "loaded into a changed YAML"
WAYS = PARENT, REFITTED, LOADED


@dataclass(frozen=True)
class Job:
    """One network, trained for some epochs, or validated as it is (no epochs)."""

    way: str
    activation: str
    seed: int
    epochs: int

    @property
    def labels(self) -> dict[str, Any]:
        """By which it is known what was done."""
        return {"name": f"{self.way} {self.activation}", "seed": self.seed, "epochs": self.epochs}


def settings_for(job: Job, run: Path, o: Options) -> tuple[Any, dict[str, Any]]:
    """Settings of a job, and its architecture in their space."""
    s = parent_settings(run, o)
    own = s.space.in_form(s.space.forms[0])
    stock = own.multiples.default_act
    s = replace(s, epochs=job.epochs, val_period=job.epochs, model={**own.yaml, "activation": [stock, job.activation]})
    architecture = dict(s.space.default())
    if job.way != PARENT:
        architecture["activation"] = job.activation
    if job.way != LOADED:
        return s, architecture
    changed = s.space.in_form(s.space.form_of(architecture))
    return replace(s, model=changed.yaml, replaces=False), dict(s.space.inner(architecture))


def do(job: Job, run: Path, o: Options) -> dict[str, Any]:
    """The accuracies of a job."""
    from yolov5_nas.training.trial import run_trial

    settings, architecture = settings_for(job, run, o)
    if not job.epochs:
        return untrained(settings, architecture, job)
    log = run / "activation" / f"{job.way} {job.activation} {job.seed}".replace(" ", "_")
    result = run_trial(architecture, settings, job.seed, log, TrialResult({"params": 0.0}))
    if job.seed != 1:
        (log / "weights.pt").unlink()
    return dict(result.metrics)


def untrained(settings: Any, architecture: dict[str, Any], job: Job) -> dict[str, Any]:
    """What a network is before it is trained."""
    from yolov5_nas.host.yolov5 import load
    from yolov5_nas.space.compile import derive
    from yolov5_nas.training.images import Images
    from yolov5_nas.training.parent import loss_of, read_parent
    from yolov5_nas.training.trainer import accuracies

    host = load(settings.location)
    own, inner = settings.in_form(architecture)
    if job.way == LOADED:
        model = host.build(derive(own.space, inner), nc=own.nc)
        model.load_state_dict(host.load_checkpoint(Path(own.weights)).state_dict())
    else:
        model = read_parent(host, own, own.imgsz, job.seed).child(inner)
    loss = loss_of(host, model, own, own.imgsz)
    images = Images(host, own, own.imgsz, own.batch_size, int(model.stride.max()), own.hyp_used, job.seed)
    try:
        return dict(accuracies(images.validate(model.eval(), loss)))
    finally:
        images.close()


def table(lines: list[dict[str, Any]], activation: str, epochs: int) -> str:
    """mAP50-95 of each way before and after its training, by mean and standard deviation of seeds."""
    rows = [f"| {activation} | untrained | after {epochs} epochs | seeds |", "|---|---|---|---|"]
    for way in WAYS:
        own = [line for line in lines if line["name"] == f"{way} {activation}"]
        before = [line["map50_95"] for line in own if not line["epochs"]]
        after = [line["map50_95"] for line in own if line["epochs"] == epochs]
        spread = f" ± {statistics.stdev(after):.3f}" if len(after) > 1 else ""
        rows.append(f"| {way} | {before[0]:.3f} | {statistics.mean(after):.3f}{spread} | {len(after)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--activation", choices=ACTIVATIONS, default="ReLU")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    add_options(parser, epochs=20)
    args = parser.parse_args()
    jobs = [Job(way, args.activation, args.seeds[0], 0) for way in WAYS]
    jobs += [Job(way, args.activation, seed, args.epochs) for seed in args.seeds for way in WAYS]
    lines = lines_of(jobs, do, args.run / "activation.jsonl", args.jobs, args.run, options_of(args))
    print("\n" + table(lines, args.activation, args.epochs))


if __name__ == "__main__":
    main()
