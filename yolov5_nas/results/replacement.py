"""What a replacement search found: each target's winner compared with the parent, and the table of options' costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..records.journal import TrialRecord, complete, eligible, latest, read_lines, reference
from ..records.metrics import axis_label
from ..records.options import Options
from ..records.reward import Constraint, Target
from ..records.run_folder import RunFolder
from ..space.choices import size_of
from ..space.space import Space
from ..strategies.costs import COUNTED
from ..strategies.pooled import is_noisy, with_repeats
from ..strategies.replacement import Item, Table, make_table, total_rise
from ..strategies.savings import fitted, measured_costs, ratio_of, share
from .ranking import html_table

NEAR = 0.01  # a plan meets a target where its measured cost is at most this share above it
ROUNDING = 1e-9  # the same of a cost that is counted
FALLS = 0.05  # of a class's mAP50-95 below the parent's, from which on it is said
NAMED = 3  # of such classes
UNTRAINED = 1.2  # times its mAP50-95 that a parent reaches by further training, above which it was not trained out


@dataclass(frozen=True)
class Winner:
    """The best trained network that keeps to some targets, or None."""

    targets: tuple[Target, ...]
    record: TrialRecord | None

    @property
    def name(self) -> str:
        """Of the targets, as a folder may be called."""
        return "_".join(str(target) for target in self.targets)


def excess(record: TrialRecord, targets: Sequence[Target], parent: TrialRecord) -> float:
    """By how much a network is above targets, as a share of them."""
    return max(share(record, ratio_of(t.metric), parent) / goal(t, parent) - 1 for t in targets)


def goal(limit: Any, parent: TrialRecord) -> float:
    """A target or a constraint as a share of the parent's cost."""
    value: float = limit.value if isinstance(limit, Target) else limit.limit
    return value if limit.metric == "latency_ratio" else value / parent.metrics[limit.metric]


def keeps(record: TrialRecord, targets: Sequence[Target], o: Options, parent: TrialRecord) -> bool:
    """Whether a network meets targets and constraints, within the error of a measurement; one whose cost is not known
    does not, nor does one whose cost is noisy."""
    if is_noisy(record, _limited(targets, o)):
        return False
    return is_within(record, targets, o, parent)


def is_within(record: TrialRecord, targets: Sequence[Target], o: Options, parent: TrialRecord) -> bool:
    """Return whether the measured costs of a network are within targets and constraints, however noisy they are."""
    if not is_measured(record, [*targets, *o.constraints]):
        return False
    limits: list[Target | Constraint] = [*targets, *o.constraints]
    for limit in limits:
        above = share(record, ratio_of(limit.metric), parent) / goal(limit, parent) - 1
        slack = ROUNDING if limit.metric in COUNTED else NEAR
        if (above if isinstance(limit, Target) or limit.at_most else -above) > slack:
            return False
    return True


def _limited(targets: Sequence[Target], o: Options) -> set[str]:
    """Return the metrics that targets and constraints limit, as they are measured."""
    return {ratio_of(limit.metric) for those in (targets, o.constraints) for limit in those}


def is_measured(record: TrialRecord, limits: Iterable[Target | Constraint]) -> bool:
    """Whether a network has the costs that are limited: plans of other targets may lack them."""
    return {ratio_of(limit.metric) for limit in limits} <= record.metrics.keys()


def winners(run: Path, records: Sequence[TrialRecord], o: Options) -> list[Winner]:
    """Return for each target the trained network with the highest mAP50-95 that meets it, by all measurements of it."""
    parent = next(iter(_done(RunFolder(run).parent)), None)
    if parent is None:
        return []
    found, costs = [], costs_of(run, records, o)
    for targets in o.plans:
        fits = [r for r in eligible(records) if not r.is_reference and keeps(costs[r.number], targets, o, parent)]
        best = max(fits, key=lambda r: (r.metrics["map50_95"], -r.number), default=None)
        found.append(Winner(targets, best))
    return found


def costs_of(run: Path, records: Sequence[TrialRecord], o: Options) -> dict[int, TrialRecord]:
    """Return the complete trials by number, each with its costs by all measurements of it, planned and trained."""
    files, metrics = RunFolder(run).plans, measured_costs(o)
    others = [*_done(files), *_done(files.again)]
    return {r.number: r for r in with_repeats(complete(records), others, metrics)}


def cost_of(run: Path, record: TrialRecord, metric: str, o: Options) -> float:
    """Return a trained network's cost as a share of the parent's, by all measurements of it."""
    return share(costs_of(run, [record], o)[record.number], metric, _done(RunFolder(run).parent)[0])


def measured_plans(run: Path, o: Options) -> list[TrialRecord]:
    """Return the scored plans, each with its costs by all measurements of it before training."""
    files, metrics = RunFolder(run).plans, measured_costs(o)
    return with_repeats(_done(files), _done(files.again), metrics)


def first_winner(run: Path, records: Sequence[TrialRecord], o: Options) -> TrialRecord | None:
    """The winner of the first target that has one."""
    return next((w.record for w in winners(run, records, o) if w.record), None)


def planned(run: Path, o: Options) -> list[Winner]:
    """For each target, and each input size where that is a choice, the planned network with the least rise of the loss
    that meets the target."""
    parent = next(iter(_done(RunFolder(run).parent)), None)
    found, plans = [], measured_plans(run, o)
    for targets in o.plans if parent else ():
        fits = [r for r in plans if parent and keeps(r, targets, o, parent)]
        sizes = sorted({r.architecture.get("imgsz", 0) for r in fits}, key=int, reverse=True)
        of_size = [[r for r in fits if r.architecture.get("imgsz", 0) == size] for size in sizes]
        bests = [min(own, key=lambda r: (total_rise(r), r.number)) for own in of_size]
        found += [Winner(targets, best) for best in bests] or [Winner(targets, None)]
    return found


def read_table(run: Path, o: Options) -> Table | None:
    """The table of a run, from its journals; None where it is not there yet."""
    files = RunFolder(run)
    scored, parent = _done(files.replacements), next(iter(_done(files.parent)), None)
    if parent is None or len(scored) < 2 or not scored[0].is_reference:
        return None
    space = Space.from_yaml(files.space, imgsz=o.imgsz)
    table = make_table(space, scored, o.frozen)
    measured = with_repeats(_done(files.latencies), _done(files.latencies.again), measured_costs(o))
    measured += measured_plans(run, o)
    try:
        return fitted(table, measured, measured_costs(o), parent)
    except KeyError:
        return None


def singles(table: Table) -> list[Item]:
    """The items by which the table was made: joint shapes of a layer, and its activations one by one."""
    return [item for group in table.items.values() for item in group if _is_single(item)]


def _is_single(item: Item) -> bool:
    acts = sum(size_of(value) is None for _, value in item.change)
    return acts == 0 or (acts == 1 and len(item.change) == 1)


def words(run: Path, records: Sequence[TrialRecord], o: Options, proof: str = "") -> str:
    """In words: what was found for each target, compared with the parent trained for as many more epochs.

    Args:
        proof: what further trainings have shown.
    """
    parent, lines = reference(records), []
    if not records:
        count = len({w.targets for w in planned(run, o) if w.record})
        trains = o.trials == 0 and count == len(o.plans)
        way_on = "--resume with --trials trains the plans" if trains else "--resume goes on"
        return f"Targets with a plan: {count} of {len(o.plans)}. Nothing was trained yet ({way_on})."
    if parent is None:
        return "The parent's further training has no result, so nothing is compared with it."
    after, known = parent.metrics["map50_95"], _done(RunFolder(run).parent)
    before = known[0].metrics["map50_95"] if known else after
    lines.append(
        f"The parent, trained further ({o.epochs} epochs), has mAP50-95 {after:.3f}, and had {before:.3f} before."
    )
    if after > UNTRAINED * before:
        lines.append(
            "So it was far from trained out, and options were judged in a network that still changed: train it longer"
            " first."
        )
    found, costs = winners(run, records, o), costs_of(run, records, o)
    for winner in found:
        name, r = " ".join(map(str, winner.targets)), winner.record
        if r is None:
            lines.append(
                f"{name}: missed. {_nearest(list(costs.values()), winner.targets, o, known[0] if known else None)}"
            )
            continue
        text = f"{name}: trial {r.number}, mAP50-95 {r.metrics['map50_95']:.3f}"
        text += f" ({r.metrics['map50_95'] - parent.metrics['map50_95']:+.3f})"
        if "latency_ratio" in r.metrics:
            text += f" at {costs[r.number].metrics['latency_ratio']:.2f} times the parent's latency"
        lines.append(text + "." + _falls(fallen(r, parent)))
    lines.append(proof or f"{_verdict(found, parent, o.margin)} Each was trained once; another seed moves mAP too.")
    return "\n".join(lines)


def _nearest(costs: Sequence[TrialRecord], targets: Sequence[Target], o: Options, parent: TrialRecord | None) -> str:
    """Return in words which trained network comes nearest to targets that none meets."""
    having = [r for r in costs if not r.is_reference and r.error is None and is_measured(r, [*targets, *o.constraints])]
    if parent is None or not having:
        return "No trained network has its costs measured."
    best = min(having, key=lambda r: excess(r, targets, parent))
    shown = ", ".join(f"{m} {share(best, m, parent):.3f}" for m in dict.fromkeys(ratio_of(t.metric) for t in targets))
    noisy = is_noisy(best, _limited(targets, o))
    why = "; its measurements are too noisy to tell (--resume on an idle machine)" if noisy else ""
    return f"The nearest trained network, trial {best.number}, has {shown} (shares of the parent's){why}."


def _verdict(found: Sequence[Winner], parent: TrialRecord, margin: float) -> str:
    """Whether there is a network to change to, as far as one training of each can tell."""
    falls = {w.name: parent.metrics["map50_95"] - w.record.metrics["map50_95"] for w in found if w.record}
    if kept := [name for name, fall in falls.items() if fall <= margin]:
        return f"Within {margin:g} of the parent's mAP50-95, or above it: {', '.join(kept)}."
    if not falls:
        return "There is no network to change to."
    least = min(falls.values())
    return f"None is as accurate as the parent: the best loses {least:.3f}. Higher targets, or more --epochs, may do."


def _falls(falls: Sequence[tuple[str, float]]) -> str:
    """In words, the worst first."""
    if len(falls) <= NAMED:
        return "".join(f" Class {name} falls by {fall:.3f}." for name, fall in falls)
    named = ", ".join(f"{name} by {fall:.3f}" for name, fall in falls[:NAMED])
    return f" {len(falls)} classes fall by {FALLS:g} or more: {named}, ..."


def fallen(record: TrialRecord, parent: TrialRecord) -> list[tuple[str, float]]:
    """Classes whose mAP50-95 is much below the parent's, by how much."""
    falls = [(name, was - ap) for name, ap, was in _by_class(record, parent) if ap is not None and was is not None]
    return sorted((f for f in falls if f[1] >= FALLS), key=lambda f: -f[1])


def _by_class(record: TrialRecord, parent: TrialRecord) -> list[tuple[str, float | None, float | None]]:
    """Each class of the parent: its name, its mAP50-95 in the record, and in the parent; None where it is not known."""
    is_same = [name for name, _ in record.classes] == [name for name, _ in parent.classes]
    own = [ap for _, ap in record.classes] if is_same else [None] * len(parent.classes)
    return [(name, ap, was) for ap, (name, was) in zip(own, parent.classes)]


def sections(run: Path, records: Sequence[TrialRecord], o: Options) -> list[tuple[str, str]]:
    """For the report: mAP50-95 by class, and the plans."""
    found, parent = [], reference(records)
    shown = [w for w in winners(run, records, o) if w.record]
    if parent and parent.classes and shown:
        found.append(("mAP50-95 by class", html_table(class_table(shown, parent))))
    if planned := measured_plans(run, o):
        found.append(("Plans, before they were trained", _plans(planned, run, o)))
    return found


def class_table(found: Sequence[Winner], parent: TrialRecord) -> list[list[str]]:
    """Return rows for each class, the heading first; a class without labels has a dash."""
    rows = [[name, "-" if ap is None else f"{ap:.3f}"] for name, ap in parent.classes]
    for winner in found:
        if winner.record:
            for row, (_, ap, was) in zip(rows, _by_class(winner.record, parent)):
                row.append(_against(ap, was))
    return [["class", "parent", *(w.name for w in found if w.record)], *rows]


def _against(own: float | None, parent: float | None) -> str:
    return "-" if own is None else f"{own:.3f}" + ("" if parent is None else f" ({own - parent:+.3f})")


def _plans(planned: Sequence[TrialRecord], run: Path, o: Options) -> str:
    parent, metrics = _done(RunFolder(run).parent)[0], [*measured_costs(o), "gflops"]
    default = Space.from_yaml(RunFolder(run).space, imgsz=o.imgsz).default()
    heads = [
        "plan",
        "rise of the loss",
        *(axis_label(m).replace("stock YOLOv5", "parent") for m in metrics),
        "what it changes",
    ]
    rows = []
    for r in sorted(planned, key=lambda r: -share(r, metrics[0], parent) if metrics[0] in r.metrics else 0.0):
        shares = [f"{share(r, m, parent):.3f}" if m in r.metrics else "-" for m in metrics]
        rise = f"{total_rise(r):+.4f} ± {r.metrics['rise_error']:.4f}"
        rows.append([str(r.number), rise, *shares, changes(default, r.architecture)])
    text = (
        "<p>Networks put together from the table and refitted, not trained. Costs are shares of the parent's; the loss"
        " is that of training images that nothing was fitted to.</p>"
    )
    return text + html_table([heads, *rows], wraps=True)


def changes(parent: Mapping[str, Any], architecture: Mapping[str, Any]) -> str:
    """What an architecture has that its parent does not."""
    return ", ".join(f"{label} {value}" for label, value in architecture.items() if value != parent[label])


def _done(files: RunFolder) -> list[TrialRecord]:
    return [r for _, r in sorted(latest(read_lines(files.journal)).items()) if r.state == "complete"]
