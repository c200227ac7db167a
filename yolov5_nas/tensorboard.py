"""TensorBoard: the search's rewards and metrics by trial, live."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .journal import TrialRecord


class TensorBoardLogger:
    """Writes every complete trial as scalars whose step is its number, beginning with those in the journal.

    Event files of an earlier part of the run are replaced, so that each trial is there once.
    """

    def __init__(self, run: Path, records: Iterable[TrialRecord]):
        from torch.utils.tensorboard import SummaryWriter  # type: ignore[attr-defined]  # slow to import

        for file in run.glob("events.out.tfevents.*"):
            file.unlink()
        self.writer = SummaryWriter(str(run))
        self.best = float("-inf")
        for record in records:
            self(record)

    def __call__(self, record: TrialRecord) -> None:
        """Log a trial that ended."""
        if record.state != "complete" or record.reward is None:
            return
        self.best = max(self.best, record.reward)
        self.writer.add_scalar("search/reward", record.reward, record.number)
        self.writer.add_scalar("search/best_reward", self.best, record.number)
        for name, value in record.metrics.items():
            self.writer.add_scalar(f"metrics/{name}", value, record.number)
        self.writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self.writer.close()
