"""Whether a gain is real: what `yolov5-nas prove` trained, compared and said in words."""

from __future__ import annotations

import base64
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from ..errors import UserError
from ..records.journal import TrialRecord, latest, read_journal, read_lines
from ..records.metrics import LATENCIES, NORMAL_95
from ..records.options import Options
from ..records.proof import Plan, read_plan
from ..records.run_folder import REFERENCE, RunFolder
from ..records.shape import NUMBERS, known, read_json
from ..space.architecture import Architecture
from . import plots
from .claims import EQUAL, LEVEL, POWER, Claim, Estimate, Pair, corrected, cost_p, difference
from .race import Comparison, Race
from .ranking import html_table

STOCK, RESCALED = "stock", "stock rescaled"
WORDS = {STOCK: "stock YOLOv5", RESCALED: "stock YOLOv5 rescaled", "parent": "the parent"}
WORDS["parent rescaled"] = "the parent with other widths"
IMAGES = {"split": str, "images": int, "scores": {str: NUMBERS}, "spreads": NUMBERS}


@dataclass(frozen=True)
class ByImages:
    """What the trainings' networks do on the images that judge them; `<run>/prove/judged.json`.

    Args:
        split: `test`, or `val` where the data has no such images.
        scores: mAP50-95 by contestant and seed.
        spreads: by `candidate, rival` the standard deviation of the difference of their means for other such images.
    """

    split: str = "val"
    images: int = 0
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    spreads: Mapping[str, float] = field(default_factory=dict)

    def estimate(self, candidate: str, rival: str) -> Estimate:
        """The gain for other images and seeds. These vary independently, so that their variances add up."""
        own, other = self._paired(candidate, rival)
        by_images = self.spreads[f"{candidate}, {rival}"]
        if len(own) < 2:
            return Estimate(statistics.fmean(own) - statistics.fmean(other), by_images, math.inf)
        by_seeds = difference(own, other)
        error = math.hypot(by_seeds.error, by_images)
        df = by_seeds.df * (error / by_seeds.error) ** 4 if by_seeds.error else math.inf  # Satterthwaite 1946
        return Estimate(by_seeds.value, error, df)

    def _paired(self, candidate: str, rival: str) -> tuple[list[float], list[float]]:
        own, other = self.scores[candidate], self.scores[rival]
        seeds = sorted(own.keys() & other.keys())
        return [own[seed] for seed in seeds], [other[seed] for seed in seeds]


def read(run: Path) -> list[TrialRecord]:
    """The trainings of a run's proof so far; [] where there is none."""
    return list(latest(read_lines(RunFolder(run).proof.journal)).values())


def read_images(run: Path) -> ByImages | None:
    """What its networks do on the images that judge them, once that is known of trainings that count."""
    path, plan = RunFolder(run).proof.judged, read_plan(run)
    if plan is None or not path.exists():
        return None
    found = read_json(path, IMAGES, lambda entries: known(ByImages, entries))
    seeds = {int(seed) for scores in found.scores.values() for seed in scores}
    return None if seeds & set(plan.search_seeds) else found


def names_of(run: Path, plan: Plan, reference: str = STOCK) -> dict[str, str]:
    """What a run's proof trains: the ids of architectures, each with the name of its contestant.

    Args:
        reference: what trial 0 is called.
    """
    records = {record.number: record for record in read_journal(run)}
    names = {records[REFERENCE].id: reference} if REFERENCE in records else {}
    if plan.rescaled:
        names[Architecture(plan.rescaled).id] = f"{reference} rescaled"
    if gone := [number for number in plan.candidates if number not in records]:
        rule = "the proof is of trials that the run's journal lacks"
        raise UserError(rule, got=gone, accepted=sorted(records), file=RunFolder(run).proof.plan)
    return names | {records[number].id: f"trial {number}" for number in plan.candidates}


def race_of(names: Mapping[str, str], plan: Plan) -> Race:
    """A race of a proof's contestants; one of a version before has all seeds, and is looked at once.

    Args:
        names: from `names_of`.
    """
    rivals = [name for name in names.values() if name in WORDS]
    candidates = [name for name in names.values() if name not in WORDS]
    return Race(rivals, candidates, max([0, *plan.seeds]), plan.margin, races=bool(plan.seeds))


def take(race: Race, record: TrialRecord, names: Mapping[str, str], cost: str, left_out: Sequence[int]) -> None:
    """Put a training into its race, unless its seed is one of those that are left out."""
    if record.state != "complete" or record.id not in names:
        return
    if record.seed in left_out:
        race.left_out.append(record.seed)
    else:
        error = record.metrics.get("latency_error", 0.0) / NORMAL_95 if cost in LATENCIES else 0.0
        race.add(names[record.id], record.seed, record.metrics["map50_95"], record.metrics.get(cost), error)


def finished(run: Path, o: Options) -> tuple[Race, Plan] | None:
    """The race of a run's proof with all trainings so far; None where none was begun."""
    if (plan := read_plan(run)) is None:
        return None
    names = names_of(run, plan, o.reference)
    race = race_of(names, plan)
    for record in sorted(read(run), key=lambda r: r.number):
        take(race, record, names, o.cost, plan.search_seeds)
    return race, plan


# In words -------------------------------------------------------------------------------------------------------------


def sections(run: Path, o: Options) -> list[tuple[str, str]]:
    """What `prove` found so far, for the report: title and HTML; [] where there is nothing."""
    found = finished(run, o)
    if found is None or not any(c.scores for c in found[0].contestants.values()):
        return []
    race, plan = found
    images = read_images(run)
    paragraphs = "".join(f"<p>{escape(text)}</p>" for text in said(race, plan, o.cost, images))
    items = "".join(f"<li>{escape(text(c, o.cost))}</li>" for c in race.comparisons())
    rest = f"<ul>{items}</ul>" + html_table(table(race, o.cost, images))
    return [("Is the gain real?", picture(race, images) + paragraphs + rest)]


def picture(race: Race, images: ByImages | None) -> str:
    """The gains that were compared, as HTML; "" where there is none."""
    gains = []
    for c in race.comparisons():
        by_seeds = difference(c.own, c.other)
        has_images = images and f"{c.candidate}, {c.rival}" in images.spreads
        new = images.estimate(c.candidate, c.rival) if images and has_images else None
        cost = f"\n{c.cost_ratio:.2f} of its cost" if c.cost_ratio else ""
        apart = tuple(a - b for a, b in zip(c.own, c.other))
        gains.append(
            plots.Gain(f"{c.candidate} and\n{c.rival}{cost}", apart, _bar(by_seeds), _bar(new) if new else None)
        )
    if not gains:
        return ""
    png = base64.b64encode(plots.gains(gains, race.margin)).decode()
    text = "; ".join(f"{g.name}: {g.seeds[0]:+.4f}, 95 % {g.seeds[1]:+.4f} to {g.seeds[2]:+.4f}" for g in gains)
    alt = escape(f"mAP50-95 above that of each rival. {text}".replace("\n", " "), quote=True)
    caption = (
        "Bars are the 95 % interval of each comparison by itself; the claims below are corrected for their number."
    )
    image = f'<img alt="{alt}" src="data:image/png;base64,{png}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _bar(found: Estimate) -> tuple[float, float, float]:
    """An estimate with its 95 % interval."""
    reach = found.bound(0.975)
    return found.value, found.value - reach, found.value + reach


def shown(run: Path, o: Options) -> str:
    """In words: what a run's proof has shown so far; "" where nothing can be said yet."""
    found = finished(run, o)
    if found is None or not (comparisons := found[0].comparisons()) or all(c.ratio is None for c in comparisons):
        return ""
    seeds = max(len(c.own) for c in comparisons)
    return f"With up to {seeds} seeds each (yolov5-nas prove): " + " ".join(_claims(comparisons, found[0]))


def said(race: Race, plan: Plan, cost: str, images: ByImages | None = None) -> list[str]:
    """A proof in words: what is shown, how it was tested, what other images would say."""
    comparisons = race.comparisons()
    lines = [verdict(comparisons, cost, race)]
    lines += [*([for_new_images(comparisons, images, race)] if images else []), started(plan)]
    lines += [left_out(race.left_out)] if race.left_out else []
    if len(plan.seeds) > 1:
        lines.append(
            f"It was planned for {plan.seeds[0]} seeds and raised to {plan.seeds[-1]} after these were seen, which the"
            " level does not count."
        )
    return lines


def started(plan: Plan) -> str:
    """What the trainings were."""
    start = {
        "scratch": "from scratch",
        "weights": "from the weights that the search started from, adapted to each, by the same hyper-parameters",
    }
    which = "the last epoch's mAP counts" if plan.seeds else "the mAP of the best validation counts"
    return f"All were trained for {plan.epochs} epochs {start[plan.start]}; {which}."


def left_out(seeds: Sequence[int]) -> str:
    """Return in words which trainings don't count; an earlier version made them.

    Args:
        seeds: of each of these trainings.
    """
    which = ", ".join(map(str, sorted(set(seeds))))
    return (
        f"{len(seeds)} trainings with seed {which} do not count: the search chose its winners by the same seed, so they"
        " look better with it than they are."
    )


def power(race: Race) -> str:
    """Return in words how large a difference must be for this proof to find it; "" where nothing is known of it."""
    if (found := race.detectable()) is None:
        return ""
    seeds = max(len(c.own) for c in race.comparisons())
    return (
        f"With {seeds} seeds each and the spread seen between them, a proof finds a true difference of {found:.3f}"
        f" mAP50-95 in {POWER:.0%} of cases, and smaller ones less often; more seeds find smaller ones."
    )


def text(c: Comparison, cost: str) -> str:
    """A comparison in words."""
    ratio = f" at {c.cost_ratio:.2f} times its {cost.removesuffix('_ratio')}" if c.cost_ratio else ""
    beyond = "beyond the seeds' spread" if c.gain > 0 and c.accuracy <= LEVEL else "not beyond the seeds' spread"
    within = ""
    if c.cost_ratio and c.cost_ratio < 1 / EQUAL:
        within = f"; as good within the margin and cheaper: p = {c.ps[Claim.AS_GOOD]:.3g}"
    names = f"{c.candidate} against {c.rival}: mAP50-95 {c.gain:+.4f}{ratio}"
    return f"{names}, p = {c.accuracy:.3g}, {beyond}{within}"


def verdict(comparisons: Sequence[Comparison], cost: str, race: Race) -> str:
    """What the comparisons come to, in words."""
    if not comparisons:
        return "Nothing can be said of seeds yet: a comparison needs two trainings of each at least."
    if all(c.ratio is None for c in comparisons):
        return f"No claim can be made: {cost}, by which costs are compared, is not known of all."
    lines = _claims(comparisons, race)
    looks = ", and for looking after each seed" if race.races else ""
    lines.append(
        f"One-sided Welch t-test over seeds, corrected for {len(race.candidates)} candidates (Holm){looks}, at the"
        f" level {LEVEL:g} of each claim; a gain needs all baselines beaten. Costs are compared by {cost}, and those"
        f" within {EQUAL - 1:.0%} of each other count as equal."
    )
    pairing = _pairing(comparisons) if any(len(c.own) > 2 for c in comparisons) else ""
    return " ".join(line for line in (*lines, power(race), pairing) if line)


def _claims(comparisons: Sequence[Comparison], race: Race) -> list[str]:
    better, partly, cheaper = _made(comparisons, race.margin)
    if better:
        lines = [f"A gain is shown: {'; '.join(better)}, at equal or lower cost."]
    elif partly:
        lines = [f"A gain is shown in part: {'; '.join(partly)} beyond the seeds' spread."]
    else:
        lines = ["No gain at equal or lower cost is shown: the differences may be the seeds' alone."]
    if cheaper:
        lines.append(f"As good and cheaper: {'; '.join(cheaper)}.")
    elif any(c.cost_ratio and c.cost_ratio < 1 / EQUAL for c in comparisons):
        lines.append(f"None is shown to be as good (within {race.margin:g} mAP50-95) at less cost.")
    return lines


def _made(comparisons: Sequence[Comparison], margin: float) -> tuple[list[str], list[str], list[str]]:
    """The claims that are made, in words: who is better, who better than one rival alone, who as good and cheaper."""
    shown: list[str] = []
    partly: list[str] = []
    cheaper: list[str] = []
    for name in dict.fromkeys(c.candidate for c in comparisons):
        own = [c for c in comparisons if c.candidate == name]
        if equal := [c for c in own if c.holds(Claim.AS_GOOD)]:
            cheaper.append(f"{name} {_as_good(equal, margin)}")
        rest = [c for c in own if c.accuracy > LEVEL]
        beaten = " and ".join(WORDS[c.rival] for c in own if c.holds(Claim.BETTER))
        if not beaten or any(c.is_dearer for c in rest):  # a cheaper rival may be as good
            continue
        if not rest:
            shown.append(f"{name} detects better than {beaten}")
        else:
            others = " and ".join(WORDS[c.rival] for c in rest)
            partly.append(f"{name} beats {beaten} at equal or lower cost, but not {others}")
    return shown, partly, cheaper


def _as_good(equal: Sequence[Comparison], margin: float) -> str:
    parts = [f"{WORDS[c.rival]} at {c.cost_ratio:.2f} times its cost (at most {c.cost_bound:.2f})" for c in equal]
    return f"is within {margin:g} mAP50-95 of {' and of '.join(parts)}"


def _pairing(comparisons: Sequence[Comparison]) -> str:
    """How much it helps that a seed gives all the same order of images and augmentation."""
    from scipy.stats import pearsonr

    found = [
        float(pearsonr(c.own, c.other).statistic)
        for c in comparisons
        if len(c.own) > 2 and len(set(c.own)) > 1 and len(set(c.other)) > 1
    ]
    if not found:
        return ""
    return (
        f"A seed gives all the same order of images; the scores of two correlate by {statistics.fmean(found):.2f} on"
        " average, which the test does not use."
    )


def for_new_images(comparisons: Sequence[Comparison], images: ByImages, race: Race) -> str:
    """What of it holds for other images of the kind, of which the judging ones are a sample."""
    which = "" if images.split == "test" else ", which also chose the candidates (the data has no test split)"
    head = f"For new images (judged on {images.images} of {images.split}{which}; images and seeds vary): "
    pairs = [(c, r) for c in race.candidates for r in race.rivals if f"{c}, {r}" in images.spreads]
    found = {pair: images.estimate(*pair) for pair in pairs}
    ratios = {(c.candidate, c.rival): c.ratio for c in comparisons}
    ps: dict[Claim, dict[Pair, float]] = {}
    for claim in Claim:
        margin = claim.margin(race.margin)
        accuracy = {pair: Estimate(e.value + margin, e.error, e.df).p for pair, e in found.items()}
        ps[claim] = corrected({pair: max(p, cost_p(ratios.get(pair), claim.cost)) for pair, p in accuracy.items()})
    lines = []
    for pair in pairs:
        holds = [claim.value for claim in Claim if ps[claim][pair] <= LEVEL]
        e, reach = found[pair], found[pair].bound(0.975)
        line = f"{pair[0]} against {pair[1]} {e.value:+.4f} (95 %: {e.value - reach:+.4f} to {e.value + reach:+.4f})"
        lines.append(line + (f", {' and '.join(holds)}" if holds else ", neither claim shown"))
    one = "" if comparisons else " With one seed, this knows nothing of what another seed would give."
    return head + "; ".join(lines) + "." + one


def table(race: Race, cost: str, images: ByImages | None = None) -> list[list[str]]:
    """Rows of name, seeds, mean and standard deviation of mAP50-95, that of the judging images, cost; the first is the
    heading."""
    judged = images.scores if images and images.split == "test" else {}
    rows = [["", "seeds", "mAP50-95", "sd", *(["test"] if judged else []), cost]]
    for c in race.contestants.values():
        if c.scores:
            shown = f"{c.cost:.4g}" if c.cost is not None else "-"
            own = [f"{statistics.fmean(judged[c.name].values()):.4f}" if c.name in judged else "-"] if judged else []
            rows.append([c.name, str(len(c.scores)), f"{c.mean:.4f}", f"{c.spread:.4f}", *own, shown])
    return rows
