"""Which trial of a run is its winner."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..records.journal import TrialRecord, best
from ..records.options import Options, load_options
from ..records.run_folder import RunFolder
from . import confirmed, replacement


def options_of(run: Path) -> Options:
    """The options of a run, the defaults where it has no `search.yaml`.

    Raises:
        UserError: the file can't be read.
    """
    path = RunFolder(run).options
    return Options().with_given(load_options(path)) if path.exists() else Options()


def winner_of(run: Path, records: Sequence[TrialRecord], options: Options) -> TrialRecord | None:
    """The trial in `best/`: that with the highest reward, or the highest mean of two trainings where those that lead
    had two; in a replacement search that of the first target that has one.
    """
    if options.replaces:
        return replacement.first_winner(run, records, options)
    found = confirmed.read(run, records, options)
    return found.winner if found else best(records)
