"""What the additive model knows of real trainings: the table of 40 architectures on the harder digits.

    python benchmarks/additive_table.py

The model of `--strategy additive` is fitted to the first seed's mAP50-95 of all architectures but one, and predicts
that one; so for each. Printed is Kendall's tau with the second seeds (of those that have one), of these predictions, of
the model that has seen all first seeds, and of the first seeds themselves, with 95 % intervals of a bootstrap.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from yolov5_nas.results.statistics import tau_b
from yolov5_nas.strategies.regression import fit

TABLE = Path(__file__).parent / "tables" / "digits_hard_yolov5n_elastic.jsonl"
SAMPLES = 4000  # of the bootstrap


def features(architectures: list[Mapping[str, Any]]) -> np.ndarray:
    """(architectures, options), 1 where one has an option."""
    column = {entry: j for j, entry in enumerate(sorted({(k, str(v)) for a in architectures for k, v in a.items()}))}
    x = np.zeros((len(architectures), len(column)))
    for row, architecture in zip(x, architectures):
        row[[column[k, str(v)] for k, v in architecture.items()]] = 1.0
    return x


def predicted(x: np.ndarray, y: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """What the model of numbers y (n,) says of other rows."""
    found = fit(x, y)
    return found.level + (rows - found.centre) @ found.mean  # type: ignore[no-any-return]


def interval(own: np.ndarray, other: np.ndarray) -> str:
    """Tau with its 95 % interval."""
    drawn = np.random.default_rng(0).integers(0, len(own), (SAMPLES, len(own)))
    low, high = np.nanpercentile([tau_b(own[i].tolist(), other[i].tolist()) for i in drawn], [2.5, 97.5])
    return f"{tau_b(own.tolist(), other.tolist()):.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    lines = [json.loads(line) for line in TABLE.read_text(encoding="utf-8").splitlines()]
    first = {line["id"]: line["metrics"]["map50_95"] for line in lines if line["seed"] == 0}
    second = {line["id"]: line["metrics"]["map50_95"] for line in lines if line["seed"] == 1}
    by = {line["id"]: line["architecture"] for line in lines}
    x, y = features([by[name] for name in first]), np.array(list(first.values()))
    others = [np.arange(len(y)) != i for i in range(len(y))]
    unseen = np.array([predicted(x[keep], y[keep], x[~keep])[0] for keep in others])
    has_second = np.array([name in second for name in first])
    truth = np.array([second[name] for name in first if name in second])
    for what, scores in (
        ("the model, of architectures that it has not seen", unseen),
        ("the model, of all first seeds", predicted(x, y, x)),
        ("the first seeds", y),
    ):
        print(f"{what}: tau {interval(scores[has_second], truth)}")


if __name__ == "__main__":
    main()
