"""What users try first for a faster model, as rivals of each winner of a replacement search: the parent at other
widths, and at a smaller input size, at the winner's cost.

They are forms of the parent (see `space.forms`): architectures in which nothing differs but `scale` or `imgsz`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..records.journal import TrialRecord, latest, read_lines
from ..records.options import Options
from ..records.run_folder import RunFolder
from ..space.architecture import Architecture
from ..strategies.pooled import AGREE, is_noisy, measured_error, with_repeats
from ..strategies.savings import measured_costs, ratio_of, share
from .claims import EQUAL
from .replacement import Winner, cost_of

KINDS = ("scale", "imgsz")
DEAR = 1.25  # times a winner's cost, up to which a form that costs more is preferred to one that costs less


@dataclass(frozen=True)
class Rival:
    """The parent in another form, for a winner.

    Args:
        kind: what differs, `scale` or `imgsz`.
        record: of its training; None until there is one.
    """

    winner: Winner
    kind: str
    architecture: Architecture
    record: TrialRecord | None = None

    @property
    def name(self) -> str:
        """In words."""
        value = self.architecture[self.kind]
        return f"parent, {float(value):g} of its widths" if self.kind == "scale" else f"parent at {value} px"


def rivals(run: Path, found: Sequence[Winner], o: Options) -> list[Rival]:
    """The rivals of each winner, as far as the costs of the parent's forms were measured."""
    files = RunFolder(run).rivals
    measured = measured_forms(run, o)
    if not measured:
        return []
    zero, *forms = measured
    trained = {r.id: r for r in latest(read_lines(files.journal)).values() if r.state == "complete"}
    chosen = []
    for winner in found:
        metric = ratio_of(winner.targets[0].metric)
        if winner.record is None:
            continue
        wanted = cost_of(run, winner.record, metric, o)
        for kind in KINDS:
            own = [r for r in forms if r.architecture[kind] != zero.architecture[kind] and metric in r.metrics]
            own = [r for r in own if not is_noisy(r, [metric])]
            costs = {r.id: share(r, metric, zero) for r in own}
            own.sort(key=lambda r: -r.metrics["gflops"])
            if own := [r for r in own if costs[r.id] < 1]:
                best = nearest([costs[r.id] for r in own], wanted)
                architecture = Architecture(own[best].architecture)
                chosen.append(Rival(winner, kind, architecture, trained.get(architecture.id)))
    return chosen


def measured_forms(run: Path, o: Options) -> list[TrialRecord]:
    """Return the parent and its forms by number, each with its costs by all measurements of it before training."""
    files = RunFolder(run).rivals.latencies
    done = [[r for r in latest(read_lines(f.journal)).values() if r.state == "complete"] for f in (files, files.again)]
    forms, again = (sorted(records, key=lambda r: r.number) for records in done)
    return with_repeats(forms, again, measured_costs(o))


def doubtful(forms: Sequence[TrialRecord], zero: TrialRecord, metric: str) -> list[TrialRecord]:
    """Return the forms whose cost is noisy, or measured once and not in the order of the GFLOPs.

    Of two that are out of order either may be wrong.
    """
    found = {r.number: r for r in forms if is_noisy(r, [metric])}
    for kind in KINDS:
        own = [r for r in forms if r.architecture[kind] != zero.architecture[kind] and metric in r.metrics]
        own.sort(key=lambda r: -r.metrics["gflops"])
        for larger, smaller in itertools.pairwise(own):
            costs = [(share(r, metric, zero), measured_error(r)) for r in (larger, smaller)]
            error = math.hypot(*(cost * error for cost, error in costs))
            if costs[1][0] - costs[0][0] > AGREE * error:
                found |= {r.number: r for r in (larger, smaller) if r.conditions.get("measurements", 1) < 2}
    return list(found.values())


def nearest(costs: Sequence[float], wanted: float) -> int:
    """Which of some forms, the largest first, is a winner's rival, by their costs.

    A form seldom costs exactly what the winner does. The nearest that costs as much or more is preferred, since it is
    no easy rival, unless it costs far more. A form that a larger one undercuts is never taken.
    """
    worth = [i for i, cost in enumerate(costs) if all(cost < before for before in costs[:i])]
    dear = [i for i in worth if wanted / EQUAL <= costs[i] <= wanted * DEAR]
    return min(dear or worth, key=lambda i: abs(math.log(costs[i] / wanted)))


def words(run: Path, found: Sequence[Winner], o: Options) -> str:
    """In words: how the winners compare with their rivals."""
    lines = []
    for winner in found:
        own = [rival for rival in rivals(run, [winner], o) if rival.record]
        if winner.record and own:
            shown = " and ".join(_against(winner.record, rival) for rival in own)
            lines.append(f"{' '.join(map(str, winner.targets))} is {shown}.")
    return "Beside what is simpler, trained alike: " + " ".join(lines) if lines else ""


def _against(record: TrialRecord, rival: Rival) -> str:
    assert rival.record
    own, theirs = record.metrics, rival.record.metrics
    gain = own["map50_95"] - theirs["map50_95"]
    text = f"{abs(gain):.3f} {'above' if gain >= 0 else 'below'} the {rival.name}"
    if "latency_ratio" in theirs:
        text += f" ({theirs['map50_95']:.3f} at {theirs['latency_ratio']:.2f} times the latency)"
    return text
