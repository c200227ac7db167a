"""Thompson sampling with an additive model: what every option adds is learned from all trials together.

One training is noisy, and tells little of its architecture; but each of an architecture's options was tried in many
others. Where options' effects nearly add up, all trials together say far more of one choice than the best trial does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..records.journal import TrialRecord
from ..records.metrics import is_maximised
from ..space.architecture import Architecture
from ..space.space import Space
from .costs import Costs, Form
from .knapsack import best_options
from .regression import Fit, fence, fit
from .strategy import Strategy

if TYPE_CHECKING:
    import numpy as np

FIRST = 4  # architectures that are drawn before anything is learned; of 4 and 10 the better in simulations
# The width of a draw as a share of the posterior's: with more options than trials, full-width draws explore for ever.
# The best of 0.1, 0.3, 0.5, 0.7 and 1 in simulations of 20 to 100 trials.
WIDTH = 0.3
WIDER = 1.1  # times as wide a draw as the one before, where that gave nothing new
TIGHTER = 0.01  # of the default's cost, for each refusal in a row: what seems to cost least is what errors flatter


class Additive(Strategy):
    """A Bayesian linear model of one effect for each option, and the architecture that is best by a draw from it
    (Thompson 1933; Russo et al. 2018), found by an integer programme where constraints limit it.

    With several objectives, each proposal is the best architecture within a randomly drawn limit on one of the costs.

    Args:
        objectives: metrics; by default the reward alone.
    """

    is_placed = True

    def __init__(self, space: Space, seed: int = 0, costs: Costs | None = None, objectives: Sequence[str] = ()):
        super().__init__(space, seed, costs or Costs(space, 640))
        self.accuracies = [metric for metric in objectives if is_maximised(metric)]
        self.limited = [metric for metric in objectives if not is_maximised(metric)]
        self.complete: list[TrialRecord] = []
        self.tried = self.refused = 0
        self.fits: dict[str, Fit] = {}
        options = [(c.label, option) for c in space.choices.values() for option in c.options]
        self.column = {option: j for j, option in enumerate(options)}

    def ask(self) -> Architecture:
        self.tried = 0
        return super().ask()

    def propose(self) -> Architecture:
        self.tried += 1
        if len(self.complete) < FIRST or (self.limited and not self.accuracies):
            return self.draw()
        return self._best(self._drawn_effects()) or self.draw()

    def observe(self, record: TrialRecord) -> None:
        self.refused = self.refused + 1 if record.state == "infeasible" else 0
        if record.state == "complete" and all(m in record.metrics for m in self.accuracies):
            self.complete.append(record)
            self.fits.clear()

    # What is learned ------------------------------------------------------------------------------------------------

    def _drawn_effects(self) -> np.ndarray:
        """One draw of what each option adds, (columns,); several accuracies are mixed in randomly drawn shares."""
        import numpy as np

        rng = np.random.default_rng(self.rng.getrandbits(64))
        names = self.accuracies or [""]
        shares = rng.dirichlet(np.ones(len(names)))
        draws = [self._fit(name).draw(rng, WIDTH * WIDER ** (self.tried - 1)) for name in names]
        return sum(share * draw / (np.abs(draw).max() or 1.0) for share, draw in zip(shares, draws))  # type: ignore[no-any-return]

    def _fit(self, metric: str) -> Fit:
        """The model of an accuracy, or "" of the reward."""
        import numpy as np

        if metric not in self.fits:
            x = np.zeros((len(self.complete), len(self.column)))
            for row, record in zip(x, self.complete):
                row[[self.column[option] for option in record.architecture.items()]] = 1.0
            y = [r.metrics[metric] if metric else r.reward or 0.0 for r in self.complete]
            self.fits[metric] = fit(x, np.maximum(y, fence(y)))
        return self.fits[metric]

    # What is best by it ---------------------------------------------------------------------------------------------

    def _best(self, effects: np.ndarray) -> Architecture | None:
        """The architecture with the largest sum of effects within the constraints, or None."""
        limited = self.rng.choice(self.limited) if self.limited else None
        share, found = self.rng.random(), []
        assert self.costs
        for form in map(self.costs.form_of, self.space.forms):
            own = sum(float(effects[self.column[option]]) for option in form.form.items())
            if (places := self._best_of(form, effects, limited, share)) is not None:
                values = self._values(form, effects)[places].sum()
                found.append((own + float(values), form.architecture(places)))
        return max(found, key=lambda one: one[0])[1] if found else None

    def _best_of(self, form: Form, effects: np.ndarray, limited: str | None, share: float) -> list[int] | None:
        """The best options of a form; at most the `share` of what is worth spending of the cost `limited`, if any."""
        import numpy as np

        assert self.costs
        values = self._values(form, effects)
        limits = [(adds, most - self.refused * TIGHTER) for adds, most in self.costs.limits(form)]
        places = best_options(values, form.starts, limits)
        if places is None or limited is None:
            return places
        _, adds = self.costs.terms(form, limited)
        least = float(np.minimum.reduceat(adds, form.starts).sum())
        most = least + share * (float(adds[places].sum()) - least)
        return best_options(values, form.starts, [*limits, (adds, most)]) or places

    def _values(self, form: Form, effects: np.ndarray) -> np.ndarray:
        """What each option of a form adds, (options,)."""
        import numpy as np

        return np.array([sum(effects[self.column[entry]] for entry in option) for option in form.options])
