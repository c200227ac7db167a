"""The report's page: pictures with their words, how latency was measured, what failed, and the table of all trials."""

from __future__ import annotations

import base64
import datetime
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from ..records.journal import TrialRecord, complete, front
from ..records.metrics import LATENCIES, SHOWN, axis_label, is_maximised
from ..records.options import Options
from ..strategies.savings import measured_costs
from .effects import MIN_TRIALS, Effect, effects
from .plots import axes_of, choices, pareto, progress, replacements, trusted
from .replacement import planned, read_table, singles, winners
from .rivals import rivals
from .winner import winner_of

COLUMNS = tuple((metric, shown.heading, shown.number) for metric, shown in SHOWN.items())
# On a shared machine milliseconds of two moments can't be compared; the ratio to stock YOLOv5, timed alternately, can.
COMPARED = tuple(column for column in COLUMNS if column[0] != "latency_ms")
NAMED = 6  # effects named in a sentence; the picture shows more
MESSAGE = 300  # characters of an error's message in the table of failures
Section = tuple[str, str]  # title, HTML
Row = tuple[str, str, list[str]]  # CSS class, name, cells


@dataclass(frozen=True)
class Figure:
    """A picture with its words; without a picture the words say why."""

    file: str
    title: str
    png: bytes | None
    text: tuple[str, ...]

    @property
    def base64(self) -> str:
        """The picture as it stands in a data URL."""
        return base64.b64encode(self.png or b"").decode()


def page(
    run: Path,
    records: Sequence[TrialRecord],
    options: Options,
    figures: Sequence[Figure],
    sections: Iterable[Section],
    summary: str,
    compared: tuple[Sequence[str], Sequence[Row]],
    usage: str,
    winner: TrialRecord | None,
) -> str:
    """One self-contained HTML page.

    Args:
        sections: further ones, whose HTML is taken as it is.
        compared: headings and rows of the table that compares the winner with the stock architecture.
        usage: the commands for the winner.
    """
    from jinja2 import Environment

    on_front, default = front(records, *options.front), _default(records)
    reference = "the parent" if options.replaces else "stock YOLOv5"
    known = {metric for metric, _, _ in COLUMNS}
    columns = (*COLUMNS, *((m, m, "{:.3f}") for m in options.front if m not in known))
    template = Environment(autoescape=True).from_string(
        Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    )
    return template.render(
        run=str(run),
        subject=f"{Path(options.cfg).name} on {Path(options.data).name}, {datetime.date.today():%Y-%m-%d}",
        summary=summary,
        compared=compared[1],
        compared_headings=compared[0],
        reference=reference,
        usage=usage,
        has_trials=bool(records) or not options.replaces,
        changed=_changed(winner, default) if winner else [],
        figures=figures,
        sections=list(sections),
        conditions=_conditions(records),
        latency_text=_latency_text(records, reference),
        failures=_failures(records),
        headings=["trial", "state", "reward", *(_named(h, options) for _, h, _ in columns), "seconds", "architecture"],
        rows=[
            _row(r, columns, _state(r, winner, on_front, options.reference), default)
            for r in sorted(records, key=_rank)
        ],
        objectives=" and ".join(axis_label(m).replace("stock YOLOv5", reference) for m in options.front),
        options=yaml.safe_dump(
            {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(options).items()}, sort_keys=False
        ),
    )


def _named(heading: str, options: Options) -> str:
    return heading.replace("stock", options.reference)


# The pictures, each with its words -----------------------------------------------------------------------------------


def figures(run: Path, records: Sequence[TrialRecord], options: Options) -> list[Figure]:
    """Accuracy against cost, progress, and what each choice does; of a replacement search its table."""
    if options.replaces:
        return [*([_trade_off(run, records, options)] if records else []), _replacements(run, options)]
    return [_trade_off(run, records, options), _progress(records), _choices(records, options)]


def _replacements(run: Path, options: Options) -> Figure:
    file, title = "replacements.png", "What each option costs and saves"
    if (table := read_table(run, options)) is None:
        return Figure(file, title, None, ("The options are not scored yet.",))
    items, metric = singles(table), (*measured_costs(options), "gflops")[0]
    found = [winner for winner in planned(run, options) if winner.record and table.has(winner.record.architecture)]
    plans = {winner.name: winner.record.architecture for winner in found if winner.record}
    text = (
        "Each row is an option that was put in the parent's place in one layer, alone, without training, with 95 %"
        " intervals: by how much the loss rises on training images that nothing was fitted to, and what share of the"
        f" {axis_label(metric).split(' / ')[0]} it saves. Rings mark what each plan takes. Options larger than the"
        " parent's are not here: they compute the same at first, and growth is for --method trials.",
    )
    return Figure(file, title, replacements(items, metric, plans, table.parent), text)


def _trade_off(run: Path, records: Sequence[TrialRecord], options: Options) -> Figure:
    x, y = axes_of(options.front, records)
    title = "Accuracy against cost" if is_maximised(y) and not is_maximised(x) else "Trade-off"
    reference_name = "parent" if options.replaces else "stock YOLOv5"
    beside = _rivals(run, records, options) if options.replaces else {}
    png = pareto(records, x, y, options.constraints, reference_name, winner_of(run, records, options), beside)
    if not png:
        return Figure("pareto.png", title, None, (f"No complete trial has both {x} and {y}.",))
    text = [
        f"{len(front(records, x, y))} of {_plural(len(complete(records)), 'complete trial')} on the Pareto front: no"
        " other is at least as good in both and better in one. The figure beside a point is its trial's number."
    ]
    if beside:
        text.append("Rivals are the parent in forms of a winner's cost, trained as the trials were.")
    if len(options.front) > 2:
        text.append(
            f"The search had {len(options.front)} objectives ({', '.join(options.front)}); the picture and its front"
            f" are of two. {len(front(records, *options.front))} are on the front of all, marked in the table below."
        )
    if not {x, y} <= set(options.front):
        text.append(f"No trial has both {' and '.join(options.front[:2])}, so other metrics are drawn.")
    return Figure("pareto.png", title, png, tuple(text))


def _rivals(run: Path, records: Sequence[TrialRecord], options: Options) -> dict[str, TrialRecord]:
    """By name, those of a replacement search that were trained."""
    found = rivals(run, winners(run, records, options), options)
    return {rival.name: rival.record for rival in found if rival.record}


def _progress(records: Sequence[TrialRecord]) -> Figure:
    png, spent = progress(records), sum(r.seconds or 0.0 for r in records)
    text = (
        f"All trials together took {_duration(spent)}; on the right their times are added up as if one ran at a time."
        if png
        else "No trial is complete."
    )
    return Figure("progress.png", "Progress", png, (text,))


def _choices(records: Sequence[TrialRecord], options: Options) -> Figure:
    file, title = "choices.png", "What each choice does"
    done, default = complete(records), _default(records)
    if len(done) < MIN_TRIALS:
        return Figure(
            file, title, None, (f"This takes at least {MIN_TRIALS} complete trials; the run has {len(done)}.",)
        )
    accuracy = effects(done, "map50_95", default)
    if not accuracy:
        return Figure(file, title, None, ("The complete trials don't differ in mAP50-95, or not in their choices.",))
    metric = next((m for m in axes_of(options.front, records) if not is_maximised(m)), "gflops")
    name = "latency" if metric in LATENCIES else axis_label(metric)
    costed = [r for r in records if r.state in ("complete", "infeasible") and metric in r.metrics]
    cost = effects(costed, metric, default, _reference(costed, metric))
    refused = len(costed) - sum(metric in r.metrics for r in done)
    among = f", {refused} infeasible ones among them" if refused else ""
    method = (
        "Each row is an option instead of stock YOLOv5's, all else equal, with a 95 % interval: a model of main"
        f" effects (Bayesian ridge regression) of {len(done)} trials for mAP50-95, and of {len(costed)} for"
        f" {name}{among}. It knows nothing of choices that act together, it keeps near no change where trials are few,"
        " and of twenty intervals about one misses the truth by chance."
    )
    words = (_words("mAP50-95", accuracy, "{:+.3f}".format), _words(name, cost, "{:+.1%}".format))
    return Figure(file, title, choices(accuracy, cost, name), (*words, method))


def _reference(records: Sequence[TrialRecord], metric: str) -> float | None:
    """The stock architecture's value, else the middle one."""
    values = sorted(r.metrics[metric] for r in records)
    return next((r.metrics[metric] for r in records if r.is_reference), values[len(values) // 2] if values else None)


def _words(name: str, found: Sequence[Effect], form: Callable[[float], str]) -> str:
    """Which options matter for a metric, and that nothing can be said of the others."""
    clear = [e for e in found if e.matters]
    rest = len(found) - len(clear)
    if not found:
        return f"{name}: too few trials have it."
    if not clear:
        return f"{name}: none of {_plural(rest, 'option')} can be told from no change with so few trials."
    named = "; ".join(f"{e.name} ({form(e.mean)}, from {form(e.low)} to {form(e.high)})" for e in clear[:NAMED])
    more = f"; and {len(clear) - NAMED} more" if len(clear) > NAMED else ""
    others = f" {_plural(rest, 'other option')} can't be told from no change with so few trials." if rest else ""
    return f"{name}: {_plural(len(clear), 'option')} matter{'s' if len(clear) == 1 else ''}: {named}{more}.{others}"


# How latency was measured, and what failed ---------------------------------------------------------------------------


def _conditions(records: Sequence[TrialRecord]) -> list[tuple[str, str]]:
    """What latencies were measured on: each condition with all values that it had."""
    found: dict[str, list[Any]] = {}
    for record in records:
        for name, value in record.conditions.items():
            if name not in ("trusted", "error", "hooks"):
                found.setdefault(name, []).append(value)
    return [(name, _values(name, values)) for name, values in found.items()]


def _values(name: str, values: Sequence[Any]) -> str:
    if name == "runs" and min(values) < max(values):
        return f"{min(values)} to {max(values)}"
    return ", ".join(dict.fromkeys(map(str, values)))


def _latency_text(records: Sequence[TrialRecord], reference: str) -> list[str]:
    timed = [r for r in records if "latency_ms" in r.metrics]
    errors = Counter(r.conditions["error"] for r in records if "error" in r.conditions)
    text = [f"{_plural(count, 'trial')} without a latency: {error}" for error, count in errors.items()]
    if not timed:
        return [*text, "No trial has a latency."]
    text.append(
        f"Latency is the median of a forward pass. Each model was timed alternately with {reference}, and trials are"
        " compared by the ratio of the two."
    )
    if not any(r.conditions for r in timed):
        text.append("The journal does not say on what it was measured: it is of an older version.")
    if doubtful := sum(not trusted(r) for r in timed):
        text.append(
            f"{doubtful} of {_plural(len(timed), 'measurement')} can't be trusted, since the spread stayed too large:"
            " marked by ? in the table, hollow in the picture."
        )
    return text


def _failures(records: Sequence[TrialRecord]) -> list[tuple[str, str, int, str]]:
    """State, reason, number of trials and a message of those without a result."""
    lost = [r for r in records if r.state != "complete"]
    counts = Counter((r.state, _reason(r)) for r in lost)
    example = {(r.state, _reason(r)): (r.error or {}).get("message", "") for r in reversed(lost)}
    return [(*key, count, example[key][:MESSAGE]) for key, count in counts.most_common()]


def _reason(record: TrialRecord) -> str:
    error = record.error or {}
    if record.state == "started":
        return "runs, or was cut off"
    if record.state == "infeasible":  # the message ends with the constraint; the cost in it is each trial's own
        return error.get("message", "").rpartition("breaks ")[2] or "constraint"
    return error.get("reason", "unknown")


# The table of trials -------------------------------------------------------------------------------------------------


def _default(records: Iterable[TrialRecord]) -> dict[str, Any]:
    """The stock architecture, which every search begins with."""
    return next((dict(r.architecture) for r in records if r.is_reference), {})


def _changed(record: TrialRecord, default: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Label, stock option and own option of the choices in which a trial differs from the stock architecture."""
    return [(k, default.get(k, "-"), v) for k, v in record.architecture.items() if v != default.get(k)]


def _rank(record: TrialRecord) -> tuple[bool, float, int]:
    return record.reward is None, -(record.reward or 0.0), record.number


def _state(
    record: TrialRecord, winner: TrialRecord | None, on_front: Sequence[TrialRecord], reference: str = "stock"
) -> str:
    if record.state == "failed":
        return f"failed ({_reason(record)})"
    if record.state != "complete":
        return "running or cut off" if record.state == "started" else record.state
    words = {
        "best": record is winner,
        reference: record.is_reference,
        "front": record in on_front,
        "infeasible": record.error is not None,
    }
    return ", ".join(word for word, true in words.items() if true) or "complete"


def _row(
    record: TrialRecord, columns: Iterable[tuple[str, str, str]], state: str, default: dict[str, Any]
) -> dict[str, Any]:
    """A trial as a row: of each cell what is shown, and the value that sorts."""
    is_stock = record.is_reference and record.state == "complete"
    kind = "best" if state.startswith("best") else "stock" if is_stock else record.state
    message = (record.error or {}).get("message", "")
    differences = "\n".join(f"{k}: {old} → {new}" for k, old, new in _changed(record, default))
    cells = [
        {"value": record.number, "shown": record.number},
        {"value": state, "shown": state, "title": message, "text": True},
        _cell(record.reward, "{:.4f}"),
        *(_cell(record.metrics.get(m), form, _doubt(record, m)) for m, _, form in columns),
        _cell(record.seconds, "{:,.0f}"),
        {"value": record.id, "shown": record.id, "title": differences or "stock YOLOv5", "text": True},
    ]
    return {"kind": kind, "cells": cells}


def _cell(value: float | None, form: str, doubt: str = "") -> dict[str, Any]:
    if value is None:
        return {"value": "", "shown": "-"}
    return {"value": value, "shown": form.format(value), "doubt": doubt}


def _doubt(record: TrialRecord, metric: str) -> str:
    if trusted(record) or metric not in LATENCIES:
        return ""
    error = record.metrics.get("latency_error")
    return "not to be trusted" + (f": the ratio is known to {error:.1%} only" if error is not None else "")


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"
