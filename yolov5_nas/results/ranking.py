"""The same trials ranked by the latencies of two machines or runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from ..records.journal import TrialRecord, eligible, read_journal, read_lines
from ..records.run_folder import RunFolder
from .statistics import tau_b


def ranking(before: Sequence[TrialRecord], after: Sequence[TrialRecord]) -> list[list[str]]:
    """Rows in the order of the second rewards; the first row is the heading."""
    old = {r.number: r for r in before}
    ranks = {r.number: i for i, r in enumerate(sorted(before, key=_order), 1)}
    rows = [["rank", "before", "trial", "reward", "x stock", "before", "+-"]]
    for i, record in enumerate(sorted(after, key=_order), 1):
        m, was = record.metrics, old[record.number].metrics.get("latency_ratio")
        error = f"{m['latency_error']:.1%}" + ("" if record.conditions.get("trusted", True) else " untrusted")
        shown = [f"{record.reward:.4f}", f"{m['latency_ratio']:.3f}", f"{was:.3f}" if was else "-", error]
        rows.append([str(i), str(ranks[record.number]), str(record.number), *shown])
    return rows


def agreement(before: Sequence[TrialRecord], after: Sequence[TrialRecord]) -> float:
    """Kendall's tau between the two rankings: 1 the same, 0 unrelated, -1 reversed."""
    old = {r.number: r.reward or 0.0 for r in before}
    return tau_b([old[r.number] for r in after], [r.reward or 0.0 for r in after])


def sections(run: Path) -> list[tuple[str, str]]:
    """What `report --remeasure` found so far, for the report: titles and HTML."""
    found = []
    for path in sorted(RunFolder(run).remeasured.glob("*.jsonl")):
        after = read_lines(path)
        numbers = {r.number for r in after}
        before = [r for r in eligible(read_journal(run)) if r.number in numbers]
        if len(after) < 2 or len(before) < len(after):
            continue
        c = after[0].conditions
        where = f"{c['runtime']}, {c['device']}, {c['dtype']}, batch {c['batch']}"
        text = f"{where}. Kendall's tau: {agreement(before, after):.2f}."
        found.append((f"Measured again: {path.stem}", f"<p>{escape(text)}</p>" + html_table(ranking(before, after))))
    return found


def html_table(rows: Sequence[Sequence[str]], wraps: bool = False) -> str:
    """Rows, the first of them the heading, as HTML.

    Args:
        wraps: the last column is text that may take several lines.
    """
    head = "".join(f"<th>{escape(cell)}</th>" for cell in rows[0])
    kinds = ["", *[""] * (len(rows[0]) - 2), ' class="wrap"' if wraps else ""]
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, row)) + "</tr>"
        for row in rows[1:]
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _order(record: TrialRecord) -> tuple[float, int]:
    return -(record.reward or 0.0), record.number
