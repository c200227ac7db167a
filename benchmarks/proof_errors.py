"""How often a proof is wrong, how often it finds what is there, and how many trainings racing saves, on made-up scores.

    python benchmarks/proof_errors.py --runs 2000

Each run is a proof of three candidates beside a rival and the rival rescaled, with seeds' normal noise. All three are
at the claim's border (for errors), or one is above it by so many standard deviations of the noise (for power).
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping

from yolov5_nas.results.claims import LEVEL, Claim
from yolov5_nas.results.race import Race

SPREAD, MARGIN, COST = 0.01, 0.005, 0.8  # of a seed; that of a proof; of candidates
RIVALS, CANDIDATES = ("stock", "stock rescaled"), ("trial 1", "trial 2", "trial 3")


def run(means: Mapping[str, float], claim: Claim, seeds: int, races: bool, rng: random.Random) -> tuple[set[str], int]:
    """The candidates of which the claim was made, and the number of trainings."""
    race = Race(RIVALS, CANDIDATES, seeds, MARGIN, races=races)
    trained = 0
    for seed in range(seeds):
        for name in race.left():
            cost = COST if name in CANDIDATES else 1.0
            race.add(name, seed, rng.gauss(means[name], SPREAD), cost * rng.gauss(1.0, 0.005), 0.005)
            trained += 1
    return {c.candidate for c in race.comparisons() if c.holds(claim)}, trained


def table(runs: int, seeds: int, seed: int) -> list[list[str]]:
    """Rows of claim, differences, design, how often the claim is made, trainings."""
    rows = []
    for claim in Claim:
        border = -MARGIN if claim is Claim.AS_GOOD else 0.0
        for above in (0.0, 0.5, 1.0, 2.0):
            for races in (False, True):
                rng = random.Random(seed)
                means = dict.fromkeys((*RIVALS, *CANDIDATES), 0.5)
                means |= dict.fromkeys(CANDIDATES, 0.5 + border)
                means["trial 1"] += above * SPREAD
                results = [run(means, claim, seeds, races, rng) for _ in range(runs)]
                wanted = {"trial 1"} if above else set(CANDIDATES)
                share = sum(bool(found & wanted) for found, _ in results) / runs
                wrong = sum(bool(found - ({"trial 1"} if above else set())) for found, _ in results) / runs
                trained = sum(count for _, count in results) / runs
                design = "racing" if races else "all seeds"
                rows.append([claim.value, f"{above:g}", design, f"{share:.3f}", f"{wrong:.3f}", f"{trained:.1f}"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(f"level {LEVEL:g}, {args.seeds} seeds, {args.runs} runs")
    print("| claim | sd above its border | design | found | wrong | trainings |\n|---|---|---|---|---|---|")
    for row in table(args.runs, args.seeds, args.seed):
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
