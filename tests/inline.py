"""An engine without processes, which take longer to start than a small trial does to train."""

from pathlib import Path
from typing import Any

from yolov5_nas.engines import Outcome, call_trial


class InlineEngine:
    """Runs trials in this process, and lets what they raise through."""

    slots = 1

    def start(self, trial: Any, settings: Any, folder: Path) -> None:
        self.trial, self.settings, self.folder = trial, settings, folder

    def submit(self, job: Any) -> None:
        self.job = job

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        return [Outcome(self.job.number, 1.0, call_trial(self.trial, self.job, self.settings, self.folder))]

    def close(self) -> None:
        pass
