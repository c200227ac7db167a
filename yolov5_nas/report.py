"""What a run found, for people: results.csv, pareto.png, report.html, and the closing table. From the journal alone."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .journal import TrialRecord, best, complete, front, read_journal, to_dict

COLUMNS = (  # metric, heading, format
    ("map50_95", "mAP50-95", "{:.3f}"),
    ("map50", "mAP50", "{:.3f}"),
    ("latency_ms", "latency ms", "{:.2f}"),
    ("latency_ratio", "x stock", "{:.2f}"),
    ("gflops", "GFLOPs", "{:.3f}"),
    ("params", "parameters", "{:,.0f}"),
)
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>yolov5-nas: {{ run }}</title><style>
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1100px; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25em .8em; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left }
tr.best { background: #e8f4ea } tr.stock { background: #eef2f8 } tr.failed { color: #999 }
img { max-width: 100% } pre { background: #f5f5f5; padding: .8em; overflow-x: auto }
</style></head><body>
<h1>{{ run }}</h1>
<p>{{ summary }}</p>
{% if plot %}<img alt="mAP50-95 against cost" src="data:image/png;base64,{{ plot }}">{% endif %}
<h2>Use the winner</h2>
<pre>{{ usage }}</pre>
<h2>Trials</h2>
<table><tr><th>trial</th><th>reward</th>{% for c in columns %}<th>{{ c }}</th>{% endfor %}<th>seconds</th></tr>
{% for row in rows %}<tr class="{{ row.kind }}"><td>{{ row.name }}</td>{% for cell in row.cells %}<td>{{ cell }}</td>
{% endfor %}</tr>
{% endfor %}</table>
</body></html>
"""


def report(run: str | Path) -> Path:
    """Rebuild `results.csv`, `pareto.png` and `report.html` of a run, and return the HTML's path.

    Raises:
        UserError: there is no run.
    """
    run = Path(run)
    records = read_journal(run)
    _write_csv(records, run / "results.csv")
    plot = _plot(records)
    if plot:
        (run / "pareto.png").write_bytes(plot)
    (run / "report.html").write_text(_html(run, records, plot))
    return run / "report.html"


def summary(records: Sequence[TrialRecord]) -> str:
    """In words: what the search found, or that it found nothing better than stock YOLOv5."""
    winner, stock = best(records), _stock(records)
    failed = sum(r.state == "failed" for r in records)
    ended = f"{len(complete(records))} trials complete" + (f", {failed} failed" if failed else "") + ". "
    if winner is None:
        return ended + "No trial has a result."
    if stock is None:
        return ended + f"Best is trial {winner.number}; the stock architecture has no result to compare with."
    if winner.number == stock.number:
        return ended + "The search found nothing better than the stock architecture."
    gain = winner.metrics["map50_95"] - stock.metrics["map50_95"]
    ratio = winner.metrics["latency_ratio"] / stock.metrics["latency_ratio"] if _timed(winner, stock) else None
    cost = f" at {ratio:.2f} times its latency" if ratio else ""
    return (
        f"{ended}Best is trial {winner.number}: mAP50-95 {gain:+.3f} against the stock architecture{cost}. "
        "Each was trained once; another seed moves mAP too, so train both a few times before you rely on a small gain."
    )


def closing_table(run: Path, records: Sequence[TrialRecord]) -> str:
    """The stock architecture, the best, the gain, and where the files are."""
    winner, stock = best(records), _stock(records)
    lines = [_line("", ["reward", *(heading for _, heading, _ in COLUMNS)])]
    for name, record in (("stock", stock), ("best", winner)):
        if record is not None:
            lines.append(_line(f"{name} (trial {record.number})", _cells(record)))
    if winner and stock and winner is not stock:
        lines.append(_line("gain", _gain(winner, stock)))
    return "\n".join([*lines, "", summary(records), "", usage(run) if winner else f"Logs of the trials: {run}/trials"])


def usage(run: Path) -> str:
    """Where the winner's files are, and how stock YOLOv5 takes them."""
    best_folder = run.resolve() / "best"
    return (
        f"model       {best_folder / 'model.yaml'}\n"
        f"weights     {best_folder / 'weights' / 'best.pt'}\n"
        f"report      {run.resolve() / 'report.html'}\n"
        f"detect      python detect.py --weights {best_folder / 'weights' / 'best.pt'} --source IMAGES\n"
        f"train on    python train.py --cfg {best_folder / 'model.yaml'} --weights '' --data DATA.yaml"
    )


def _stock(records: Sequence[TrialRecord]) -> TrialRecord | None:
    return next((r for r in records if r.number == 0 and r.state == "complete"), None)


def _timed(*records: TrialRecord) -> bool:
    return all("latency_ratio" in record.metrics for record in records)


def _cells(record: TrialRecord) -> list[str]:
    reward = "" if record.reward is None else f"{record.reward:.4f}"
    return [reward, *(f.format(record.metrics[m]) if m in record.metrics else "-" for m, _, f in COLUMNS)]


def _gain(winner: TrialRecord, stock: TrialRecord) -> list[str]:
    """Differences of accuracies; costs as a percentage."""
    cells = [f"{(winner.reward or 0) - (stock.reward or 0):+.4f}"]
    for metric, _, _ in COLUMNS:
        if metric not in winner.metrics or metric not in stock.metrics or metric == "latency_ms":
            cells.append("-")  # milliseconds of two moments don't compare on a shared machine; the ratio does
        elif metric.startswith("map"):
            cells.append(f"{winner.metrics[metric] - stock.metrics[metric]:+.3f}")
        else:
            cells.append(f"{winner.metrics[metric] / stock.metrics[metric] - 1:+.0%}")
    return cells


def _line(name: str, cells: Sequence[str]) -> str:
    return f"{name:<18}" + "".join(f"{cell:>12}" for cell in cells)


def _write_csv(records: Sequence[TrialRecord], path: Path) -> None:
    rows = [to_dict(record) for record in records]
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def _plot(records: Sequence[TrialRecord], cost: str = "latency_ratio") -> bytes | None:
    """mAP50-95 against cost as a PNG, with the front, the stock architecture and the winner marked."""
    shown = [r for r in complete(records) if cost in r.metrics]
    if not shown:
        return None
    import matplotlib

    with matplotlib.rc_context({"backend": "agg"}):
        import matplotlib.pyplot as plt
        import seaborn as sns

        with sns.axes_style("whitegrid"):
            figure, axes = plt.subplots(figsize=(8, 5), dpi=120)
            x, y = [[r.metrics[m] for r in shown] for m in (cost, "map50_95")]
            sns.scatterplot(x=x, y=y, ax=axes, color="0.6", s=40, label="trials")
            best_ones = front(shown, cost, "map50_95")
            axes.step(
                [r.metrics[cost] for r in best_ones],
                [r.metrics["map50_95"] for r in best_ones],
                where="post",
                color="C0",
                label="Pareto front",
            )
            marks = (("stock YOLOv5", _stock(shown), "C1", "s"), ("best reward", best(shown), "C2", "*"))
            for name, record, colour, marker in marks:
                if record:
                    point = record.metrics[cost], record.metrics["map50_95"]
                    axes.scatter(*point, color=colour, marker=marker, s=170, zorder=3, edgecolor="white", label=name)
            axes.set(xlabel="latency / latency of stock YOLOv5", ylabel="mAP50-95")
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False)  # covers no point
            sns.despine(figure)
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", bbox_inches="tight")
            plt.close(figure)
    return buffer.getvalue()


def _html(run: Path, records: Sequence[TrialRecord], plot: bytes | None) -> str:
    from jinja2 import Environment

    winner = best(records)
    rows: list[dict[str, Any]] = []
    for record in sorted(records, key=lambda r: -(r.reward if r.reward is not None else float("-inf"))):
        kind = "best" if record is winner else "stock" if record.number == 0 else record.state
        reason = f" ({(record.error or {}).get('reason')})" if record.state == "failed" else ""
        name = f"{record.number}" + (" stock" if record.number == 0 else "") + (" best" if record is winner else "")
        if record.state != "complete":
            name += f" {record.state}{reason}"
        rows.append({"kind": kind, "name": name, "cells": [*_cells(record), f"{record.seconds or 0:.0f}"]})
    page = Environment(autoescape=True).from_string(PAGE)
    return page.render(
        run=str(run),
        summary=summary(records),
        plot=base64.b64encode(plot).decode() if plot else "",
        usage=usage(run) if winner else "No trial has a result.",
        columns=[heading for _, heading, _ in COLUMNS],
        rows=rows,
    )
