"""Whether a search's proxy ranks architectures as full training does.

Some of the architectures that the proxy scored are trained in full too. Kendall's tau says how well the two rankings
agree; it is compared with the tau of GFLOPs and of latency, which rank architectures at no cost.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ..records.journal import TrialRecord, complete, latest, read_lines
from ..records.options import Options
from ..records.run_folder import RunFolder
from ..space.architecture import Architecture
from ..strategies.early_stopping import best_so_far
from .ranking import html_table
from .statistics import Tau, tau_with_interval

COSTS = {"GFLOPs": "gflops", "latency": "latency_ratio"}


@dataclass(frozen=True)
class Audit:
    """Architectures with their proxy scores, costs, and mAP50-95 of full training, all in the same order.

    Args:
        from_weights: full training started from the weights that the trials started from.
    """

    proxy: str
    epochs: int
    records: tuple[TrialRecord, ...]
    scores: tuple[float, ...]
    truths: tuple[float, ...]
    from_weights: bool = False

    @property
    def taus(self) -> dict[str, Tau]:
        """Of the proxy, and of each cost that all of them have; the first is the proxy's."""
        found = {self.proxy: tau_with_interval(self.scores, self.truths)}
        for name, metric in COSTS.items():
            costs = [r.metrics[metric] for r in self.records if metric in r.metrics]
            if len(costs) == len(self.truths):
                found[name] = tau_with_interval(costs, self.truths)
        return found

    @property
    def loses(self) -> bool:
        """Whether GFLOPs alone rank at least as well."""
        taus = self.taus
        return not self.is_tied and "GFLOPs" in taus and taus[self.proxy].value <= taus["GFLOPs"].value

    @property
    def is_tied(self) -> bool:
        """Whether full training gives all of them the same mAP50-95."""
        return len(set(self.truths)) < 2


def read(run: Path, o: Options) -> Audit | None:
    """What is known so far; None where that is nothing: fewer than two architectures, or early stopping that has ended
    none."""
    if not (proxy := o.proxy):
        return None
    records = scored(run, o)
    truths = {r.id: r.metrics["map50_95"] for r in complete(_lines(RunFolder(run).audit))}
    if o.only_prunes:  # what was not ended early was trained in full
        truths |= {r.id: r.metrics["map50_95"] for r in records if r.state == "complete"}
    scores = _scores(records, o)
    both = tuple(r for r in records if r.id in truths)
    if len(both) < 2 or (o.only_prunes and not _ended(both)):
        return None
    found = tuple(scores[r.id] for r in both), tuple(truths[r.id] for r in both)
    return Audit(proxy, o.full_epochs, both, *found, is_from_weights(run, o))


def is_from_weights(run: Path, o: Options) -> bool:
    """Whether a full training goes on from `--weights`, as its user would train.

    Audits that earlier versions began are from scratch to their end.
    """
    begun = [r for r in _lines(RunFolder(run).audit) if r.state == "complete"]
    return o.inherits and bool(o.weights) and all(r.budget.get("weights") for r in begun)


def scored(run: Path, o: Options) -> list[TrialRecord]:
    """The trials that have a proxy score, by number, without the first, which is the base. Trials that were ended early
    are among them only if early stopping is the only proxy, since scores of fewer epochs compare with no others."""
    files = RunFolder(run)
    lines = _lines(files.scores if o.one_shot is not None else files)
    states = ("complete", "pruned") if o.only_prunes else ("complete",)
    return [r for r in sorted(lines, key=lambda r: r.number) if not r.is_reference and r.state in states]


def sample(run: Path, o: Options) -> list[Architecture]:
    """What to train in full: what was begun already, then a random draw of all that were scored or, where early
    stopping is the only proxy, of all that it ended."""
    records = {r.id: r for r in scored(run, o) if r.state == "pruned" or not o.only_prunes}
    begun = [r.id for r in sorted(_lines(RunFolder(run).audit), key=lambda r: r.number) if r.id in records]
    drawn = list(records)
    random.Random(o.seed).shuffle(drawn)
    names = list(dict.fromkeys([*begun, *drawn]))
    return [Architecture(records[name].architecture) for name in names[: o.audits]]


def verdict(found: Audit | None) -> str:
    """What an audit comes to, in words."""
    if found is None:
        return (
            "Nothing can be said yet: this takes two architectures at least, and of early stopping one that it ended."
        )
    own, *others = found.taus.items()
    rivals = ", ".join(f"that of {name} is {value}" for name, value in others)
    start = " from the same weights" if found.from_weights else ""
    text = (
        f"{found.proxy[0].upper()}{found.proxy[1:]} against full training of {found.epochs} epochs{start}, over"
        f" {len(found.truths)} architectures: Kendall's tau {own[1]}{'; ' + rivals if rivals else ''}."
    )
    if found.is_tied:
        return text + " In full training all are equal, so nothing can be said (were they trained long enough?)."
    if found.loses:
        return text + " The proxy loses to GFLOPs: the larger of two would have been as good a guess, at no cost."
    if own[1].low <= 0:
        return text + " The proxy is ahead of GFLOPs, but its interval holds 0: that may be chance (see --audit)."
    return text + " The proxy ranks better than GFLOPs and better than chance."


def sections(run: Path, o: Options) -> list[tuple[str, str]]:
    """For the report: title and HTML; [] where nothing was audited."""
    if not _lines(RunFolder(run).audit) or (found := read(run, o)) is None:
        return []
    taus = [["score", "Kendall's tau", "95 % interval"]]
    taus += [[name, f"{t.value:.2f}", f"{t.low:.2f} to {t.high:.2f}"] for name, t in found.taus.items()]
    rows = [["architecture", "by the proxy", f"in full, {found.epochs} epochs", "GFLOPs"]]
    for record, score, truth in sorted(zip(found.records, found.scores, found.truths), key=lambda row: -row[2]):
        rows.append([record.id, f"{score:.4f}", f"{truth:.4f}", f"{record.metrics.get('gflops', 0.0):.3f}"])
    tables = html_table(taus) + "<p>The best in full training come first:</p>" + html_table(rows)
    return [("Can the proxy be trusted?", f"<p>{escape(verdict(found))}</p>{tables}")]


def _scores(records: Sequence[TrialRecord], o: Options) -> Mapping[str, float]:
    """The proxy mAP50-95 of each; for early stopping, the best up to the earliest epoch at which it ended any."""
    if not (o.only_prunes and (ends := _ended(records))):
        return {r.id: r.metrics["map50_95"] for r in records}
    return {r.id: best_so_far([p for p in r.curve if p["epoch"] <= min(ends)])["map50_95"] for r in records if r.curve}


def _ended(records: Iterable[TrialRecord]) -> list[float]:
    """The epochs at which trials were ended early."""
    return [r.curve[-1]["epoch"] for r in records if r.state == "pruned" and r.curve]


def _lines(run: RunFolder) -> Iterable[TrialRecord]:
    return latest(read_lines(run.journal)).values()
