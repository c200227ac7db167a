"""The stage that trains the leading architectures once more: see `results.confirmed`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..engines.contract import Engine
from ..records.journal import Journal, TrialRecord, read_journal
from ..records.options import Options
from ..records.reward import Reward
from ..records.run_folder import RunFolder
from ..results.confirmed import to_confirm
from ..space.architecture import Architecture
from ..strategies.given import GivenArchitectures
from ..training.settings import Settings
from ..training.trial import run_trial
from .callbacks import say
from .stages import asked_before, run_stage, started

SEEDS = 2**32  # numpy takes those below


def confirm(
    folder: Path, o: Options, settings: Settings, reward: Reward, engine: Callable[[Options], Engine], stage: Any
) -> None:
    """Train the trials that lead, and the reference, with the next seed.

    Args:
        o, settings: as the trials had them.
        engine: a fresh engine for options.
        stage: as `run_stage` takes it: `seed`, `hours`, `since`.

    Raises:
        StageError: the time is over.
    """
    files = RunFolder(folder).confirmed
    first = {r.id: r for r in to_confirm(folder, read_journal(folder), o)}
    before = asked_before(files)
    asked = list({a.id: a for a in (*before, *(Architecture(r.architecture) for r in first.values()))}.values())
    if not asked:
        return
    if len(asked) > len(before):
        count = len(asked) - len(before)
        say(f"{count} trainings with another seed, of what leads and of the stock architecture, in {files.path}")

    def tell(record: TrialRecord) -> None:
        score = f"reward {record.reward:.4f}" if record.state == "complete" else f"{record.state}: {record.error}"
        earlier = f", before {first[record.id].reward:.4f}" if record.id in first else ""
        say(f"[again {record.number + 1}/{len(asked)}] {record.id}: {score}{earlier}")
        files.trial(record.number).weights.unlink(missing_ok=True)  # a winner's are those of its first training

    def listeners(journal: Journal) -> list[Callable[[TrialRecord], None]]:
        return [tell]

    rest = {**stage, "seed": (o.seed + 1) % SEEDS, "engine": lambda: engine(o), "listeners": listeners}
    own = started(settings, folder, o)
    run_stage(files, run_trial, own, GivenArchitectures(asked), reward=reward, count=len(asked), **rest)
