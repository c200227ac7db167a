"""What a run's networks are worth in the form in which they will run: exported, quantised, checked and timed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from ..files import write_whole
from ..records.options import Options
from ..records.run_folder import REFERENCE, RunFolder
from ..records.shape import NUMBERS, known, read_json
from .commands import command
from .ranking import html_table

BELIEVED = 0.03  # by how much of itself a ratio of latencies may be above what the search believed
COLUMNS = {
    "map50_95": ("mAP50-95", "{:.3f}"),
    "map50": ("mAP50", "{:.3f}"),
    "latency_ms": ("network ms", "{:.2f}"),
    "latency_ratio": ("x {reference}", "{:.2f}"),
    "to_fp32": ("x FP32", "{:.2f}"),
    "whole_ms": ("image ms", "{:.2f}"),
    "whole_ratio": ("x {reference}", "{:.2f}"),
    "megabytes": ("MB", "{:.1f}"),
}
RECTANGULAR = "map50_95_rect"
ROW = {
    **{"number": int, "name": str, "form": [str], "metrics": NUMBERS, "believed": ([(float, str)], None)},
    **{"problem": str, "kept": [str], "conditions": {str: object}},
}
SHAPE = {"rows": [ROW], "reference": str, "margin": float}


class Form(NamedTuple):
    """A format of YOLOv5's `export.py`, and one of `metrics.PRECISIONS`."""

    backend: str
    precision: str = "fp32"

    @property
    def plain(self) -> Form:
        """The same in FP32."""
        return Form(self.backend)

    def __str__(self) -> str:
        return self.backend if self == PLAIN else f"{self.backend} {self.precision}"


PLAIN = Form("checkpoint")  # as PyTorch runs it


@dataclass(frozen=True)
class Deployed:
    """One network in one form.

    Args:
        number: of its trial.
        name: for people.
        metrics: accuracies at square input; `RECTANGULAR` of a checkpoint, as `val.py` validates it; `latency_ms`
            of the network, its `latency_ratio` to the reference's and `to_fp32`, to its own; `whole_ms` and
            `whole_ratio` of an image, from its decoded pixels to boxes; `megabytes`.
        believed: the ratio of latencies by which the search chose it, and in which form that was measured.
        problem: why it was not exported, or not checked.
        kept: YOLOv5's layers that stayed in FP32, besides Detect.
        conditions: split, device, threads, batch, and whether INT8 has an instruction of its own (VNNI).
    """

    number: int
    name: str
    form: Form
    metrics: Mapping[str, float] = field(default_factory=dict)
    believed: tuple[float, str] | None = None
    problem: str = ""
    kept: tuple[str, ...] = ()
    conditions: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Deployment:
    """What is known of a run's networks.

    Args:
        reference: what trial 0 is called.
        margin: mAP50-95 that may be lost on the way.
    """

    rows: tuple[Deployed, ...] = ()
    reference: str = "stock"
    margin: float = 0.005

    def of(self, number: int) -> list[Deployed]:
        """A network's rows."""
        return [row for row in self.rows if row.number == number]


def read(run: Path) -> Deployment:
    """Of a run's folder; without rows where nothing was deployed."""
    path = RunFolder(run).deployed
    return read_json(path, SHAPE, _deployment) if path.exists() else Deployment()


def _deployment(found: Mapping[str, Any]) -> Deployment:
    return Deployment(tuple(map(_row, found["rows"])), found["reference"], found["margin"])


def _row(entries: Mapping[str, Any]) -> Deployed:
    believed = tuple(entries["believed"]) if entries["believed"] else None
    form, kept = Form(*entries["form"]), tuple(entries["kept"])
    return known(Deployed, {**entries, "form": form, "kept": kept, "believed": believed})


def write(run: Path, new: Deployment) -> Deployment:
    """Add rows to a run's folder, replacing those of the same network and form; returns all rows."""
    rows = {(row.number, row.form): row for row in (*read(run).rows, *new.rows)}
    ordered = sorted(rows.values(), key=lambda row: (row.number, row.form != PLAIN, row.form))
    merged = Deployment(tuple(ordered), new.reference, new.margin)
    write_whole(RunFolder(run).deployed, json.dumps(asdict(merged), indent=1))
    return merged


def table(found: Deployment) -> list[list[str]]:
    """Rows for people; the first is the heading."""
    known = [key for key in COLUMNS if any(key in row.metrics for row in found.rows)]
    rows = [["", "form", *(COLUMNS[key][0].format(reference=found.reference) for key in known)]]
    for row in found.rows:
        cells = [COLUMNS[key][1].format(row.metrics[key]) if key in row.metrics else "-" for key in known]
        rows.append([row.name, str(row.form), *cells])
    return rows


def words(found: Deployment) -> list[str]:
    """In words: what stands beside the table, and what falls short."""
    lines = [f"{row.name} in {row.form}: {row.problem}." for row in found.rows if row.problem]
    for row in found.rows:
        if row.kept:
            layers = ", ".join(layer.removeprefix("model.") for layer in row.kept)
            lines.append(f"{row.name} in {row.form}: layers {layers} stay in FP32, which lose most when quantised.")
    lines += [line for row in found.rows for line in (_loss(row, found), _latency(row, found)) if line]
    rectangular = [f"{r.name} {r.metrics[RECTANGULAR]:.3f}" for r in found.rows if RECTANGULAR in r.metrics]
    if rectangular:
        lines.append(
            f"val.py validates checkpoints at rectangular input (mAP50-95: {', '.join(rectangular)}); the table has"
            " square input, which is what exported networks get."
        )
    return lines


def _loss(row: Deployed, found: Deployment) -> str:
    """Whether more than the margin was lost between a checkpoint and an exported form."""
    before = [r for r in found.of(row.number) if r.form == PLAIN and "map50_95" in r.metrics]
    if not before or "map50_95" not in row.metrics:
        return ""
    lost = before[0].metrics["map50_95"] - row.metrics["map50_95"]
    if lost <= found.margin:
        return ""
    return f"{row.name} loses {lost:.3f} mAP50-95 in {row.form}, more than --margin {found.margin:g}."


def _latency(row: Deployed, found: Deployment) -> str:
    """Whether a network saves less in a form than the search believed, by more than both may be off."""
    ratio = row.metrics.get("latency_ratio")
    if not ratio or not row.believed or row.number == REFERENCE or row.form == PLAIN:
        return ""
    value, where = row.believed
    if ratio * (1 - row.metrics.get("latency_error", 0.0)) <= value * (1 + BELIEVED):
        return ""
    advice = ""
    if where != str(row.form):
        advice = f" (search with --latency-backend {row.form.backend} --precision {row.form.precision})"
    return (
        f"{row.name} takes {ratio:.2f} of the {found.reference}'s time in {row.form}; the search believed {value:.2f},"
        f" in {where}{advice}."
    )


def sections(run: Path) -> list[tuple[str, str]]:
    """For the report: title and HTML; [] where nothing was deployed."""
    found = read(run)
    if not found.rows:
        return []
    items = "".join(f"<li>{escape(line)}</li>" for line in words(found))
    text = f"<p>{escape(said(found))}</p>" + (f"<ul>{items}</ul>" if items else "")
    return [("As it is deployed", text + html_table(table(found)))]


def said(found: Deployment) -> str:
    """How the table was made; "" where nothing was measured."""
    timed = [row for row in found.rows if "latency_ms" in row.metrics]
    if not timed:
        return ""
    parts = [
        f"mAP is of the {_values(timed, 'split')} images, by YOLOv5's val.run on the exported files.",
        "Network ms is of the network alone, image ms from decoded pixels to boxes.",
        f"{_values(timed, 'device')}, {_values(timed, 'threads')} thread(s), batch {_values(timed, 'batch')}.",
    ]
    if any("latency_ratio" in row.metrics for row in timed if row.number != REFERENCE):
        parts.insert(
            1,
            f"Each form was timed alternately with the {found.reference}'s; its milliseconds are those of the"
            f" {found.reference} times the ratio.",
        )
    if any(row.conditions.get("vnni") is False for row in timed if row.form.precision == "int8"):
        parts.append("This processor has no instruction for INT8 (VNNI); INT8 gains more where there is one.")
    return " ".join(parts)


def _values(rows: Sequence[Deployed], name: str) -> str:
    return " or ".join(sorted({str(row.conditions.get(name)) for row in rows}))


def readme(
    found: Deployment, number: int, subject: str, imgsz: int, classes: Sequence[str], files: Sequence[Path]
) -> str:
    """The README.md of an exported folder.

    Args:
        subject: what it is of.
        files: relative to the folder.
    """
    own = Deployment(tuple(found.of(number)), found.reference, found.margin)
    rows = table(own)
    lines = [f"# {subject}", "", f"Input: 1 x 3 x {imgsz} x {imgsz}, RGB, 0 to 1, letterboxed as YOLOv5 does it.", ""]
    lines += [f"Classes: {', '.join(f'{i} {name}' for i, name in enumerate(classes))}.", "", "## How to run it", ""]
    lines += ["In a clone of ultralytics/yolov5, without any plugin:", "", "```bash"]
    lines += [command("detect.py", Options(), imgsz, "--weights", file, "--source", "IMAGES") for file in files]
    lines += ["```", ""]
    if said(own):
        lines += ["## What was measured", "", said(found), ""]
        lines += ["| " + " | ".join(cells[1:]) + " |" for cells in rows[:1]]
        lines += ["|" + "---|" * (len(rows[0]) - 1)]
        lines += ["| " + " | ".join(cells[1:]) + " |" for cells in rows[1:]]
        lines += ["", *words(own)]
    return "\n".join(lines) + "\n"
