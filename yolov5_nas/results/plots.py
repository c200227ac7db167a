"""The pictures of a run as PNGs: accuracy against cost, the progress of the search, what each choice does."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from ..records.journal import TrialRecord, best, complete, eligible, front, reference
from ..records.metrics import LATENCIES, NORMAL_95, axis_label, is_maximised
from ..records.reward import Constraint
from ..space.architecture import Value
from ..space.choices import size_of
from ..strategies.regression import fence
from ..strategies.replacement import Item
from .effects import Effect, strongest

# Okabe and Ito's colours, which the colour-blind can tell apart.
GREY, BLUE, ORANGE, GREEN, RED = "#9aa0a6", "#0072b2", "#e69f00", "#009e73", "#d55e00"
MARK_INCHES, LETTER_INCHES = 0.6, 0.075  # that an entry of a legend takes
OPTIONS_SHOWN = 20
SHORT = 3600.0  # seconds; a search below is shown in minutes


def axes_of(objectives: Sequence[str], records: Iterable[TrialRecord]) -> tuple[str, str]:
    """The two metrics that are drawn, x and y: the first two objectives, a cost along x.

    Where trials are complete and none has both, as when latency can't be measured, they are GFLOPs and mAP50-95.
    """
    first, second = objectives[:2]
    pair = (second, first) if is_maximised(first) and not is_maximised(second) else (first, second)
    done = complete(records)
    known = not done or any(set(pair) <= set(r.metrics) for r in done)
    return pair if known else ("gflops", "map50_95")


def trusted(record: TrialRecord) -> bool:
    """Whether the latency is known as well as it should be; an unmeasured one counts as trusted."""
    return bool(record.conditions.get("trusted", True))


def pareto(
    records: Sequence[TrialRecord],
    x: str,
    y: str,
    constraints: Iterable[Constraint] = (),
    reference_name: str = "stock YOLOv5",
    winner: TrialRecord | None = None,
    rivals: Mapping[str, TrialRecord] = {},
) -> bytes | None:
    """Two metrics of all trials, with the front, the reference and the winner; None where none has both.

    Args:
        winner: by default that with the best reward.
        rivals: what was trained beside the trials, by name.
    """
    shown = [r for r in complete(records) if x in r.metrics and y in r.metrics]
    if not shown:
        return None
    figure, (axes,) = _axes(8.5, 5.2)
    best_ones, stock, leads = front(shown, x, y), reference(shown), best(shown)
    winner = winner if winner in shown else leads
    own = {r.number for r in (*best_ones, stock, winner) if r}  # which have marks of their own
    _scatter(axes, [r for r in shown if r.number not in own], x, y, GREY, alpha=0.75, label="trial")
    _steps(axes, best_ones, x, y)
    _scatter(axes, best_ones, x, y, BLUE, zorder=3, label="Pareto front")
    _scatter(axes, [stock], x, y, ORANGE, marker="s", s=90, zorder=4, label=reference_name)
    name = f"{'best reward' if winner is leads else 'winner'} (trial {winner.number})" if winner else ""
    _scatter(axes, [winner], x, y, GREEN, marker="*", s=260, zorder=5, label=name)
    beside = {name: r for name, r in rivals.items() if x in r.metrics and y in r.metrics}
    _scatter(axes, list(beside.values()), x, y, RED, marker="D", s=44, zorder=3, label="rival")
    if any(_is_doubtful(r, x, y) for r in (*shown, *beside.values())):
        axes.scatter([], [], s=36, facecolor="white", edgecolor=GREY, label="hollow: latency not to be trusted")
    if is_maximised(y) and not beside:  # where there are rivals points are few, and each is looked for
        _cut(axes, [r.metrics[x] for r in shown], [r.metrics[y] for r in shown])
    _refused(axes, [r for r in records if r.state == "infeasible" and x in r.metrics], x)
    for constraint in constraints:
        if constraint.metric in (x, y):
            line = axes.axvline if constraint.metric == x else axes.axhline
            line(constraint.limit, color=RED, linestyle=":", zorder=1, label=str(constraint))
    axes.set(xlabel=axis_label(x).replace("stock YOLOv5", reference_name), ylabel=axis_label(y))
    for axis, metric in ((axes.xaxis, x), (axes.yaxis, y)):
        if metric == "params":
            axis.set_major_formatter(lambda value, _: f"{value / 1e6:g} M")
    _numbers(axes, [r for r in best_ones if r not in (stock, winner)], x, y)
    _names(axes, beside, x, y)
    return _png(figure, axes)


def progress(records: Iterable[TrialRecord]) -> bytes | None:
    """The best reward by trial and by time spent on trials; None where no trial is complete."""
    ended = sorted((r for r in records if r.done), key=lambda r: r.number)
    if not complete(ended):
        return None
    seconds = list(accumulate(r.seconds or 0.0 for r in ended))
    unit, name = (60.0, "minutes") if seconds[-1] < SHORT else (3600.0, "hours")
    figure, (left, right) = _axes(11, 4.2, columns=2, sharey=True)
    _progress(left, ended, [float(r.number) for r in ended])
    _progress(right, ended, [s / unit for s in seconds])
    left.set(xlabel="trial", ylabel="reward")
    left.xaxis.get_major_locator().set_params(integer=True)
    right.set(xlabel=f"{name} of trials, one after the other")
    return _png(figure, left)


def choices(accuracy: Sequence[Effect], cost: Sequence[Effect], cost_name: str) -> bytes | None:
    """The effects on mAP50-95 and on a cost of the options that stand out, side by side; None where there are none."""
    keys = strongest((accuracy, cost), OPTIONS_SHOWN)
    if not keys:
        return None
    by_key = [{(e.label, e.option): e for e in found} for found in (accuracy, cost)]
    # From what hurts mAP to what helps it: the drawing begins at the bottom.
    keys.sort(key=lambda key: (by_key[0][key].mean if key in by_key[0] else 0.0, str(key)))
    figure, (left, right) = _axes(11, 1.6 + 0.29 * len(keys), columns=2, sharey=True)
    _forest(left, [by_key[0].get(key) for key in keys], good=1)
    _forest(right, [by_key[1].get(key) for key in keys], good=-1)
    names = [next(e[key] for e in by_key if key in e).name for key in keys]
    left.set_yticks(range(len(keys)), names)
    for axes in (left, right):
        axes.locator_params(axis="x", nbins=6)
    left.set(xlabel="change of mAP50-95", ylim=(-0.7, len(keys) - 0.3))
    left.xaxis.set_major_formatter(lambda value, _: f"{value:+.3g}" if value else "0")
    right.set(xlabel=f"change of {cost_name}, in % of stock YOLOv5's")
    right.xaxis.set_major_formatter(lambda value, _: f"{100 * value:+.3g} %" if value else "0")
    return _png(figure, left, right)


def replacements(
    items: Sequence[Item], metric: str, plans: Mapping[str, Mapping[str, Value]], default: Mapping[str, Value]
) -> bytes | None:
    """What each option of a table costs and saves, a row each, by layer, and which plans take it.

    Args:
        items: of which each is drawn.
        metric: the cost of which shares are saved.
        plans: architectures by name.
    """
    if not items:
        return None
    figure, (left, right) = _axes(11, 1.8 + 0.21 * len(items), columns=2, sharey=True)
    rows = range(len(items), 0, -1)
    shared = {"fmt": "o", "ms": 4, "color": BLUE, "ecolor": GREY, "elinewidth": 1.2}
    left.errorbar([i.rise for i in items], rows, xerr=[NORMAL_95 * i.error for i in items], **shared)
    spread = [100 * NORMAL_95 * i.unsure.get(metric, 0.0) for i in items]
    right.errorbar([100 * i.saves[metric] for i in items], rows, xerr=spread, **shared)
    left.set_xscale("symlog", linthresh=1e-3)
    for colour, (name, architecture) in zip((GREEN, ORANGE, RED, BLUE, GREY), plans.items()):
        taken = [all(architecture.get(k) == v for k, v in item.change) for item in items]
        whole = [t and _is_whole(item, architecture, default) for item, t in zip(items, taken)]
        marked = [(item.rise, row) for item, row, w in zip(items, rows, whole) if w]
        size = 50 + 70 * list(plans).index(name)
        left.scatter(
            *zip(*marked) if marked else ((), ()), s=size, facecolor="none", edgecolor=colour, linewidth=1.8, label=name
        )
    layers = [item.layer for item in items]
    for row, layer, before in zip(rows, layers, [None, *layers]):
        if before is not None and layer != before:
            for axes in (left, right):
                axes.axhline(row + 0.5, color="#dadce0", linewidth=0.8)
    left.set_yticks(list(rows), [", ".join(f"{k} {v}" for k, v in item.change) for item in items], fontsize=8)
    left.set(xlabel="rise of the loss", ylim=(0.3, len(items) + 0.7))
    left.axvline(0, color=GREY, linewidth=0.8)
    right.axvline(0, color=GREY, linewidth=0.8)
    right.set(xlabel=f"saved, in % of the parent's {axis_label(metric).split(' / ')[0]}")
    return _png(figure, left)


@dataclass(frozen=True)
class Gain:
    """What a contestant of a proof has more than another.

    Args:
        apart: differences of the same seed.
        seeds: mean and 95 % interval, on the images that were validated on; they may be endless.
        images: the same for new images.
    """

    name: str
    apart: tuple[float, ...]
    seeds: tuple[float, float, float]
    images: tuple[float, float, float] | None


def gains(found: Sequence[Gain], margin: float) -> bytes:
    """Differences of mAP50-95, a group of rows each: the seeds', and their mean with 95 % intervals.

    Args:
        margin: what is not below by more counts as good.
    """
    figure, (axes,) = _axes(8.5, 1.4 + 0.75 * len(found))
    ends = [end for g in found for end in (*g.apart, *g.seeds, *(g.images or ())) if math.isfinite(end)]
    low, high = min(-1.5 * margin, *ends), max(margin, *ends)
    for row, gain in zip(range(len(found), 0, -1), found):
        label = row == len(found)
        dots = {"s": 14, "color": GREY, "zorder": 2, "label": "each seed" if label else None}
        axes.scatter(gain.apart, [row + 0.22] * len(gain.apart), **dots)
        bars = (
            (gain.seeds, BLUE, "these images, other seeds", 0.0),
            (gain.images, GREEN, "new images and seeds", -0.22),
        )
        for bar, colour, name, up in bars:
            if bar:
                reach = [[bar[0] - max(bar[1], 2 * low)], [min(bar[2], 2 * high) - bar[0]]]
                style = {"fmt": "o", "ms": 6, "color": colour, "elinewidth": 1.8, "label": name if label else None}
                axes.errorbar([bar[0]], [row + up], xerr=reach, **style)
    axes.axvline(0, color="#5f6368", linewidth=1)
    axes.axvline(-margin, color=RED, linewidth=1, linestyle=":", label="margin")
    axes.set_yticks(range(len(found), 0, -1), [gain.name for gain in found], fontsize=9)
    axes.set(xlabel="mAP50-95 above the rival's", ylim=(0.5, len(found) + 0.5), xlim=(low * 1.1, high * 1.1))
    axes.grid(axis="y", visible=False)
    return _png(figure, axes)


def _is_whole(item: Item, architecture: Mapping[str, Value], default: Mapping[str, Value]) -> bool:
    """Whether a plan has exactly this of the layer's shape; an activation stands for itself."""
    if size_of(item.change[0][1]) is None:
        return True
    of_layer = re.compile(rf"[a-z0-9]+_{item.layer}(?!\d)")
    own = {k: v for k, v in architecture.items() if of_layer.match(k) and size_of(v) is not None}
    return {k: v for k, v in own.items() if v != default.get(k)} == dict(item.change)


def _axes(width: float, height: float, columns: int = 1, **options: Any) -> tuple[Any, Any]:
    """A figure of so many inches without pyplot's global state: a search draws while it runs."""
    import seaborn as sns
    from matplotlib.figure import Figure

    with sns.axes_style("whitegrid", {"grid.color": "#e8eaed", "axes.edgecolor": "#80868b"}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(1, columns, squeeze=False, **options)[0]
    sns.despine(figure)
    return figure, axes


def _png(figure: Any, *axes: Any) -> bytes:
    """The figure with one legend above all axes, where it covers no point."""
    found: dict[str, Any] = {}
    for one in axes:
        handles, labels = one.get_legend_handles_labels()
        found |= {label: handle for handle, label in zip(handles, labels) if label not in found}
    if found:
        wide = sum(MARK_INCHES + LETTER_INCHES * len(label) for label in found)
        columns = math.ceil(len(found) / math.ceil(wide / figure.get_figwidth()))
        figure.legend(found.values(), found.keys(), loc="outside upper center", ncols=columns, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _cut(axes: Any, x: Sequence[float], y: Sequence[float]) -> None:
    """Leave out the values below the fence; arrows along the axis say so."""
    floor = fence(y)
    low = [xx for xx, yy in zip(x, y) if yy < floor]
    if low:
        axes.set_ylim(bottom=floor - 0.05 * (max(y) - floor))
        style = {"color": GREY, "markersize": 6, "transform": axes.get_xaxis_transform()}
        axes.plot(low, [0.05] * len(low), "v", label=f"{len(low)} below the picture", **style)


def _scatter(axes: Any, records: Sequence[TrialRecord | None], x: str, y: str, colour: str, **style: Any) -> None:
    """Marks in a colour, hollow where the latency is not to be trusted; one label for both."""
    found = [r for r in records if r]
    style = {"s": 36, "label": None, **style}
    for hollow in (False, True):
        points = [(r.metrics[x], r.metrics[y]) for r in found if _is_doubtful(r, x, y) == hollow]
        if points:
            face, edge = ("white", colour) if hollow else (colour, "white")
            axes.scatter(*zip(*points), facecolor=face, edgecolor=edge, linewidth=1.4 if hollow else 0.8, **style)
            style["label"] = None


def _is_doubtful(record: TrialRecord, x: str, y: str) -> bool:
    return not trusted(record) and bool({x, y} & set(LATENCIES))


def _steps(axes: Any, records: Sequence[TrialRecord], x: str, y: str) -> None:
    """The line of the Pareto front."""
    if points := sorted((r.metrics[x], r.metrics[y]) for r in records):
        axes.step(*zip(*points), where="pre" if is_maximised(x) else "post", color=BLUE, linewidth=1.6, zorder=2)


def _numbers(axes: Any, records: Sequence[TrialRecord], x: str, y: str) -> None:
    """The trials' numbers below their points, where they don't cover each other. To be called when all is drawn."""
    taken: list[tuple[float, float]] = []
    for record in records:
        point = record.metrics[x], record.metrics[y]
        across, up = axes.transAxes.inverted().transform(axes.transData.transform(point))
        if all(abs(across - a) > 0.045 or abs(up - b) > 0.04 for a, b in taken):
            taken.append((across, up))
            axes.annotate(f"{record.number}", point, (6, -11), textcoords="offset points", color=BLUE, fontsize=8)


def _names(axes: Any, records: Mapping[str, TrialRecord], x: str, y: str) -> None:
    """Names beside points, on the side that has room. To be called when all is drawn."""
    for name, record in records.items():
        point = record.metrics[x], record.metrics[y]
        is_left = axes.transAxes.inverted().transform(axes.transData.transform(point))[0] < 0.6
        style = {"ha": "left" if is_left else "right", "va": "center", "color": RED, "fontsize": 8}
        axes.annotate(name, point, (8 if is_left else -8, 0), textcoords="offset points", **style)


def _refused(axes: Any, records: Sequence[TrialRecord], x: str) -> None:
    """Ticks along the axis for what a constraint refused before training; they don't stretch it."""
    if records:
        limits = axes.get_xlim()
        values, transform = [r.metrics[x] for r in records], axes.get_xaxis_transform()
        axes.plot(values, [0.012] * len(values), "|", color=RED, alpha=0.6, transform=transform, label="infeasible")
        axes.set_xlim(limits)


def _progress(axes: Any, ended: Sequence[TrialRecord], at: Sequence[float]) -> None:
    """Each trial's reward, the best so far, and marks along the axis for trials without a result."""
    import seaborn as sns

    place = dict(zip((r.number for r in ended), at))
    having, good = complete(ended), eligible(ended)
    x, y = [place[r.number] for r in having], [r.reward or 0.0 for r in having]
    sns.scatterplot(x=x, y=y, ax=axes, color=GREY, s=26, label="trial", legend=False)
    if stock := reference(ended):
        axes.axhline(stock.reward or 0.0, color=ORANGE, linestyle="--", linewidth=1.2, label="stock YOLOv5")
    if winner := best(ended):
        highest = list(accumulate((r.reward or 0.0 for r in good), max))
        steps = [*(place[r.number] for r in good), at[-1]]
        axes.step(steps, [*highest, highest[-1]], where="post", color=BLUE, linewidth=1.8, label="best so far")
        style = {"color": GREEN, "marker": "*", "markersize": 15, "markeredgecolor": "white", "zorder": 4}
        axes.plot(place[winner.number], winner.reward, linestyle="", label="best reward", **style)
    _cut(axes, x, y)
    for state, marker, colour in (("infeasible", "|", GREY), ("failed", "x", RED)):
        if lost := [place[r.number] for r in ended if r.state == state]:
            transform = axes.get_xaxis_transform()
            axes.plot(lost, [0.02] * len(lost), marker, color=colour, markersize=5, transform=transform, label=state)


def _forest(axes: Any, found: Sequence[Effect | None], good: int) -> None:
    """A point and a 95 % interval for each effect; `good` is the sign of what makes a metric better."""
    axes.axvline(0, color="#5f6368", linewidth=1)
    kinds = (
        ("matters, for the better", BLUE, "o", lambda e: e.matters and e.mean * good > 0),
        ("matters, for the worse", RED, "o", lambda e: e.matters and e.mean * good < 0),
        ("can't be told from no change", GREY, "none", lambda e: not e.matters),
    )
    for name, colour, fill, fits in kinds:
        rows = [(i, e) for i, e in enumerate(found) if e is not None and fits(e)]
        if rows:
            means = [e.mean for _, e in rows]
            ends = [[e.mean - e.low for _, e in rows], [e.high - e.mean for _, e in rows]]
            style = {"fmt": "o", "markersize": 5, "elinewidth": 1.6, "capsize": 0}
            face = "white" if fill == "none" else colour
            axes.errorbar(means, [i for i, _ in rows], xerr=ends, color=colour, mfc=face, label=name, **style)
