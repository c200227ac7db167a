"""What a run does besides its trials: train a supernet, score with it, train some architectures in full for an audit.

Each is a small search in a folder of its own inside the run's, with a journal, so that it resumes as a search does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..engines.contract import Engine, Trial
from ..records.journal import Journal, TrialRecord, eligible, front, latest, read_lines
from ..records.option_rules import PARENT
from ..records.options import Options
from ..records.reward import Reward, accuracy
from ..records.run_folder import REFERENCE, RunFolder
from ..space.architecture import Architecture
from ..strategies.given import GivenArchitectures
from ..training.scoring import score_trial
from ..training.settings import Settings
from ..training.supernet import train_supernet
from ..training.trial import run_trial
from .loop import AskTell, Listener, Loop


class StageError(Exception):
    """A stage did not give what the next one needs; says why."""


def trained_supernet(run: Path, settings: Settings, epochs: int, **stage: Any) -> Path:
    """Train the supernet, or go on with it; the file of its weights.

    Args:
        stage: as `run_stage` takes it.

    Raises:
        StageError: the training has failed, or the time is over.
    """
    settings = replace(settings, epochs=epochs, val_period=max(1, epochs // 8), constraints=())
    plan, files = GivenArchitectures([settings.space.default()]), RunFolder(run).supernet
    own = files.trial(0)
    if any(r.state == "failed" for r in latest(read_lines(files.journal)).values()):  # a resume tries it again
        for path in (files.journal, own.outcome):
            path.unlink(missing_ok=True)
    (record,) = run_stage(files, train_supernet, settings, plan, reward=accuracy, count=1, **stage)
    if record.state != "complete":
        raise StageError(f"the training of the supernet has {record.state}: {(record.error or {}).get('message')}")
    own.last.unlink(missing_ok=True)  # only now nothing goes on from it
    return own.weights


def scores(run: Path, settings: Settings, strategy: AskTell, **stage: Any) -> list[TrialRecord]:
    """Score architectures that a strategy proposes by the supernet in `settings.weights`.

    Raises:
        StageError: all have failed, or the time is over.
    """
    found = run_stage(RunFolder(run).scores, score_trial, settings, strategy, **stage)
    if all(record.state == "failed" for record in found):
        raise StageError(f"all scores have failed, the last: {(found[-1].error or {}).get('message')}")
    return found


def full_trainings(run: Path, settings: Settings, architectures: Sequence[Architecture], **stage: Any) -> None:
    """Train some architectures in full, for an audit."""
    count = len(architectures)
    run_stage(
        RunFolder(run).audit,
        run_trial,
        settings,
        GivenArchitectures(architectures),
        reward=accuracy,
        count=count,
        **stage,
    )


def from_scratch(settings: Settings, epochs: int) -> Settings:
    """The settings of a full training: nothing is inherited, nothing refused, nothing frozen."""
    return replace(
        settings,
        epochs=epochs,
        val_period=max(1, -(-epochs // 4)),
        weights=None,
        base_epochs=None,
        distill=None if settings.distill == PARENT else settings.distill,
        freeze=(),
        constraints=(),
        needed=(),
    )


def from_weights(settings: Settings, epochs: int) -> Settings:
    """The settings of a full training of those who have weights: it goes on from them, nothing is refused."""
    return replace(settings, epochs=epochs, val_period=max(1, -(-epochs // 4)), constraints=(), needed=())


def started(settings: Settings, run: Path, o: Options) -> Settings:
    """Settings by which a further training starts from what the run's trials do; nothing is refused.

    The base, where the run trained one, lies in its trial 0, or in the parent's of a replacement search.
    """
    settings = replace(settings, base_epochs=None, constraints=())
    if not o.base_epochs:
        return settings
    files = RunFolder(run)
    return replace(settings, weights=str((files.parent if o.replaces else files).trial(REFERENCE).weights))


def finalists(records: Sequence[TrialRecord], stock: Architecture, objectives: Sequence[str]) -> list[Architecture]:
    """What to train: stock, then those on the front of the objectives, then the others, by reward each."""
    best = front(records, *objectives) if objectives else []
    numbers = {record.number for record in best}
    order = sorted(eligible(records), key=lambda r: (r.number not in numbers, -(r.reward or 0.0), r.number))
    return [stock, *(a for r in order if (a := Architecture(r.architecture)).id != stock.id)]


def asked_before(files: RunFolder) -> list[Architecture]:
    """The architectures of a journal by number: what a resume asks for first, whatever it asks for then."""
    return [Architecture(r.architecture) for _, r in sorted(latest(read_lines(files.journal)).items())]


def with_earlier(files: RunFolder, asked: Sequence[Architecture]) -> list[Architecture]:
    """What a stage is asked for now, after all that its journal has, which may be of other targets."""
    return list({a.id: a for a in (*asked_before(files), *asked)}.values())


def run_stage(
    files: RunFolder,
    trial: Trial,
    settings: Any,
    strategy: AskTell,
    engine: Callable[[], Engine],
    reward: Reward,
    count: int,
    listeners: Callable[[Journal], Sequence[Listener]] = lambda journal: (),
    **loop: Any,
) -> list[TrialRecord]:
    """Run a search in a folder to its end; its trials by number. An engine is started only if something is to do.

    Args:
        loop: `seed`, `hours` and `since` as `Loop` takes them.

    Raises:
        StageError: the time is over.
    """
    files.path.mkdir(exist_ok=True)
    journal = Journal(files.journal)
    if sum(r.counts and not r.is_tried_again for r in journal.trials.values()) < count:
        running = engine()
        try:
            running.start(trial, settings, files.path)
            stage = Loop(
                strategy,
                running,
                journal,
                reward,
                count,
                listeners=[lambda record: running.fetch(record.number), *listeners(journal)],
                **loop,
            )
            stage.run()
        finally:
            running.close()
        if stage.is_out_of_time:
            raise StageError(stage.ending)
    return [record for _, record in sorted(journal.trials.items())]
