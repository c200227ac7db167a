"""How far the intervals of the report's "What each choice does" can be trusted: simulated searches with known effects.

    python benchmarks/effects.py

For each number of trials, in searches of yolov5n_elastic.yaml that draw at random or mutate (as evolution does): the
share of true effects that their 95 % interval holds, the share of true effects that is said to matter, and how many
options are said to matter where none does. `cost` has an effect for every option and hardly any noise, as latency;
`accuracy` six strong effects and noise of the size of a third of them.
"""

from __future__ import annotations

import random
from statistics import mean

from yolov5_nas.files import shipped
from yolov5_nas.records.journal import TrialRecord
from yolov5_nas.results.effects import Effect, effects
from yolov5_nas.space.architecture import Architecture
from yolov5_nas.space.space import Space

SEARCHES = 40
Truth = dict[tuple[str, object], float]


def architectures(space: Space, rng: random.Random, trials: int, evolved: bool) -> list[Architecture]:
    """The default one, then others."""
    found = [space.default()]
    while len(found) < trials:
        parent = rng.choice(found[-8:])
        found.append(space.mutate(space.mutate(parent, rng), rng) if evolved else space.sample(rng))
    return found


def estimate(space: Space, found: list[Architecture], truth: Truth, noise: float, rng: random.Random) -> list[Effect]:
    """The effects of a search whose metric is the sum of the true ones, and noise."""
    metrics = [1 + sum(truth.get(item, 0.0) for item in a.items()) + rng.gauss(0, noise) for a in found]
    records = [TrialRecord(i, dict(a), "complete", metrics={"cost": m}) for i, (a, m) in enumerate(zip(found, metrics))]
    return effects(records, "cost", space.default())


def main() -> None:
    """Print a line for each kind of search."""
    space = Space.from_yaml(shipped("models") / "yolov5n_elastic.yaml")
    default = space.default()
    options = [(c.label, o) for c in space.choices.values() for o in c.options if o != default[c.label]]
    print(f"{len(options)} options; {SEARCHES} searches for each line\n")
    print("kind       trials          held   found   said to matter where nothing does")
    for kind, strong, size, noise in (("cost", len(options), 0.03, 0.005), ("accuracy", 6, 0.03, 0.01)):
        for evolved in (False, True):
            for trials in (8, 12, 30, 60, 90, 200):
                held, said, false = [], [], []
                for seed in range(SEARCHES):
                    rng = random.Random(seed)
                    found = architectures(space, rng, trials, evolved)
                    tried = [o for o in options if any(a[o[0]] == o[1] for a in found)]
                    truth: Truth = {o: rng.gauss(0, size) for o in rng.sample(tried, min(strong, len(tried)))}
                    for e in estimate(space, found, truth, noise, rng):
                        true = truth.get((e.label, e.option), 0.0)
                        held.append(e.low <= true <= e.high)
                        if true:
                            said.append(e.matters and e.mean * true > 0)
                    false.append(sum(e.matters for e in estimate(space, found, {}, noise, rng)))
                how = "evolved" if evolved else "random"
                print(f"{kind:<9} {trials:>4} {how:<8} {mean(held):>9.0%} {mean(said):>7.0%} {mean(false):>8.1f}")


if __name__ == "__main__":
    main()
