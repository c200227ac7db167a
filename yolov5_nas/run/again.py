"""Measurements of networks that have one, where one is not enough: a small stage beside that of the first ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..engines.contract import Engine
from ..records.journal import Journal, TrialRecord
from ..records.run_folder import RunFolder
from ..space.architecture import Architecture
from ..strategies.given import GivenArchitectures
from ..training.settings import Settings
from ..training.trial import measure_trial
from .callbacks import say
from .stages import asked_before, run_stage


def measure_again(
    files: RunFolder,
    asked: Sequence[Architecture],
    settings: Settings,
    engine: Callable[[], Engine],
    metrics: Sequence[str],
    stage: Mapping[str, Any],
) -> list[TrialRecord]:
    """Measure architectures, each as often as it is named; what the journal has of them already is taken from there.

    Args:
        files: of the stage of the first measurements; the journal of these lies in its `again`.
        engine: a fresh engine.
        metrics: what is shown of a measurement.
        stage: as `run_stage` takes it: `seed`, `hours`, `since`.

    Returns:
        The measurements in the order of the journal, no more of an architecture than were asked for.

    Raises:
        StageError: the time is over.
    """
    if not asked:
        return []
    before = asked_before(files.again)
    left, new = Counter(a.id for a in before), list[Architecture]()
    for architecture in asked:
        if left[architecture.id]:
            left[architecture.id] -= 1
        else:
            new.append(architecture)

    def tell(record: TrialRecord) -> None:
        shown = ", ".join(f"{name} {record.metrics[name]:.3f}" for name in metrics if name in record.metrics)
        doubt = "" if record.conditions.get("trusted", True) else " (noisy)"
        say(f"[measured again {record.number + 1}] {shown or record.state}{doubt}  {record.seconds:.0f} s")

    def listeners(journal: Journal) -> list[Callable[[TrialRecord], None]]:
        return [tell]

    every = [*before, *new]
    found = run_stage(
        files.again,
        measure_trial,
        settings,
        GivenArchitectures(every),
        engine,
        reward=lambda costs: -costs["gflops"],
        count=len(every),
        listeners=listeners,
        **stage,
    )
    wanted, own = Counter(a.id for a in asked), list[TrialRecord]()
    for record in found:
        if wanted[record.id]:
            wanted[record.id] -= 1
            own.append(record)
    return own
