"""What architectures cost before they are measured, and draws that are spread over what is allowed.

Parameters and GFLOPs are counted. What has to be measured, latency above all, is learned from every measurement so far,
those of refused architectures included: a Bayesian linear model in which an option costs about its share of the GFLOPs.
All costs are shares of the default architecture's.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from ..records.journal import TrialRecord
from ..records.reward import Constraint
from ..space.architecture import Architecture, Value
from ..space.counts import count
from ..space.space import Space
from .knapsack import best_options
from .pooled import measured_error
from .regression import posterior

if TYPE_CHECKING:
    import numpy as np

COUNTED = ("gflops", "params")
OF_GFLOPS = 0.7  # prior: a change of GFLOPs, as a share, times this is the change of latency
SURE = 0.3  # prior: the standard deviation of that factor
OPTION, ACT, WHOLE = 0.02, 0.005, 0.1  # prior: standard deviation of what an option, activation or form costs besides
MISFITS = (0.002, 0.01, 0.03)  # how far sums of costs may be off; the likeliest is taken
TRIES = 15
SURELY = 2.0  # standard errors
STEEPEST = 1e5  # tilt of a draw

Labelled = tuple[str, Value]
GFLOPS: Labelled = ("", "gflops")  # what is learned of these, among what is learned of options


class Group:
    """Labels whose options cost something only together, such as a layer's kernels, width and depth; or one label.

    Args:
        options: values of the labels, all combinations; the default ones first.
        start: the place of the first of them among all options of a form.
    """

    def __init__(self, labels: Sequence[str], options: Sequence[tuple[Value, ...]], start: int):
        self.labels, self.options, self.start = tuple(labels), tuple(options), start
        self.place = {option: start + i for i, option in enumerate(self.options)}

    def of(self, architecture: Mapping[str, Value]) -> int:
        """The place of the option that an architecture has."""
        return self.place[tuple(architecture[label] for label in self.labels)]


class Form:
    """The architectures of one form of the network (see `space.forms`): what they cost is a sum over groups' options.

    Args:
        unit: what the default architecture of all costs of `COUNTED`; None where that can't be counted.
        imgsz: input size in pixels where the form names none.

    Attributes:
        base: (2,), `COUNTED` of the form's own default architecture, as shares of the unit.
        counted: (options, 2), what each adds to that.
        starts: the first option of each group.
    """

    def __init__(self, space: Space, form: Mapping[str, Value], unit: Mapping[str, float] | None, imgsz: int):
        import numpy as np

        self.form, self.whole, self.space, self.unit = form, space, space.in_form(form), unit
        self.default, self.imgsz = self.space.default(), int(form.get("imgsz", imgsz))
        self.base = self._counted({})
        self.groups: list[Group] = []
        counted: list[np.ndarray] = []
        for layer in self.space.layers.values():
            shape = [c for c in layer.choices if c.is_sized]
            for choices in (shape, *([c] for c in layer.choices if not c.is_sized)):
                labels = [c.label for c in choices]
                first = tuple(self.default[label] for label in labels)
                options = [first, *(o for o in itertools.product(*(c.options for c in choices)) if o != first)]
                options = [o for o in options if self._is_of_whole(labels, o)]
                self.groups.append(Group(labels, options, len(counted)))
                changes = ({} if choices is not shape else dict(zip(labels, option)) for option in options)
                counted += [self._counted(change) - self.base for change in changes]
        self.counted = np.array(counted)
        self.starts = [group.start for group in self.groups]

    @cached_property
    def options(self) -> list[tuple[Labelled, ...]]:
        """What each option is in the whole space: values by label."""
        return [tuple(self.whole.outer(option, self.form).items())[: len(option)] for option in self._inner]

    def places(self, inner: Mapping[str, Value]) -> list[int]:
        """The options of an architecture of the form's space."""
        return [group.of(inner) for group in self.groups]

    def architecture(self, places: Iterable[int]) -> Architecture:
        """The architecture of the whole space with an option of each group."""
        found = {label: value for place in places for label, value in self._inner[place].items()}
        return self.whole.outer({label: found[label] for label in self.default}, self.form)

    @cached_property
    def _inner(self) -> list[dict[str, Value]]:
        return [dict(zip(group.labels, option)) for group in self.groups for option in group.options]

    def _is_of_whole(self, labels: Sequence[str], option: Sequence[Value]) -> bool:
        """Whether the whole space has an option; the form's space may have more, where two activations become one."""
        values = self.whole.outer(dict(zip(labels, option)), self.form)
        return all(values[label] in self.whole.choices[label].options for label in labels)

    def _counted(self, change: Mapping[str, Value]) -> np.ndarray:
        import numpy as np

        if self.unit is None:
            return np.zeros(len(COUNTED))
        found = count(self.space, {**self.default, **change}, self.imgsz)
        return np.array([found[metric] / self.unit[metric] for metric in COUNTED])


class Learned(NamedTuple):
    """What is learned of a metric that is measured.

    Args:
        adds: of the GFLOPs' share, and of each option that is not the default one.
        covariance: of these.
    """

    adds: dict[Labelled, float]
    covariance: np.ndarray


class Costs:
    """What a space's architectures cost.

    Args:
        imgsz: input size in pixels, of the default architecture.
        constraints: what must be kept to.
        metrics: further costs that matter.
    """

    def __init__(self, space: Space, imgsz: int, constraints: Sequence[Constraint] = (), metrics: Sequence[str] = ()):
        self.space, self.imgsz, self.constraints = space, imgsz, tuple(constraints)
        self.metrics = tuple(dict.fromkeys([*(c.metric for c in constraints), *metrics]))
        self.measured: list[TrialRecord] = []
        self.reference: TrialRecord | None = None
        self.fits: dict[str, Learned] = {}
        self.forms: dict[str, Form] = {}
        try:
            self.own: dict[str, float] | None = count(space, space.default(), imgsz)
        except KeyError:  # a layer whose cost is not known
            self.own = None

    # What is known ------------------------------------------------------------------------------------------------

    @property
    def learned(self) -> list[str]:
        """The metrics that are not counted."""
        return [m for m in self.metrics if self.own is None or m not in COUNTED]

    def tell(self, record: TrialRecord) -> None:
        """Learn what an architecture cost."""
        if record.state in ("complete", "infeasible", "pruned"):
            if record.is_reference:
                self.reference = record
            if any(metric in record.metrics for metric in self.learned):
                self.measured.append(record)
                self.fits.clear()

    def unit(self, metric: str) -> float | None:
        """What the default architecture costs; None where it is not known yet."""
        if metric == "latency_ratio":
            return 1.0
        if self.own and metric in COUNTED:
            return self.own[metric]
        return self.reference.metrics.get(metric) if self.reference else None

    def share(self, architecture: Mapping[str, Value], metric: str) -> float:
        """What an architecture costs, as far as is known."""
        form, inner = self._formed(architecture)
        base, adds = self.terms(form, metric)
        return base + float(adds[form.places(inner)].sum())

    def allows(self, architecture: Mapping[str, Value], sure: float = SURELY) -> bool:
        """Whether an architecture is not known to break a constraint.

        Args:
            sure: by how many standard errors of its predicted cost it would have to break one.
        """
        for c in self.constraints:
            if unit := self.unit(c.metric):
                error = sure * self.unsure(architecture, c.metric) * (-1 if c.at_most else 1)
                if c.excess({c.metric: (self.share(architecture, c.metric) + error) * unit}) > 1e-9:
                    return False
        return True

    def unsure(self, architecture: Mapping[str, Value], metric: str) -> float:
        """The standard error of a share; 0 where it is counted."""
        if self.own and metric in COUNTED:
            return 0.0
        row = self._row(architecture)
        return float(row @ self._fit(metric).covariance @ row) ** 0.5

    def form_of(self, form: Mapping[str, Value]) -> Form:
        """The sums of a form."""
        key = repr(sorted(form.items()))
        if key not in self.forms:
            self.forms[key] = Form(self.space, form, self.own, self.imgsz)
        return self.forms[key]

    def terms(self, form: Form, metric: str) -> tuple[float, np.ndarray]:
        """What a form's default architecture costs, and what each option of its groups adds to that, (options,)."""
        if self.own and metric in COUNTED:
            column = COUNTED.index(metric)
            return float(form.base[column]), form.counted[:, column]
        import numpy as np

        known = self._fit(metric).adds

        def adds(entries: Iterable[Labelled]) -> float:
            return sum(known.get(entry, 0.0) for entry in entries)

        base = 1.0 + adds(form.form.items()) + (known[GFLOPS] * (float(form.base[0]) - 1.0) if self.own else 0.0)
        own = np.array([adds(option) for option in form.options])
        firsts = own[form.starts]  # a form's default may be an option
        adds_more = own - np.repeat(firsts, np.diff([*form.starts, len(own)]))
        return base + float(firsts.sum()), known[GFLOPS] * form.counted[:, 0] + adds_more

    def limits(self, form: Form) -> list[tuple[np.ndarray, float]]:
        """The constraints in a form: sums of what options add that are at most a number."""
        found = []
        for c in self.constraints:
            if unit := self.unit(c.metric):
                base, adds = self.terms(form, c.metric)
                sign = 1.0 if c.at_most else -1.0
                found.append((sign * adds, sign * (c.limit / unit - base)))
        return found

    def _formed(self, architecture: Mapping[str, Value]) -> tuple[Form, Architecture]:
        return self.form_of(self.space.form_of(architecture)), self.space.inner(architecture)

    def _fit(self, metric: str) -> Learned:
        if metric not in self.fits:
            self.fits[metric] = self._fitted(metric)
        return self.fits[metric]

    @cached_property
    def _entries(self) -> dict[Labelled, int]:
        """The columns of what is learned: the GFLOPs, and each option that is not the default one."""
        choices = self.space.choices.values()
        entries = [GFLOPS, *((c.label, option) for c in choices for option in c.options if option != c.default)]
        return {entry: j for j, entry in enumerate(entries)}

    def _row(self, architecture: Mapping[str, Value]) -> np.ndarray:
        """What an architecture has of each column."""
        import numpy as np

        row = np.zeros(len(self._entries))
        if self.own:
            form, inner = self._formed(architecture)
            row[0] = form.base[0] - 1 + form.counted[form.places(inner), 0].sum()
        row[[self._entries[entry] for entry in architecture.items() if entry in self._entries]] = 1.0
        return row

    def _fitted(self, metric: str) -> Learned:
        import numpy as np

        unit, entries = self.unit(metric), self._entries
        having = [r for r in self.measured if metric in r.metrics] if unit else []
        wide = 1.0 if self.own else 5.0
        forms = {choice.label for choice in self.space.whole}
        own = {
            label: WHOLE if label in forms else OPTION if choice.is_sized else ACT
            for label, choice in self.space.choices.items()
        }
        errors = (wide * own[label] for label, _ in list(entries)[1:])
        prior, mean = np.array([SURE, *errors]), np.zeros(len(entries))
        mean[0] = OF_GFLOPS if self.own else 0.0
        if not having or not unit:
            return Learned(dict(zip(entries, mean.tolist())), np.diag(prior**2))
        x = np.array([self._row(record.architecture) for record in having])
        y = np.array([r.metrics[metric] / unit - 1.0 for r in having]) - x @ mean
        error = np.array([measured_error(r) for r in having])
        fits = [posterior(x, y, prior, np.sqrt(error**2 + misfit**2)) for misfit in MISFITS]
        _, found, covariance = max(fits, key=lambda one: one[0])
        return Learned(dict(zip(entries, (mean + found).tolist())), covariance)

    # Draws --------------------------------------------------------------------------------------------------------

    def draw(self, rng: random.Random) -> Architecture:
        """An architecture drawn at random; where a cost matters, cheap ones are as likely as expensive ones.

        An allowed cost is drawn log-uniformly, then an architecture from the maximum-entropy distribution over the
        options whose mean cost it is.
        """
        if not self.metrics:
            return self.space.sample(rng)
        found = self.space.default()
        for tried in range(TRIES):
            form = self.form_of(rng.choice(self.space.forms))
            found = self._drawn(form, rng, 0.9**tried)  # nearer and nearer to the cheapest
            if self.allows(found, 0.0):
                return found
        return self._picked(rng) or found

    def _picked(self, rng: random.Random) -> Architecture | None:
        """One that meets all constraints, where few do: the best by randomly drawn values; None if there is none."""
        import numpy as np

        for form in map(self.form_of, rng.sample(self.space.forms, len(self.space.forms))):
            values = np.array([rng.gauss(0, 1) for _ in form.options])
            if (places := best_options(values, form.starts, self.limits(form))) is not None:
                return form.architecture(places)
        return None

    def _drawn(self, form: Form, rng: random.Random, top: float) -> Architecture:
        """One of a form, of a cost in the lower share `top` of what is allowed."""
        import numpy as np

        metric = rng.choice([c.metric for c in self.constraints] or self.metrics)
        base, adds = self.terms(form, metric)
        low = base + float(np.minimum.reduceat(adds, form.starts).sum())
        high = base + float(np.maximum.reduceat(adds, form.starts).sum())
        for c in self.constraints:
            if c.metric == metric and (unit := self.unit(metric)):
                low, high = (low, min(high, c.limit / unit)) if c.at_most else (max(low, c.limit / unit), high)
        low = max(low, 1e-3)
        wanted = low * max(high / low, 1.0) ** (top * rng.random())
        chances = tilted(adds, form.starts, wanted - base)
        bounds = [*form.starts, len(adds)]
        places = [rng.choices(range(a, b), weights=chances[a:b].tolist())[0] for a, b in itertools.pairwise(bounds)]
        return form.architecture(places)


def tilted(costs: np.ndarray, starts: Sequence[int], mean: float) -> np.ndarray:
    """Probabilities of options, exponential in cost, such that one option per group costs a given mean in total.

    Args:
        costs: (options,).
        starts: the first option of each group.
    """
    import numpy as np

    sizes = np.diff([*starts, len(costs)])
    least = costs - np.repeat(np.minimum.reduceat(costs, starts), sizes)
    most = costs - np.repeat(np.maximum.reduceat(costs, starts), sizes)

    def chances(slope: float) -> np.ndarray:
        weights = np.exp(slope * (most if slope > 0 else least))
        return weights / np.repeat(np.add.reduceat(weights, starts), sizes)  # type: ignore[no-any-return]

    low, high = -math.asinh(STEEPEST), math.asinh(STEEPEST)  # slopes of 1e-3 and 1e5 both occur
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if float(chances(math.sinh(middle)) @ costs) < mean else (low, middle)
    return chances(math.sinh(high))
