"""How often a proof is wrong, how often it finds what is there, and how many trainings racing saves, on made-up scores.

    python benchmarks/proof_errors.py --runs 2000                      # claims by their distance from the border
    python benchmarks/proof_errors.py --runs 2000 --table noise        # other noise than normal
    python benchmarks/proof_errors.py --runs 2000 --table costs        # latencies that are equal, or 2 % higher
    python benchmarks/proof_errors.py --runs 2000 --table power        # a gain of two standard deviations

Each run is a proof of three candidates beside a baseline and the baseline rescaled, looked at after each seed where it
races. All runs are seeded.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from yolov5_nas.results.claims import EQUAL, LEVEL, Claim
from yolov5_nas.results.race import Race

SPREAD, MARGIN, CHEAP = 0.01, 0.005, 0.8  # of a seed; that of a proof; cost of candidates
TIMED = 0.005  # standard error of a latency as a share of it
BASELINES, CANDIDATES = ("stock", "stock rescaled"), ("trial 1", "trial 2", "trial 3")

Noise = Callable[[random.Random], float]  # mean 0, standard deviation 1
NORMAL: Noise = lambda rng: rng.gauss(0.0, 1.0)  # noqa: E731
LEFT: Noise = lambda rng: 1.0 - rng.expovariate(1.0)  # noqa: E731
RIGHT: Noise = lambda rng: rng.expovariate(1.0) - 1.0  # noqa: E731
SLIGHTLY_LEFT: Noise = lambda rng: 2.0 - rng.gammavariate(4.0, 0.5)  # noqa: E731
SLIGHTLY_RIGHT: Noise = lambda rng: rng.gammavariate(4.0, 0.5) - 2.0  # noqa: E731
NOISES: dict[str, tuple[Noise, Noise]] = {  # of candidates and of baselines; the skewness is 2, or 1 where slight
    "normal": (NORMAL, NORMAL),
    "all skewed left": (LEFT, LEFT),
    "all skewed right": (RIGHT, RIGHT),
    "candidates right, baselines left": (RIGHT, LEFT),
    "candidates slightly left, baselines normal": (SLIGHTLY_LEFT, NORMAL),
    "candidates left, baselines normal": (LEFT, NORMAL),
    "candidates slightly left, baselines slightly right": (SLIGHTLY_LEFT, SLIGHTLY_RIGHT),
    "candidates left, baselines right": (LEFT, RIGHT),
}


@dataclass(frozen=True)
class Made:
    """Proofs of one kind.

    Args:
        claim: that is counted.
        above: true mAP50-95 of the first candidate above the border of the claim; the others are at it.
        others: the same of the other candidates.
        seeds: of each, at most.
        races: those that are decided are trained no more.
        spread: standard deviation over seeds.
        noise: names one of `NOISES`.
        cost: true ratio of costs, of candidates to baselines.
        weak: true mAP50-95 of the rescaled baseline below the other's, which then alone is hard to beat; claims about
            the weak one are not counted.
        offset: standard deviation of what a network's latencies are off by, the same in all of its trainings.
    """

    claim: Claim = Claim.BETTER
    above: float = 0.0
    others: float = 0.0
    seeds: int = 5
    races: bool = True
    spread: float = SPREAD
    noise: str = "normal"
    cost: float = CHEAP
    weak: float = 0.0
    offset: float = 0.0

    def run(self, rng: random.Random) -> tuple[set[tuple[str, str]], int]:
        """The candidates and baselines of which the claim is made, and the number of trainings."""
        race = Race(BASELINES, CANDIDATES, self.seeds, MARGIN, races=self.races)
        means = dict.fromkeys(BASELINES, 0.5) | dict.fromkeys(CANDIDATES, 0.5 - self.claim.margin(MARGIN) + self.others)
        means["stock rescaled"] -= self.weak
        means["trial 1"] = 0.5 - self.claim.margin(MARGIN) + self.above
        costs = {name: rng.gauss(self.cost if name in CANDIDATES else 1.0, self.offset) for name in means}
        trained = 0
        for seed in range(self.seeds):
            for name in race.left():
                noise = NOISES[self.noise][name in BASELINES](rng)
                cost = costs[name] * rng.gauss(1.0, TIMED)
                race.add(name, seed, means[name] + self.spread * noise, cost, TIMED)
                trained += 1
        made = {(c.candidate, c.rival) for c in race.comparisons() if c.holds(self.claim)}
        return {(candidate, rival) for candidate, rival in made if not self.weak or rival == "stock"}, trained

    def rates(self, runs: int, seed: int = 0) -> tuple[float, float, float]:
        """Return how often the claim is made of the first candidate (better: than all baselines), how often of another,
        and the trainings on average."""
        rng = random.Random(seed)
        results = [self.run(rng) for _ in range(runs)]
        needed = len(BASELINES) if self.claim is Claim.BETTER and not self.weak else 1
        first = sum(sum(c == "trial 1" for c, _ in found) >= needed for found, _ in results) / runs
        other = sum(any(c != "trial 1" for c, _ in found) for found, _ in results) / runs
        return first, other, sum(trained for _, trained in results) / runs

    def wrong(self, runs: int, seed: int = 0) -> float:
        """How often the claim is made of any candidate."""
        rng = random.Random(seed)
        return sum(bool(self.run(rng)[0]) for _ in range(runs)) / runs


def borders(runs: int, seeds: int, seed: int) -> Iterator[list[str]]:
    """Rows by the distance of one candidate from the claim's border."""
    yield ["claim", "sd above its border", "seeds", "found", "wrong", "trainings"]
    for claim in Claim:
        for above in (0.0, 0.5, 1.0, 2.0):
            for races in (False, True):
                made = Made(claim, above * SPREAD, seeds=seeds, races=races)
                found, other, trained = made.rates(runs, seed)
                if not above:
                    found = other = made.wrong(runs, seed)
                design = "racing" if races else f"all {seeds}"
                yield [claim.value, f"{above:g}", design, f"{found:.3f}", f"{other:.3f}", f"{trained:.1f}"]


def noises(runs: int, seeds: int, seed: int) -> Iterator[list[str]]:
    """Rows by the noise of seeds, all candidates at the border of the claim; *better* also beside a weak baseline."""
    weak = Made(Claim.BETTER, seeds=seeds, weak=10 * SPREAD)
    kinds = {"better": Made(Claim.BETTER, seeds=seeds), "better, one baseline weak": weak}
    kinds["as good and cheaper"] = Made(Claim.AS_GOOD, seeds=seeds)
    yield ["noise of seeds", *kinds]
    for noise in NOISES:
        yield [noise, *(f"{replace(made, noise=noise).wrong(runs, seed):.3f}" for made in kinds.values())]


def costs(runs: int, seeds: int, seed: int) -> Iterator[list[str]]:
    """Rows by what latencies are off by: equal ones of networks as good, and higher ones of better networks."""
    yield [
        "latencies off by",
        "as good and cheaper, wrong, at equal latency",
        f"better, wrong, at {EQUAL:g} of the latency",
    ]
    good = Made(Claim.AS_GOOD, 5 * SPREAD, 5 * SPREAD, seeds, cost=1.0)
    better = Made(Claim.BETTER, 5 * SPREAD, 5 * SPREAD, seeds, cost=EQUAL)
    for offset in (0.0, 0.0025, 0.005, 0.01):
        rates = (replace(made, offset=offset).wrong(runs, seed) for made in (good, better))
        yield [f"{offset:.2%}", *(f"{rate:.3f}" for rate in rates)]


def power(runs: int, seeds: int, seed: int) -> Iterator[list[str]]:
    """Rows by the number of seeds: one candidate that is better by two standard deviations."""
    yield ["seeds", "all seeds, found", "racing, found", "racing, trainings"]
    for count in (3, 5, 7, 10):
        made = Made(Claim.BETTER, 0.010, seeds=count, spread=0.005)
        whole, racing = (replace(made, races=races).rates(runs, seed) for races in (False, True))
        yield [str(count), f"{whole[0]:.3f}", f"{racing[0]:.3f}", f"{racing[2]:.1f}"]


TABLES = {"borders": borders, "noise": noises, "costs": costs, "power": power}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", choices=TABLES, default="borders")
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(f"level {LEVEL:g}, {args.runs} runs, up to {args.seeds} seeds")
    for i, row in enumerate(TABLES[args.table](args.runs, args.seeds, args.seed)):
        print("| " + " | ".join(row) + " |" + ("\n" + "|---" * len(row) + "|" if not i else ""), flush=True)


if __name__ == "__main__":
    main()
