"""The stage that trains the leading architectures once more: see `results.confirmed`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..engines.contract import Engine
from ..records.journal import Journal, TrialRecord, read_journal
from ..records.options import Options
from ..records.reward import Reward
from ..records.run_folder import REFERENCE, RunFolder
from ..results.confirmed import leading
from ..results.export import write_trial
from ..results.winner import winner_of
from ..space.architecture import Architecture
from ..strategies.given import GivenArchitectures
from ..training.settings import Settings
from ..training.trial import run_trial
from .callbacks import say
from .stages import asked_before, run_stage


def confirm(
    folder: Path, o: Options, settings: Settings, reward: Reward, engine: Callable[[Options], Engine], stage: Any
) -> None:
    """Train the trials that lead, and the reference, with the next seed, and put the winner into `best/`.

    Args:
        o, settings: as the trials had them.
        engine: a fresh engine for options.
        stage: as `run_stage` takes it: `seed`, `hours`, `since`.

    Raises:
        StageError: the time is over.
    """
    records, files = read_journal(folder), RunFolder(folder).confirmed
    first = {
        r.id: r for r in [*(r for r in records if r.is_reference and not o.base_epochs), *leading(records, o.confirm)]
    }
    asked = list(
        {a.id: a for a in (*asked_before(files), *(Architecture(r.architecture) for r in first.values()))}.values()
    )
    if not asked:
        return
    say(f"{len(asked)} architectures that lead are trained again with another seed, in {files.path}")

    def tell(record: TrialRecord) -> None:
        score = f"reward {record.reward:.4f}" if record.state == "complete" else f"{record.state}: {record.error}"
        before = f", before {first[record.id].reward:.4f}" if record.id in first else ""
        say(f"[again {record.number + 1}/{len(asked)}] {record.id}: {score}{before}")
        files.trial(record.number).weights.unlink(missing_ok=True)  # the first training's are the winner's

    def listeners(journal: Journal) -> list[Callable[[TrialRecord], None]]:
        return [tell]

    rest = {**stage, "seed": o.seed + 1, "engine": lambda: engine(o), "listeners": listeners}
    own = _started(settings, folder, o)
    run_stage(files, run_trial, own, GivenArchitectures(asked), reward=reward, count=len(asked), **rest)
    if winner := winner_of(folder, records, o):
        write_trial(folder, winner, RunFolder(folder).best)


def _started(settings: Settings, folder: Path, o: Options) -> Settings:
    """The trials' settings, for a folder that has no trial 0 of theirs to start from; nothing is refused."""
    settings = replace(settings, constraints=())
    if not o.base_epochs:
        return settings
    return replace(settings, weights=str(RunFolder(folder).trial(REFERENCE).weights), base_epochs=None)
