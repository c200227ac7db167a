"""TensorBoard: the search by trial and every trial's own curve and choices, live."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..records.journal import TrialRecord
from ..records.options import Options
from ..records.run_folder import RunFolder
from ..space.architecture import Value
from ..space.space import Space
from .plots import axes_of, pareto

EVENTS = "events.out.tfevents.*"
TENTHS = 10
PAUSE = 10.0  # seconds between two pictures


class TensorBoardLogger:
    """Writes a search into its run's folder and each complete trial into the trial's, beginning with the journal's.

    In the run's folder, by number of the trial: `search/reward` and `metrics/<name>` of each complete trial. By the
    number of trials that ended before: `search/best_reward` (of those that meet the constraints), `search/failed`,
    `search/infeasible`. `search/pareto` is a picture at the end of each tenth of the trials (fewer, where they are
    quick) and of the search; `options` is a table. In a trial's folder: `curve/<name>` by epoch; `result/reward` and
    `result/<name>`, with its choices, for the HParams tab.

    Event files of an earlier part of the run are replaced, so that each trial is there once.

    Args:
        run: its folder.
        records: of the trials that ended already, in the order in which they did.
        options: of the search.
        space: of the search.
    """

    def __init__(self, run: Path, records: Iterable[TrialRecord], options: Options, space: Space):
        for file in (*run.glob(EVENTS), *run.glob(f"trials/*/{EVENTS}")):
            file.unlink()
        self.run, self.options, self.space = run, options, space
        self.writer = _writer(run)
        self.writer.add_text("options", _table(options), 0)
        self.best = float("-inf")
        self.ended = 0
        self.states: Counter[str] = Counter()
        self.complete: list[TrialRecord] = []
        self.drawn = 0  # trials when the last picture was made
        self.next = 0.0  # when the next one may be made
        for record in records:
            self(record)

    def __call__(self, record: TrialRecord) -> None:
        """Log a trial that ended. What this takes does not grow with the trials before, but for ten pictures."""
        self.states[record.state] += 1
        if record.state == "complete" and record.reward is not None:
            self._log_complete(record, record.reward)
        for state in ("failed", "infeasible"):
            self.writer.add_scalar(f"search/{state}", self.states[state], self.ended)
        self.ended += 1
        if self._tenth(self.counted) > self._tenth(self.drawn) and time.monotonic() > self.next:
            self._draw()
        self.writer.flush()

    def close(self) -> None:
        """Finish the file, with the picture of all trials."""
        if self.counted > self.drawn:
            self._draw()
        self.writer.close()

    @property
    def counted(self) -> int:
        """The trials that ended and count; what a constraint refused does not."""
        return self.states.total() - self.states["infeasible"]

    def _tenth(self, count: int) -> int:
        return count * TENTHS // (self.options.trials or 1)

    def _log_complete(self, record: TrialRecord, reward: float) -> None:
        self.complete.append(record)
        self.writer.add_scalar("search/reward", reward, record.number)
        for name, value in record.metrics.items():
            self.writer.add_scalar(f"metrics/{name}", value, record.number)
        if record.error is None:
            self.best = max(self.best, reward)
        if self.best > float("-inf"):
            self.writer.add_scalar("search/best_reward", self.best, self.ended)
        self._log_trial(record, {"reward": reward, **record.metrics})

    def _log_trial(self, record: TrialRecord, results: dict[str, float]) -> None:
        """A trial's curve and choices into its own folder."""
        from torch.utils.tensorboard.summary import hparams

        writer = _writer(RunFolder(self.run).trial(record.number).path)
        for point in record.curve:
            for name, value in point.items():
                if name != "epoch":
                    writer.add_scalar(f"curve/{name}", value, int(point["epoch"]))
        results = {f"result/{name}": value for name, value in results.items()}
        picked = {label: _plain(value) for label, value in record.architecture.items()}
        domains = {
            label: [_plain(option) for option in choice.options]
            for label, choice in self.space.choices.items()
            if label in picked
        }
        # Not add_hparams, which opens a second file in a folder of its own.
        for part in hparams(picked, results, domains):
            writer.file_writer.add_summary(part)
        for name, value in results.items():
            writer.add_scalar(name, value, record.number)
        writer.close()

    def _draw(self) -> None:
        self.drawn, self.next = self.counted, time.monotonic() + PAUSE
        constraints = self.options.constraints
        if png := pareto(self.complete, *axes_of(self.options.front, self.complete), constraints):
            self.writer.add_image("search/pareto", _pixels(png), self.counted, dataformats="HWC")


def _writer(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter  # type: ignore[attr-defined]  # slow to import

    return SummaryWriter(str(folder))


def _plain(value: Value) -> Value:
    """A value as TensorBoard compares it: all numbers of one type."""
    return value if isinstance(value, str) else float(value)


def _pixels(png: bytes) -> Any:
    """(H, W, 3), 0 to 255."""
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def _table(options: Options) -> str:
    """The options as a Markdown table."""
    rows = (f"| {name} | `{value}` |" for name, value in asdict(options).items())
    return "\n".join(["| option | value |", "|---|---|", *rows])
