"""What comes before the trials of a one-shot search: the shared network is trained, and scores architectures.

Each is a small search in a folder of its own inside the run's, with a journal, so that it resumes as a search does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .architecture import Architecture
from .engines import Engine, Trial, trial_folder
from .files import WEIGHTS
from .journal import Journal, TrialRecord, eligible, front
from .one_shot import score_trial, train_shared
from .reward import Reward, accuracy
from .search import AskTell, Listener, Loop
from .strategies import Plan
from .trial import Settings

SHARED, SCORES = "shared", "scores"  # folders in a run's


class StageError(Exception):
    """A stage did not give what the next one needs; says why."""


def shared_network(run: Path, settings: Settings, epochs: int, seed: int, engine: Callable[[], Engine]) -> Path:
    """Train the shared network, or go on with it; the file of its weights.

    Raises:
        StageError: the training has failed.
    """
    settings = replace(settings, epochs=epochs, val_period=max(1, epochs // 8), inherit_hyp=None, constraints=())
    plan = Plan([settings.space.default()])
    (record,) = run_stage(run / SHARED, train_shared, settings, plan, engine, accuracy, 1, seed)
    if record.state != "complete":
        raise StageError(
            f"the training of the shared network has {record.state}: {(record.error or {}).get('message')}"
        )
    return trial_folder(run / SHARED, 0) / WEIGHTS


def scores(
    run: Path,
    settings: Settings,
    strategy: AskTell,
    reward: Reward,
    count: int,
    seed: int,
    engine: Callable[[], Engine],
    listeners: Callable[[Journal], Sequence[Listener]],
) -> list[TrialRecord]:
    """Score `count` architectures that a strategy proposes by the shared network in `settings.weights`."""
    return run_stage(run / SCORES, score_trial, settings, strategy, engine, reward, count, seed, listeners)


def finalists(records: Sequence[TrialRecord], stock: Architecture, objectives: Sequence[str]) -> list[Architecture]:
    """What to train: stock, then those on the front of the objectives, then the others, by reward each."""
    best = front(records, *objectives) if objectives else []
    numbers = {record.number for record in best}
    order = sorted(eligible(records), key=lambda r: (r.number not in numbers, -(r.reward or 0.0), r.number))
    return [stock, *(a for r in order if (a := Architecture(r.architecture)).id != stock.id)]


def run_stage(
    folder: Path,
    trial: Trial,
    settings: Any,
    strategy: AskTell,
    engine: Callable[[], Engine],
    reward: Reward,
    count: int,
    seed: int,
    listeners: Callable[[Journal], Sequence[Listener]] = lambda journal: (),
) -> list[TrialRecord]:
    """Run a search in a folder to its end; its trials by number. An engine is started only if something is to do."""
    folder.mkdir(exist_ok=True)
    journal = Journal(folder / "trials.jsonl")
    if sum(r.counts for r in journal.trials.values()) < count:
        running = engine()
        fetch = getattr(running, "fetch", None)
        fetching = [lambda record: fetch(record.number)] if fetch else []
        try:
            running.start(trial, settings, folder)
            Loop(strategy, running, journal, reward, count, seed=seed, listeners=[*fetching, *listeners(journal)]).run()
        finally:
            running.close()
    return [record for _, record in sorted(journal.trials.items())]
