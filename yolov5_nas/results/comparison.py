"""Whether a gain is beyond the spread of seeds: what `yolov5-nas prove` trained, compared and said in words."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ..records.journal import TrialRecord, complete, latest, read_journal, read_lines
from ..records.run_folder import REFERENCE, RunFolder
from ..space.architecture import Architecture
from ..space.model_yaml import load_yaml
from .ranking import html_table

STOCK, RESCALED = "stock", "stock rescaled"
RIVALS = {STOCK: "stock YOLOv5", RESCALED: "stock YOLOv5 rescaled"}  # in words
LEVEL = 0.05  # of the tests
EQUAL = 1.02  # costs within this ratio count as equal: no latency is known better


@dataclass(frozen=True)
class Contestant:
    """What was trained several times with different seeds.

    Args:
        name: `stock`, `stock rescaled` or `trial N`.
        scores: mAP50-95, one for each seed.
        cost: the median of the metric that the costs are compared by.
    """

    name: str
    scores: tuple[float, ...]
    cost: float | None

    @property
    def mean(self) -> float:
        """Mean mAP50-95."""
        return statistics.fmean(self.scores)

    @property
    def spread(self) -> float:
        """Standard deviation over seeds (0 for one seed)."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else 0.0


@dataclass(frozen=True)
class Comparison:
    """A candidate beside a rival: `p` is that of a one-sided Welch t-test, Holm-corrected over all comparisons."""

    candidate: Contestant
    rival: Contestant
    p: float

    @property
    def gain(self) -> float:
        """Difference of the mean mAP50-95."""
        return self.candidate.mean - self.rival.mean

    @property
    def cost_ratio(self) -> float | None:
        """Cost of the candidate / cost of the rival."""
        if self.candidate.cost is None or not self.rival.cost:
            return None
        return self.candidate.cost / self.rival.cost

    @property
    def is_fair(self) -> bool:
        """Whether the candidate costs no more than the rival."""
        return self.cost_ratio is not None and self.cost_ratio <= EQUAL

    @property
    def is_beyond(self) -> bool:
        """Whether the gain is beyond the seeds' spread."""
        return self.gain > 0 and self.p < LEVEL

    def text(self, cost: str) -> str:
        """In words."""
        ratio = f" at {self.cost_ratio:.2f} times its {cost.removesuffix('_ratio')}" if self.cost_ratio else ""
        verdict = "beyond the seeds' spread" if self.is_beyond else "not beyond the seeds' spread"
        names = f"{self.candidate.name} against {self.rival.name}"
        return f"{names}: mAP50-95 {self.gain:+.4f}{ratio}, p = {self.p:.3g}, {verdict}"


def read(run: Path) -> list[TrialRecord]:
    """The trainings of a run's proof so far; [] where there is none."""
    return list(latest(read_lines(RunFolder(run).proof.journal)).values())


def names_of(run: Path) -> dict[str, str]:
    """What a run's proof trains: the ids of architectures, each with the name of its contestant.

    Stock YOLOv5 rescaled is the architecture `{depth_multiple: ..., width_multiple: ...}`.
    """
    plan = RunFolder(run).proof.plan
    begun = load_yaml(plan)[0] if plan.exists() else {"candidates": [], "rescaled": None}
    records = {record.number: record for record in read_journal(run)}
    names = {records[REFERENCE].id: STOCK} if REFERENCE in records else {}
    if begun["rescaled"]:
        names[Architecture(begun["rescaled"]).id] = RESCALED
    return names | {records[number].id: f"trial {number}" for number in begun["candidates"]}


def contestants(records: Iterable[TrialRecord], names: Mapping[str, str], cost: str) -> list[Contestant]:
    """Those of which at least one training is complete, in the order in which they began.

    Args:
        names: from `names_of`.
    """
    groups: dict[str, list[TrialRecord]] = {}
    for record in sorted(complete(records), key=lambda r: r.number):
        groups.setdefault(names[record.id], []).append(record)
    found = []
    for name, group in groups.items():
        costs = [r.metrics[cost] for r in group if cost in r.metrics]
        scores = tuple(r.metrics["map50_95"] for r in group)
        found.append(Contestant(name, scores, statistics.median(costs) if costs else None))
    return found


def compare(found: Sequence[Contestant]) -> list[Comparison]:
    """Every candidate beside stock and rescaled stock, as far as all have two seeds at least."""
    rivals = [c for c in found if c.name in (STOCK, RESCALED)]
    pairs = [(c, r) for c in found if c not in rivals for r in rivals if min(len(c.scores), len(r.scores)) > 1]
    corrected = holm([_welch(c.scores, r.scores) for c, r in pairs])
    return [Comparison(c, r, p) for (c, r), p in zip(pairs, corrected)]


def verdict(comparisons: Sequence[Comparison], cost: str) -> str:
    """What the comparisons come to, in words."""
    if not comparisons:
        return "Nothing can be said yet: a comparison needs two trainings of each at least."
    test = (
        f"One-sided Welch t-test over seeds, Holm-corrected over {len(comparisons)} comparisons,"
        f" at the level {LEVEL:g}. Costs are compared by {cost}."
    )
    shown, partly = [], []
    for name in dict.fromkeys(c.candidate.name for c in comparisons):
        own = [c for c in comparisons if c.candidate.name == name]
        fair = [c for c in own if c.is_fair]
        beaten = [c for c in fair if c.is_beyond]
        if not beaten or any(c.gain <= 0 for c in own if not c.is_fair):  # a cheaper rival that is as good
            continue
        if beaten == fair:
            shown.append(f"{name} detects better than {' and '.join(RIVALS[c.rival.name] for c in beaten)}")
        else:  # who beats stock may still lose to plain scaling
            partly.append(name)
    if shown:
        return f"A gain is shown: {'; '.join(shown)}, at equal or lower cost. {test}"
    if partly:
        rivals = "one of stock and rescaled stock, but not the other beyond the seeds' spread"
        return f"A gain is shown in part: {', '.join(partly)} beats, at equal or lower cost, {rivals}. {test}"
    return f"No gain at equal or lower cost is shown: the differences may be the seeds' alone. {test}"


def sections(run: Path, cost: str) -> list[tuple[str, str]]:
    """What `prove` found so far, for the report: title and HTML; [] where there is nothing."""
    found = contestants(read(run), names_of(run), cost)
    if not found:
        return []
    comparisons = compare(found)
    items = "".join(f"<li>{escape(c.text(cost))}</li>" for c in comparisons)
    text = f"<p>{escape(verdict(comparisons, cost))}</p><ul>{items}</ul>"
    return [("Is the gain real?", text + html_table(table(found, cost)))]


def holm(ps: Sequence[float]) -> list[float]:
    """P values corrected for their number (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    corrected, highest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = highest
    return corrected


def table(found: Sequence[Contestant], cost: str) -> list[list[str]]:
    """Rows of name, seeds, mean and standard deviation of mAP50-95, cost; the first is the heading."""
    rows = [["", "seeds", "mAP50-95", "sd", cost]]
    for c in found:
        shown = f"{c.cost:.4g}" if c.cost is not None else "-"
        rows.append([c.name, str(len(c.scores)), f"{c.mean:.4f}", f"{c.spread:.4f}", shown])
    return rows


def _welch(own: Sequence[float], other: Sequence[float]) -> float:
    if len({*own, *other}) == 1 or len(set(own)) == len(set(other)) == 1:  # no spread at all
        return 0.0 if own[0] > other[0] else 1.0
    from scipy.stats import ttest_ind

    return float(ttest_ind(own, other, equal_var=False, alternative="greater").pvalue)
