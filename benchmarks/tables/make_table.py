"""Train a table of architectures, so that searches can be measured by looking up what a training would have given.

    nice python benchmarks/tables/make_table.py --device cpu --processes 2

Each finished training is one line of the table; README.md beside this file says what is in it. Started again, it goes
on with what is missing; a kill loses the trainings that were running. Architectures come in an order that is spread
over cost from the start, all with one seed before most of the second ones, so that a part of the table is of use too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml

from yolov5_nas.cost.measure import gflops
from yolov5_nas.engines.contract import Engine, Job, Outcome
from yolov5_nas.engines.local import LocalEngine, device_indices
from yolov5_nas.errors import UserError
from yolov5_nas.files import find_file, shipped, write_whole
from yolov5_nas.host import yolov5 as hosts
from yolov5_nas.host.dataset import check_data, find_data, resolve_data
from yolov5_nas.host.locate import Location, find
from yolov5_nas.records.journal import TrialResult
from yolov5_nas.space.architecture import Architecture, Value
from yolov5_nas.space.compile import derive
from yolov5_nas.space.model_yaml import read_model_yaml
from yolov5_nas.space.space import Space
from yolov5_nas.training.settings import Settings
from yolov5_nas.training.trial import measure_architecture, run_trial
from yolov5_nas.weights.supernet import extreme

VERSION = 1
EARLY = 5  # architectures whose second seed comes before other architectures
CANDIDATES = 200  # drawn, of which those are taken that spread over cost
COSTS = ("params", "gflops", "latency_ms", "latency_ratio", "latency_error", "cpu_seconds")
SAME = ("cfg", "data", "hyp", "epochs", "batch_size", "imgsz", "optimizer", "data_sha1", "hyp_sha1")  # in all lines
HERE = Path(__file__).parent

Work = list[tuple[Architecture, int]]  # architectures, each with a seed


def main() -> None:
    args = parse()
    settings = make_settings(args)
    engine = LocalEngine(device_indices(args.device), args.processes)
    # Its processes import this file, and torch with it, before the engine says how many threads they have.
    os.environ |= {"OMP_NUM_THREADS": str(engine.threads), "MKL_NUM_THREADS": str(engine.threads)}
    architectures = pick(settings.space, args.architectures, lambda a: gflops_of(a, settings))
    if args.costs:
        return measure_costs(args.out.with_suffix(".costs.json"), architectures, settings, args.costs)
    engine.start(timed_trial, settings, Path("runs/tables", args.out.stem).resolve())  # logs and weights
    failed = fill(args.out, work_of(architectures, args.twice), engine, conditions_of(args, settings, engine))
    sys.exit(1 if failed else 0)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", default="yolov5n_elastic.yaml")
    parser.add_argument("--data", default="digits_hard.yaml")
    parser.add_argument("--hyp", default="hyp.short.yaml")
    parser.add_argument("--epochs", type=int, default=36)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--imgsz", type=int, default=128)
    parser.add_argument("--architectures", type=int, default=40, help="how many, stock YOLOv5 included")
    parser.add_argument("--twice", type=int, default=20, help="how many of them get a second seed")
    parser.add_argument("--device", default="cpu", help="cpu, or GPU indices as in 0,1")
    parser.add_argument("--processes", type=int, help="trainings at a time (default: one for each device)")
    parser.add_argument("--costs", type=int, metavar="N", help="train nothing, but measure all costs N times, in turn")
    parser.add_argument("--yolov5", help="a clone of YOLOv5 (default: as yolov5-nas finds it)")
    parser.add_argument("--out", type=Path, help="the table (default: <data>_<cfg>.jsonl beside this file)")
    args = parser.parse_args()
    args.out = args.out or HERE / f"{Path(args.data).stem}_{Path(args.cfg).stem}.jsonl"
    return args


def make_settings(args: argparse.Namespace) -> Settings:
    """What a search's trial gets, but validated after every epoch."""
    host = hosts.load(find(args.yolov5))
    model, _ = read_model_yaml(find_file(args.cfg, [shipped("models")], "model YAML (--cfg)"))
    hyp = read_hyp(args)
    file = find_data(args.data, host.location.root)
    data = resolve_data(file, host)
    check_data(data, host, args.imgsz, file)
    return Settings(
        model,
        {k: str(v) if isinstance(v, Path) else v for k, v in data.items() if k != "download"},
        {k: v for k, v in hyp.items() if k != "optimizer"},
        host.location,
        epochs=args.epochs,
        batch_size=args.batch_size,
        imgsz=args.imgsz,
        device="cpu" if args.device == "cpu" else "cuda:0",
        cache="ram",
        optimizer=hyp.get("optimizer", "SGD"),
        val_period=1,
    )


def read_hyp(args: argparse.Namespace) -> dict[str, Any]:
    return yaml.safe_load(
        find_file(args.hyp, [shipped("data")], "hyper-parameters (--hyp)").read_text(encoding="utf-8")
    )


def work_of(architectures: Sequence[Architecture], twice: int) -> Work:
    """All architectures with seed 0, the first `twice` with seed 1 too; of these a few early, to tell seed noise."""
    early = min(EARLY, twice)
    first, second = [(a, 0) for a in architectures], [(a, 1) for a in architectures[:twice]]
    return [*first[:early], *second[:early], *first[early:], *second[early:]]


# Which architectures --------------------------------------------------------------------------------------------------


def pick(space: Space, count: int, cost: Callable[[Architecture], float], seed: int = 0) -> list[Architecture]:
    """Stock YOLOv5, the smallest, the largest, then always the one whose cost is farthest from that of all before it.

    Every beginning of the list is spread over the logarithm of cost, and a longer list begins with a shorter one.
    """
    rng = random.Random(seed)
    chosen = [space.default(), extreme(space, min), extreme(space, max)]
    drawn = [leaning(space, rng) for _ in range(CANDIDATES)]
    costs = {a: math.log(cost(a)) for a in [*chosen, *drawn]}
    while len(chosen) < count:
        chosen.append(max(costs, key=lambda a: min(abs(costs[a] - costs[b]) for b in chosen)))
    return chosen[:count]


def leaning(space: Space, rng: random.Random) -> Architecture:
    """An architecture drawn with a leaning to each choice's first or last options, which are the small and large ones.

    Without it all would be of middling cost. Widths, depths, kernels and activations lean by themselves too, so that
    architectures of the same cost differ in what they spend it on.
    """
    common = rng.uniform(-5, 5)
    leans = {k: rng.uniform(-3, 3) + (0 if k == "act" else common) for k in ("width", "depth", "kernel", "act")}
    drawn = {}
    for label, choice in space.choices.items():
        last = max(len(choice.options) - 1, 1)
        weights = [math.exp(leans[kind(label)] * i / last) for i in range(len(choice.options))]
        drawn[label] = rng.choices(choice.options, weights)[0]
    return Architecture(drawn)


def kind(label: str) -> str:
    """What a label decides: width, depth, kernel or act."""
    return {"act": "act", "depth": "depth"}.get(label.split("_")[-1], "width" if label.startswith("c3") else "kernel")


def gflops_of(architecture: Architecture, settings: Settings) -> float:
    """GFLOPs at the input size."""
    host = hosts.load(settings.location)
    with host.compatible(), host.quiet():
        return gflops(host.build(derive(settings.space, architecture), nc=settings.nc), settings.imgsz)


def timed_trial(architecture: Mapping[str, Value], settings: Settings, seed: int, folder: Path) -> TrialResult:
    """A search's trial, with its processor seconds, which other load on the machine stretches less than the clock's."""
    hosts.load(settings.location)  # imports don't count
    start = time.process_time()
    result = run_trial(architecture, settings, seed, folder)
    return TrialResult({**result.metrics, "cpu_seconds": time.process_time() - start}, result.curve)


# The table ------------------------------------------------------------------------------------------------------------


def fill(path: Path, work: Work, engine: Engine, conditions: Mapping[str, Any]) -> int:
    """Train what is not in the table yet, and append each as it ends; the number of trainings that failed.

    Args:
        engine: a started one.
    """
    done = {(line["id"], line["seed"]) for line in read_table(path, conditions)}
    waiting = [Job(i, a, seed) for i, (a, seed) in enumerate(work) if (a.id, seed) not in done]
    jobs = {job.number: job for job in waiting}
    print(f"{len(done)} of {len(work)} trainings are in {path}", flush=True)
    left = failed = 0
    try:
        while waiting or left:
            while waiting and left < engine.slots:
                engine.submit(waiting.pop(0))
                left += 1
            for outcome in engine.wait():
                left -= 1
                failed += not note(path, jobs[outcome.number], outcome, conditions)
    finally:
        engine.close()
    return failed


def note(path: Path, job: Job, outcome: Outcome, conditions: Mapping[str, Any]) -> bool:
    """Append a finished training to the table; a failed one is only told of, and tried again by the next start."""
    name = f"{job.number} {Architecture(job.architecture).id} seed {job.seed}"
    if outcome.result is None:
        print(f"{name}: {outcome.error}", flush=True)
        return False
    metrics = dict(outcome.result.metrics)
    line = {
        "version": VERSION,
        "number": job.number,
        "id": Architecture(job.architecture).id,
        "seed": job.seed,
        "architecture": dict(job.architecture),
        "metrics": {k: v for k, v in metrics.items() if k not in COSTS},
        "costs": {k: metrics[k] for k in COSTS if k in metrics},
        "seconds": outcome.seconds,
        "curve": [dict(point) for point in outcome.result.curve],
        "conditions": {**conditions, "load": os.getloadavg()[1]},
    }
    with path.open("ab") as file:
        file.write(json.dumps(rounded(line), separators=(",", ":"), allow_nan=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    print(f"{name}: mAP50-95 {metrics['map50_95']:.4f}, {outcome.seconds:.0f} s", flush=True)
    return True


def measure_costs(path: Path, architectures: Sequence[Architecture], settings: Settings, times: int) -> None:
    """Write the costs of each architecture by its id: medians, and `latency_ratios` as they were measured.

    One round over all architectures comes after the other, so that a busy minute spoils no architecture's median.
    """
    measured: dict[str, list[dict[str, float]]] = {a.id: [] for a in architectures}
    for _ in range(times):
        for a in architectures:
            measured[a.id].append(dict(measure_architecture(a, settings).metrics))
    rows = []
    for name, rounds in measured.items():
        costs: dict[str, Any] = {k: statistics.median(m[k] for m in rounds) for k in rounds[0]}
        costs["latency_ratios"] = sorted(m["latency_ratio"] for m in rounds)
        rows.append(f'"{name}":{json.dumps(rounded(costs), separators=(",", ":"))}')
    write_whole(path, "{\n" + ",\n".join(rows) + "\n}\n")


def read_table(path: Path, conditions: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The lines of a table; one that a kill tore is cut off the file.

    Raises:
        UserError: they were trained under other conditions that move mAP.
    """
    if not path.exists():
        return []
    whole, _, torn = path.read_bytes().rpartition(b"\n")
    if torn:
        os.truncate(path, len(whole) + bool(whole))
    lines = [json.loads(line) for line in whole.splitlines()]
    for i, line in enumerate(lines, 1):
        for name in SAME:
            if line["conditions"][name] != conditions[name]:
                raise UserError(
                    f"the trainings of a table must have the same {name}",
                    got=conditions[name],
                    accepted=[line["conditions"][name]],
                    file=path,
                    line=i,
                )
    return lines


def rounded(value: Any) -> Any:
    """The same with six significant digits, more than any of them means; None for one that is none."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list) else value


def conditions_of(args: argparse.Namespace, settings: Settings, engine: LocalEngine) -> dict[str, Any]:
    """What a training depended on; `SAME` names what must not differ between the lines of a table."""
    return {
        "cfg": args.cfg,
        "data": args.data,
        "data_sha1": sha1(data_parts(settings)),
        "hyp": args.hyp,
        "hyp_sha1": sha1([json.dumps(dict(settings.hyp), sort_keys=True).encode()]),
        **{name: getattr(settings, name) for name in ("epochs", "batch_size", "imgsz", "optimizer")},
        "yolov5": yolov5_version(settings.location),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": processor() if args.device == "cpu" else torch.cuda.get_device_name(),
        "threads": engine.threads,
        "processes": engine.slots,
    }


def data_parts(settings: Settings) -> Iterator[bytes]:
    """The pixels and labels of both splits."""
    host = hosts.load(settings.location)
    for split in ("train", "val"):
        with host.compatible(), host.quiet():
            found = host.dataloaders.LoadImagesAndLabels(settings.data[split], settings.imgsz)
        for image, label in zip(found.im_files, found.label_files):
            yield np.asarray(cv2.imread(image)).tobytes()
            yield Path(label).read_bytes()


def sha1(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha1(usedforsecurity=False)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:10]


def yolov5_version(location: Location) -> str:
    """The package's version, or the clone's commit."""
    if location.kind == "package":
        return f"package {metadata.version('yolov5')}"
    describe = ["git", "-C", str(location.root), "describe", "--always"]
    return f"clone {subprocess.run(describe, capture_output=True, text=True, encoding='utf-8').stdout.strip()}".strip()


def processor() -> str:
    """The CPU's name, where the system tells it, and the number of cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{(names or [platform.machine()])[0]}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
