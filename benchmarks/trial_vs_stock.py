"""Our trial beside the host's own train.py: same model, data, epochs, hyper-parameters, device, threads.

    python benchmarks/trial_vs_stock.py --epochs 16 --seeds 3

Each runs in a fresh process. Both load images in the training process, and validate after every
epoch. Seconds are those of all epochs with their validations, without imports and set-up. `train.py` runs as it is but
for its start-up checks of git and pip, which would reach for the network.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

SIDES = ("stock train.py", "our trial")


def main() -> None:
    args = parse()
    if args.side:
        result = (run_stock if args.side == SIDES[0] else run_ours)(args)
        print("RESULT " + json.dumps(result))
        return
    results: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for seed in range(args.seeds):
        for side in SIDES if seed % 2 == 0 else SIDES[::-1]:
            results[side].append(in_own_process(side, seed))
            print(
                f"seed {seed}  {side:<15}" + "".join(f"  {k} {v:.3f}" for k, v in results[side][-1].items()), flush=True
            )
    print_table(results, args)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cache", choices=["ram", "none"], default="ram")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def in_own_process(side: str, seed: int) -> dict[str, float]:
    """Run one side with this run's options in a fresh process."""
    command = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--seed", str(seed)]
    env = {**os.environ, "GOMP_SPINCOUNT": "10000", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}  # v7.0 loads as it did
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, encoding="utf-8")
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-4000:])
    result: dict[str, float] = json.loads(lines[-1].removeprefix("RESULT "))
    return result


def prepare(args: argparse.Namespace) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The host, the resolved data, and the hyper-parameters without the keys that train.py does not know."""
    from yolov5_nas.files import shipped
    from yolov5_nas.host import yolov5 as hosts
    from yolov5_nas.host.dataset import check_data, find_data, resolve_data

    host = hosts.load()
    host.torch_utils.torch.set_num_threads(args.threads)
    file = find_data("digits.yaml", host.location.root)
    data = resolve_data(file, host)
    check_data(data, host, 128, file)
    hyp = yaml.safe_load((shipped("data") / "hyp.short.yaml").read_text(encoding="utf-8"))
    hyp = {k: v for k, v in hyp.items() if k not in ("optimizer", "nominal_batch", "warmup_iterations")}
    return host, {k: v for k, v in data.items() if k != "download"}, hyp


def run_ours(args: argparse.Namespace) -> dict[str, float]:
    from yolov5_nas.files import shipped
    from yolov5_nas.space.model_yaml import read_model_yaml
    from yolov5_nas.training.settings import Settings
    from yolov5_nas.training.trial import run_trial

    host, data, hyp = prepare(args)
    model, _ = read_model_yaml(shipped("models") / "yolov5n_nas.yaml")
    settings = Settings(
        model,
        data,
        hyp,
        host.location,
        epochs=args.epochs,
        batch_size=args.batch_size,
        imgsz=128,
        device="cpu" if args.device == "cpu" else f"cuda:{args.device}",
        cache="ram" if args.cache == "ram" else None,
        optimizer="AdamW",
        val_period=1,
    )
    with tempfile.TemporaryDirectory() as folder:
        result = run_trial(settings.space.default(), settings, args.seed, Path(folder))
    return {"seconds": result.curve[-1]["seconds"], "map50_95": result.metrics["map50_95"]}


def run_stock(args: argparse.Namespace) -> dict[str, float]:
    host, data, hyp = prepare(args)
    train, callbacks = host.module("train"), host.module("utils.callbacks").Callbacks()
    train.check_requirements = train.check_git_status = lambda *_, **__: None
    times: list[float] = []
    scores: list[float] = []

    def note(values: list[float], *_: Any) -> None:
        times.append(time.perf_counter())
        scores.append(float(values[6]))  # mAP50-95, after three training losses, P, R, mAP50

    callbacks.register_action("on_train_start", callback=lambda: times.append(time.perf_counter()))
    callbacks.register_action("on_fit_epoch_end", callback=note)
    with tempfile.TemporaryDirectory() as folder, host.compatible():
        files = {"data": data, "hyp": hyp}
        for name, content in files.items():
            Path(folder, f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        flags = f"--weights= --cfg {host.location.root}/models/yolov5n.yaml --imgsz 128 --workers 0"
        flags += f" --data {folder}/data.yaml --hyp {folder}/hyp.yaml --optimizer AdamW --project {folder} --noplots"
        flags += f" --epochs {args.epochs} --batch-size {args.batch_size} --seed {args.seed} --device {args.device}"
        flags += " --cache ram" if args.cache == "ram" else ""
        sys.argv = ["train.py", *flags.split()]
        train.main(train.parse_opt(), callbacks)
    return {"seconds": times[args.epochs] - times[0], "map50_95": max(scores[: args.epochs])}


def print_table(results: dict[str, list[dict[str, float]]], args: argparse.Namespace) -> None:
    images = 640 * args.epochs
    print(f"\nyolov5n, digits at 128 px, {args.epochs} epochs, batch {args.batch_size}, {args.threads} threads\n")
    print("| | images/s (median) | mAP50-95 (mean, lowest to highest) |\n|---|---|---|")
    for side, runs in results.items():
        speed = statistics.median(images / r["seconds"] for r in runs)
        scores = [r["map50_95"] for r in runs]
        print(f"| {side} | {speed:.0f} | {statistics.mean(scores):.3f}, {min(scores):.3f} to {max(scores):.3f} |")
    pairs = zip(results[SIDES[0]], results[SIDES[1]])
    ratios = [stock["seconds"] / ours["seconds"] for stock, ours in pairs]
    print(
        f"\nspeed of our trial / stock: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}"
    )


if __name__ == "__main__":
    main()
