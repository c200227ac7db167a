"""The loop with fast fake trials, on an engine that runs them in this process."""

from collections import deque

import fake_trials

from yolov5_nas.engines.contract import Engine, Job, Outcome
from yolov5_nas.errors import TrialError
from yolov5_nas.files import shipped
from yolov5_nas.records.journal import Journal
from yolov5_nas.records.reward import SoftReward, Target
from yolov5_nas.records.run_folder import RunFolder
from yolov5_nas.run.loop import Loop
from yolov5_nas.space.space import Space
from yolov5_nas.strategies.evolution import Evolution

REWARD = SoftReward([Target("latency_ratio", 1.0)])
SPACE = Space.from_yaml(shipped("models") / "yolov5n_nas.yaml")


class InlineEngine(Engine):
    """Runs a job when it is waited for; with several slots the last submitted ends first."""

    def __init__(self, trial, folder, slots=1):
        self.trial, self.folder, self.slots, self.jobs = trial, folder, slots, deque()

    def submit(self, job: Job):
        assert len(self.jobs) < self.slots
        self.jobs.append(job)

    def wait(self, timeout=None):
        job = self.jobs.pop()
        try:
            result = self.trial(job.architecture, None, job.seed, RunFolder(self.folder).trial(job.number).path)
            return [Outcome(job.number, 1.0, result=result)]
        except TrialError as e:
            return [Outcome(job.number, 1.0, error={"reason": e.reason, "message": e.message})]


def loop(folder, trials=12, trial=fake_trials.quick, slots=1, strategy=None, **kwargs):
    journal = Journal(folder / "trials.jsonl")
    strategy = strategy or Evolution(SPACE, seed=1, population=4, sample=2)
    return Loop(strategy, InlineEngine(trial, folder, slots), journal, REWARD, trials, **kwargs)
