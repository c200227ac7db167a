"""What a run found, for people: results.csv, three pictures, report.html, and the closing table.

All from the journal; `search.yaml` adds the objectives and the input size, where it is there.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from ..files import given_path, write_whole
from ..records.journal import TrialRecord, best, complete, read_journal, read_lines, reference, to_dict
from ..records.metrics import LATENCIES, LEARNT, is_maximised
from ..records.options import Options
from ..records.proof import read_plan
from ..records.run_folder import RunFolder
from . import audit, comparison, confirmed, deployed, judged, ranking, replacement, rivals
from .commands import commands
from .confirmed import Confirmed
from .page import COMPARED, Row, figures, page
from .plots import trusted
from .winner import options_of, winner_of

FOUND_NOTHING = "The search found nothing better than the stock architecture."
ONCE = "Each was trained once; another seed moves mAP too, so train both a few times before you rely on a small gain."
STOCK_LEADS = (
    "The stock architecture has the best score. It takes inherited weights whole and others have to adapt them, so that"
    " does not show that none is better: yolov5-nas prove trains the best of the others longer, beside it."
)


def report(run: str | Path) -> Path:
    """Rebuild `results.csv`, the pictures and `report.html` of a run, and return the HTML's path.

    Raises:
        UserError: there is no run, or its `search.yaml` can't be read.
    """
    files = RunFolder(run := given_path(run))
    if run.is_file():
        raise UserError("a report is of a run's folder", got=str(run))
    options = options_of(run)
    records = trials_of(run, options)
    drawn = figures(run, records, options)
    winner = winner_of(run, records, options)
    model_files = usage(run, winner) if winner else f"There is none. Logs of the trials: {run}/trials"
    sections = []
    if records:
        sections = [*audit.sections(run, options), *ranking.sections(run)]
    sections = [*deployed.sections(run), *sections]
    if options.replaces:
        sections = [*replacement.sections(run, records, options), *sections]
    if records:
        sections = [*comparison.sections(run, options), *sections]
    words = _said(run, records, options)
    compared = _headings(run, records, options), _rows(run, records, options)
    html = page(run, records, options, drawn, sections, words, compared, model_files, winner)
    # Not before: what can't be read leaves an earlier report as it was.
    _write_csv(records, files.table)
    for figure in drawn:
        if figure.png:
            (run / figure.file).write_bytes(figure.png)
        else:
            (run / figure.file).unlink(missing_ok=True)  # of an earlier report, which would mislead
    write_whole(files.report, html)
    return files.report


def check_readable(run: Path) -> None:
    """Check what a report reads, before anything of the run is written.

    Raises:
        UserError: a file can't be read.
    """
    files = RunFolder(run)
    stages = (files, files.scores, files.audit, files.confirmed, files.parent, files.replacements, files.latencies)
    for stage in (*stages, files.plans, files.rivals, files.proof):
        read_lines(stage.journal)
    if plan := read_plan(run):
        comparison.names_of(run, plan)
    _ = comparison.read_images(run), judged.read(run), deployed.read(run)


def trials_of(run: Path, options: Options) -> list[TrialRecord]:
    """The trials of a run; none where a replacement search has not come to them.

    Raises:
        UserError: there is no run.
    """
    return [] if options.replaces and not RunFolder(run).journal.exists() else read_journal(run)


def summary(
    records: Sequence[TrialRecord], stock_leads: bool = False, again: Confirmed | None = None, proof: str = ""
) -> str:
    """In words: what the search found, or that it found nothing better than stock YOLOv5, or could not tell.

    Args:
        stock_leads: stock YOLOv5 took inherited weights whole.
        again: what was trained with another seed.
        proof: what further trainings have shown.
    """
    winner, stock = again.winner if again else best(records), reference(records)
    count = Counter(r.state for r in records)
    others = "".join(f", {count[state]} {state}" for state in ("failed", "infeasible", "pruned") if count[state])
    ended = f"{count['complete']} trials complete{others}. "
    most = max((r.metrics.get("map50_95", 1.0) for r in complete(records)), default=1.0)
    if most < LEARNT:
        return ended + (
            f"None has learnt to detect (best mAP50-95 {most:.4f}), so there is nothing to compare: give more --epochs,"
            " or --weights to start from."
        )
    sure = " ".join(filter(None, [again.words() if again else "" if proof else ONCE, proof]))
    if winner is None:
        return ended + "No trial has a result" + (" that meets the constraints." if complete(records) else ".")
    if stock is None:
        lone = f"Best is trial {winner.number}; the stock architecture has no result to compare with."
        return ended + lone + (f" {sure}" if again else "")
    if winner.number == stock.number:
        return ended + (STOCK_LEADS if stock_leads else FOUND_NOTHING) + (f" {sure}" if again else "")
    broken = "The stock architecture itself breaks a constraint. " if stock.error else ""
    return f"{ended}Best is trial {winner.number}: {_against(winner, stock, again)}. {broken}{sure}"


def _said(run: Path, records: Sequence[TrialRecord], options: Options) -> str:
    proof = comparison.shown(run, options) if records else ""
    if not options.replaces:
        return summary(records, options.inherits, confirmed.read(run, records, options), proof)
    found = replacement.winners(run, records, options)
    parts = [
        replacement.words(run, records, options, proof),
        rivals.words(run, found, options),
        judged.words(run, found),
    ]
    return "\n".join(filter(None, parts))


def _rows(run: Path, records: Sequence[TrialRecord], options: Options) -> list[Row]:
    if not options.replaces:
        return _compared(records, confirmed.read(run, records, options))
    parent = reference(records)
    found: list[tuple[str, str, TrialRecord]] = [("stock", "parent (trial 0)", parent)] if parent else []
    for winner in replacement.winners(run, records, options):
        if winner.record:
            found.append(("best", f"{winner.name} (trial {winner.record.number})", winner.record))
        own = rivals.rivals(run, [winner], options)
        found += [("rival", f"  rival: {rival.name}", rival.record) for rival in own if rival.record]
    by_split = judged.read(run)
    return [
        (kind, name, [*_cells(record), *([by_split.cell(record.id)] if by_split.has_test else [])])
        for kind, name, record in found
    ]


def _headings(run: Path, records: Sequence[TrialRecord], options: Options) -> list[str]:
    """Of the cells of `_rows`."""
    found = ["reward", *(heading.replace("stock", options.reference) for _, heading, _ in COMPARED)]
    if confirmed.read(run, records, options):
        found.append("expected mAP")
    return [*found, "mAP50-95 test"] if judged.read(run).has_test else found


def closing_table(run: Path, records: Sequence[TrialRecord]) -> str:
    """The stock architecture, the best, the gain, and where the files are."""
    options = options_of(run)
    winner = winner_of(run, records, options)
    if options.replaces and not records:
        return f"{_said(run, records, options)}\n\nreport      {RunFolder(run.resolve()).report}"
    rows = _rows(run, records, options)
    width = max([18, *(len(name) + 2 for _, name, _ in rows)])
    lines = [_line("", _headings(run, records, options), width)]
    lines += [_line(name, cells, width) for _, name, cells in rows]
    files = usage(run, winner) if winner else f"Logs of the trials: {run}/trials"
    return "\n".join([*lines, "", _said(run, records, options), "", files])


def usage(run: Path, winner: TrialRecord) -> str:
    """Return where the winner's files are, and the commands by which YOLOv5 takes them; see `commands`."""
    folder = RunFolder(run.resolve()).best
    files = {
        "model": folder / "model.yaml",
        "weights": folder / "weights" / "best.pt",
        "report": run.resolve() / "report.html",
    }
    lines = {**files, **commands(run, winner, options_of(run))}
    return "\n".join(f"{name:<12}{line}" for name, line in lines.items())


def _against(winner: TrialRecord, stock: TrialRecord, again: Confirmed | None) -> str:
    parts = []
    if again:
        parts.append(f"mAP50-95 {again.expected(winner) - again.expected(stock):+.3f} to be expected")
    elif {"map50_95"} <= set(winner.metrics) & set(stock.metrics):
        parts.append(f"mAP50-95 {winner.metrics['map50_95'] - stock.metrics['map50_95']:+.3f}")
    text = " ".join([*parts, "against the stock architecture"])
    if {"latency_ratio"} <= set(winner.metrics) & set(stock.metrics):
        text += f" at {winner.metrics['latency_ratio'] / stock.metrics['latency_ratio']:.2f} times its latency"
        doubtful = [name for name, record in (("its own", winner), ("stock's", stock)) if not trusted(record)]
        if doubtful:
            text += f" (not to be trusted: the spread of {' and '.join(doubtful)} measurement was too large)"
    return text


def _compared(records: Sequence[TrialRecord], again: Confirmed | None) -> list[Row]:
    """The rows that compare the winner with the stock architecture."""
    winner, stock = again.winner if again else best(records), reference(records)
    rows = []
    for kind, record in (("stock", stock), ("best", winner)):
        if record is not None:
            last = [f"{again.expected(record):.3f}"] if again else []
            rows.append((kind, f"{kind} (trial {record.number})", [*_cells(record), *last]))
    if winner and stock and winner is not stock:
        last = [f"{again.expected(winner) - again.expected(stock):+.3f}"] if again else []
        rows.append(("gain", "gain", [*_gain(winner, stock), *last]))
    return rows


def _cells(record: TrialRecord) -> list[str]:
    reward = "" if record.reward is None else f"{record.reward:.4f}"
    mark = {} if trusted(record) else dict.fromkeys(LATENCIES, "?")
    known = record.metrics
    return [reward, *(f.format(known[m]) + mark.get(m, "") if m in known else "-" for m, _, f in COMPARED)]


def _gain(winner: TrialRecord, stock: TrialRecord) -> list[str]:
    """Differences of accuracies; costs as a percentage."""
    cells = [f"{(winner.reward or 0) - (stock.reward or 0):+.4f}"]
    for metric, _, _ in COMPARED:
        if metric not in winner.metrics or metric not in stock.metrics:
            cells.append("-")
        elif is_maximised(metric):
            cells.append(f"{winner.metrics[metric] - stock.metrics[metric]:+.3f}")
        else:
            cells.append(f"{winner.metrics[metric] / stock.metrics[metric] - 1:+.0%}")
    return cells


def _line(name: str, cells: Sequence[str], width: int) -> str:
    return f"{name:<{width}}" + "".join(f"{cell:>{max(12, len(cell) + 2)}}" for cell in cells)


def _write_csv(records: Sequence[TrialRecord], path: Path) -> None:
    rows = [to_dict(record) for record in records]
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
