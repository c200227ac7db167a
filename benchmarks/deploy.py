"""Winners and their parents as they will run: mAP and latency of each in FP32 and INT8, of several runs in one table.

    python benchmarks/deploy.py runs/nas/silu runs/nas/relu --names SiLU ReLU

The runs are finished searches. With each is done what `yolov5-nas export RUN --include onnx openvino --precision int8
--validate` does, so that their reports and `export/` have it too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from yolov5_nas.cost.quantisation import instructions
from yolov5_nas.results.deployed import Deployment, read, said, table, words
from yolov5_nas.run.deploy import deploy
from yolov5_nas.run.exported import How


def rows(found: Sequence[tuple[str, Deployment]]) -> list[str]:
    """One Markdown table, the first column the run's name."""
    lines: list[str] = []
    for name, deployment in found:
        head, *body = table(deployment)
        if not lines:
            lines = ["| " + " | ".join(["", *head]) + " |", "|" + "---|" * (len(head) + 1)]
        lines += ["| " + " | ".join([name, *cells]) + " |" for cells in body]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--names", nargs="+", help="of the runs, for the table")
    parser.add_argument("--formats", nargs="+", default=["onnx", "openvino"])
    parser.add_argument("--calibration", type=int)
    parser.add_argument("--again", action="store_true", help="measure again what was measured")
    args = parser.parse_args()
    names, found = args.names or [run.name for run in args.runs], []
    for name, run in zip(names, args.runs, strict=True):
        if args.again or not read(run).rows:
            deploy(run, How(tuple(args.formats), "int8", calibration=args.calibration))
        found.append((name, read(run)))
    print("\n".join(rows(found)) + "\n")
    print("Instructions:", ", ".join(instructions()) or "unknown")
    print(said(found[0][1]))
    for name, deployment in found:
        print("\n".join(f"{name}: {line}" for line in words(deployment)))


if __name__ == "__main__":
    main()
