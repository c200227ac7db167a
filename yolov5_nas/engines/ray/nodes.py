"""The nodes of a cluster, their slots, and how much room they have for trials."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import UserError
from ..contract import Job


@dataclass
class Node:
    """A machine of the cluster that has room for trials."""

    id: str
    name: str
    room: int  # trials at a time
    measures: dict[str, float]  # what its measuring takes of it, if it measures
    good: bool = False
    failures: int = 0  # slots in a row that did not start


@dataclass(eq=False)
class Slot:
    """An actor, and the job that it runs."""

    actor: Any
    node: Node
    measures: bool
    job: Job | None = None
    since: float = 0.0
    files: Any = None  # reference to the light and the heavy files of its job
    heavy: Any = None


@dataclass
class Task:
    """A job that waits for a slot."""

    job: Job
    costs: str = ""  # the outcome of its measuring, where that is done elsewhere


@dataclass
class Check:
    """A node that was asked whether it can run trials."""

    node: Node
    has_pieces: bool = False
    since: float = field(default_factory=time.monotonic)


class Room:
    """How many trials fit, by what they need and what nodes have.

    Args:
        needs: of one trial, by Ray's names of resources.
        measure_on: the resource whose nodes measure, if that is not done where a trial runs.
    """

    def __init__(self, needs: Mapping[str, float], measure_on: str | None):
        self.needs, self.measure_on = needs, measure_on

    def check(self, totals: Sequence[Mapping[str, float]], concurrency: int | None) -> int:
        """How many trials and measurements there may be at a time, by what each node has in all.

        Raises:
            UserError: no node has room for one, or not all have room for as many as are asked for.
        """
        wanted = {"CPU": ("--cpus-per-trial", self.needs["CPU"]), "GPU": ("--gpus-per-trial", self.needs.get("GPU", 0))}
        if self.measure_on:
            wanted[self.measure_on] = "--measure-on " + self.measure_on, 1
        for name, (flag, amount) in wanted.items():
            most = max((total.get(name, 0) for total in totals), default=0)
            if most < amount:
                raise UserError(f"{flag}: no node has as much", got=amount, accepted=f"at most {most:g}")
        measuring = [self.measuring(total) for total in totals]
        if not (room := sum(map(self.trials, totals, measuring))):
            raise UserError("no node has room for a trial", got=self.needs)
        if concurrency and concurrency > room:
            rule = "--concurrency must be at most what the cluster has room for"
            raise UserError(rule, got=concurrency, accepted=f"1-{room}")
        return (concurrency or room) + sum(map(bool, measuring))

    def measuring(self, total: Mapping[str, float]) -> dict[str, float]:
        """The resources that measuring takes on a node, given all that it has; {} where it does not measure."""
        if not self.measure_on or total.get(self.measure_on, 0) < 1:
            return {}
        return {self.measure_on: 1, **{name: min(need, total.get(name, 0)) for name, need in self.needs.items()}}

    def trials(self, total: Mapping[str, float], measures: Mapping[str, float]) -> int:
        """How many trials fit on a node beside its measuring."""
        left = {name: total.get(name, 0) - measures.get(name, 0) for name in self.needs}
        return min(math.floor(left[name] / need + 1e-6) for name, need in self.needs.items())
