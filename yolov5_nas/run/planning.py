"""Plans for some targets: solve, put together, score and measure whole, correct the tables, solve again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..records.journal import TrialRecord
from ..records.options import Options
from ..records.reward import Constraint, Target
from ..results.replacement import excess, goal, is_within, keeps
from ..space.architecture import Architecture
from ..strategies.knapsack import Limit, plan
from ..strategies.pooled import AGAIN, is_noisy, with_repeats
from ..strategies.replacement import Table, changed, total_rise
from ..strategies.savings import corrected, is_expected, measured_costs, offset, ratio_of, useless

ROUNDS = 5  # of planning and measuring
NEXT = 2  # plans beside the best one that the first round tries for each target

Targets = tuple[Target, ...]


@dataclass(frozen=True)
class Planned:
    """A plan for some targets.

    Args:
        targets: what costs may be at most.
        record: of the architecture, scored and measured whole; None where none was found.
        others: the next best that keep to the targets.
        imgsz: the input size, where that is a choice: losses of two sizes can't be compared, so that each has a plan.
    """

    targets: Targets
    record: TrialRecord | None
    others: tuple[TrialRecord, ...] = ()
    imgsz: int | None = None


class Planner:
    """Makes the plans of a replacement search.

    Args:
        tables: of the parent, and of further forms of it.
        parent: its record.
        fit: a table with what its items save of measured costs, by further records.
        wholes: records of architectures by id, scored and measured whole.
        again: further measurements of architectures, each as often as it is named.
    """

    def __init__(
        self,
        tables: Sequence[Table],
        o: Options,
        parent: TrialRecord,
        fit: Callable[[Table, Iterable[TrialRecord]], Table],
        wholes: Callable[[Sequence[Architecture]], dict[str, TrialRecord]],
        again: Callable[[Sequence[Architecture]], list[TrialRecord]],
    ):
        self.tables, self.options, self.parent, self.fit = tables, o, parent, fit
        self.wholes, self.again = wholes, again
        self.repeated: list[Architecture] = []  # measured again so far

    def run(self, asked: Sequence[Architecture]) -> list[Planned]:
        """Plan until each plan was measured within its targets, or several rounds are over.

        Args:
            asked: architectures that were scored whole before, which a journal has in this order.
        """
        tables, known = list(self.tables), dict[str, TrialRecord]()
        tried: dict[str, Architecture] = {}
        for turn in range(ROUNDS):
            seen = [known[id] for id in tried]  # as it was before a resume
            new = [a for targets in self.options.plans for a in self._round(tables, targets, seen, turn)]
            new.sort(key=lambda a: [str(a.get(label)) for label in self.tables[0].form])  # a parent's form is read once
            tried |= {a.id: a for a in new if a.id not in tried}
            if all(a.id in {r.id for r in seen} for a in new):
                break
            known = self.wholes(list({a.id: a for a in [*asked, *tried.values()]}.values()))
            known = self._settled(tables, known, [a for a in new if a.id not in {r.id for r in seen}])
            done = [known[id] for id in tried if known[id].state == "complete"]
            rises = [(r.architecture, r.metrics["rise"], r.metrics["rise_error"]) for r in done]
            tables = [corrected(self.fit(table, done), rises) for table in self.tables]
        complete = [r for r in known.values() if r.state == "complete"]
        return [one for targets in self.options.plans for one in self._planned(targets, complete)]

    def _round(
        self, tables: Sequence[Table], targets: Targets, seen: Sequence[TrialRecord], turn: int
    ) -> list[Architecture]:
        """The plans of each input size that come next for some targets."""
        found = []
        for size in self._sizes(tables):
            of_size = [table for table in tables if table.form.get("imgsz") == size]
            found += self._without_useless(of_size, targets, seen)
            found += self._next(of_size, targets, seen, count=1 + NEXT if turn == 0 else 1)
        return found

    def _settled(
        self, tables: Sequence[Table], known: Mapping[str, TrialRecord], new: Sequence[Architecture]
    ) -> dict[str, TrialRecord]:
        """Return records with their costs by all measurements; new ones whose costs can't be right are measured again.

        One can't that is noisy, or that a table does not allow and no second measurement confirms.
        """
        metrics = measured_costs(self.options)

        def is_doubtful(record: TrialRecord) -> bool:
            having = [metric for metric in metrics if record.state == "complete" and metric in record.metrics]
            table = next(table for table in tables if table.has(record.architecture))
            is_single = record.conditions.get("measurements", 1) < 2
            is_odd = is_single and not all(is_expected(table, record, m, self.parent) for m in having)
            return is_odd or is_noisy(record, having)

        for turn in range(AGAIN + 1):
            repeats = self.again(self.repeated)
            found = {r.id: r for r in with_repeats(known.values(), repeats, metrics)}
            doubtful = list({a.id: a for a in new if is_doubtful(found[a.id])}.values())
            if not doubtful or turn == AGAIN:
                break
            self.repeated += doubtful
        return found

    def _without_useless(
        self, tables: Sequence[Table], targets: Targets, seen: Sequence[TrialRecord]
    ) -> list[Architecture]:
        """Return the best measured plan without changes whose savings can't be told from 0: first without all of
        these, then without half of those that seem to save least, and so on, until one of them is not measured yet."""
        fits = [r for r in seen if r.state == "complete" and any(table.has(r.architecture) for table in tables)]
        fits = [r for r in fits if keeps(r, targets, self.options, self.parent)]
        if not fits:
            return []
        best = best_of(sorted(fits, key=lambda r: (total_rise(r), r.number)), targets, self.parent)
        table = next(table for table in tables if table.has(best.architecture))
        costs = [limit.metric for limit in limits(targets, self.options, self.parent) if limit.at_most]
        items, known = useless(table, best.architecture, costs), {r.id for r in seen}
        while items:
            back = {label: table.parent[label] for item in items for label, _ in item.change}
            if (found := changed(Architecture(best.architecture), back.items())).id not in known:
                return [found]
            items = items[: len(items) // 2]
        return []

    def _sizes(self, tables: Sequence[Table]) -> list[object]:
        return list(dict.fromkeys(table.form.get("imgsz") for table in tables))

    def _next(
        self, tables: Sequence[Table], targets: Targets, seen: Sequence[TrialRecord], count: int
    ) -> list[Architecture]:
        """The best plans by some tables, but for those that were measured above the targets."""
        above = [
            Architecture(r.architecture)
            for r in seen
            if r.state != "complete" or not keeps(r, targets, self.options, self.parent)
        ]
        found: list[Architecture] = []
        while len(found) < count:
            rated = [one for table in tables if (one := self._best(table, targets, seen, found, above))]
            if not rated:
                break
            found.append(min(rated, key=lambda one: one[0])[1])
        return found

    def _best(
        self,
        table: Table,
        targets: Targets,
        seen: Sequence[TrialRecord],
        before: Sequence[Architecture],
        above: Sequence[Architecture],
    ) -> tuple[float, Architecture] | None:
        """The rise of the loss of a table's best plan, and that plan."""
        off = {metric: offset(table, metric, seen, self.parent) for metric in measured_costs(self.options)}
        own = [[a for a in those if table.has(a)] for those in (before, above)]
        found = plan(table, limits(targets, self.options, self.parent, off), *own)
        return (table.rise(found), found) if found else None

    def _planned(self, targets: Targets, records: Sequence[TrialRecord]) -> list[Planned]:
        """The best that keep to some targets, of each input size that has one."""
        fits = [r for r in records if keeps(r, targets, self.options, self.parent)]
        fits = fits or [r for r in records if is_within(r, targets, self.options, self.parent)]  # all are noisy
        fits.sort(key=lambda r: (total_rise(r), r.number))
        found = []
        for size in self._sizes(self.tables):
            own = [r for r in fits if r.architecture.get("imgsz") == size]
            if own:
                best = best_of(own, targets, self.parent)
                others = tuple(r for r in own if r is not best)
                found.append(Planned(targets, best, others, int(str(size)) if size else None))
        return found or [Planned(targets, None)]


def best_of(records: Sequence[TrialRecord], targets: Targets, parent: TrialRecord) -> TrialRecord:
    """The first of networks that keep to targets, by their rises, or the first of those as good within its error that
    was not measured above the targets: what is barely let through was often measured too low.
    """
    as_good = [r for r in records if total_rise(r) <= total_rise(records[0]) + records[0].metrics["rise_error"]]
    return next((r for r in as_good if excess(r, targets, parent) <= 0), records[0])


def limits(targets: Targets, o: Options, parent: TrialRecord, off: Mapping[str, float] | None = None) -> list[Limit]:
    """What targets and constraints leave, as shares of the parent's costs.

    Args:
        off: by how much costs are above what a table says, by metric.
    """

    def within(limit: Target | Constraint, at_most: bool) -> Limit:
        metric = ratio_of(limit.metric)
        return Limit(metric, goal(limit, parent) - (off or {}).get(metric, 0.0), at_most)

    return [*(within(target, True) for target in targets), *(within(c, c.at_most) for c in o.constraints)]
