"""The files of a run. Their names stand here, but for those that one file alone writes and reads."""

from __future__ import annotations

from pathlib import Path

REFERENCE = 0  # number of the trial that all others are compared with: stock YOLOv5, or the parent


class TrialFolder:
    """The files of a trial.

    Args:
        path: `<run>/trials/<number>`.
    """

    def __init__(self, path: Path):
        self.path = path
        self.log = path / "log.txt"  # what YOLOv5 prints
        self.curve = path / "curve.jsonl"  # its validations so far, one line each
        self.model = path / "model.yaml"  # stock YAML, with the anchors that it was trained with
        self.weights = path / "weights.pt"  # stock checkpoint, or a supernet's weights
        self.onnx = path / "model.onnx"
        self.outcome = path / "outcome.json"  # how it ended, written by its own process
        self.last = path / "last.pt"  # where the training of a supernet goes on after a kill

    @property
    def heavy(self) -> tuple[Path, ...]:
        """The files that an engine whose trials run elsewhere fetches only on request."""
        return self.weights, self.onnx


class RunFolder:
    """The files of a run, or of one of its stages, which are small runs of their own.

    Args:
        path: `runs/nas/exp`.
    """

    def __init__(self, path: str | Path):
        self.path = path = Path(path)
        self.options = path / "search.yaml"
        self.space = path / "space.yaml"  # the searchable model YAML, with the data's number of classes
        self.hyp = path / "hyp.yaml"
        self.inherit_hyp = path / "hyp.inherit.yaml"
        self.inputs = path / "inputs.yaml"  # digests of what the run began with: files and data
        self.journal = path / "trials.jsonl"
        self.trials = path / "trials"
        self.lock = path / ".lock"
        self.best = path / "best"  # the winner: model.yaml, architecture.json, weights/best.pt
        self.targets = path / "targets"  # the same for each target of a replacement search, by its name
        self.exported = path / "export"  # the same of other trials, by their numbers
        self.judged = path / "judged.json"  # winners, or a proof's contestants, on images that chose nothing
        self.deployed = path / "deployed.json"  # exported networks, validated and timed
        self.table = path / "results.csv"
        self.report = path / "report.html"
        self.hooks = path / "hooks"  # copies of the hook files
        self.hooks_log = path / "hooks.log"
        self.remeasured = path / "remeasured"  # a journal for each runtime
        self.plan = path / "prove.yaml"  # of a proof: what it trains

    def trial(self, number: int) -> TrialFolder:
        """The files of a trial."""
        return TrialFolder(self.trials / str(number))

    @property
    def supernet(self) -> RunFolder:
        """The stage that trains the supernet; trial 0 is that training."""
        return RunFolder(self.path / "shared")

    @property
    def scores(self) -> RunFolder:
        """The stage that scores architectures by the supernet."""
        return RunFolder(self.path / "scores")

    @property
    def parent(self) -> RunFolder:
        """The stage of a replacement search that validates its parent, or fine-tunes it first; trial 0 is that."""
        return RunFolder(self.path / "parent")

    @property
    def replacements(self) -> RunFolder:
        """The stage that scores each option alone in the parent; trial 0 is the parent."""
        return RunFolder(self.path / "replacements")

    @property
    def latencies(self) -> RunFolder:
        """The stage that measures costs of joint architectures, from which those of options are fitted."""
        return RunFolder(self.path / "latencies")

    @property
    def plans(self) -> RunFolder:
        """The stage that scores and measures planned architectures whole."""
        return RunFolder(self.path / "plans")

    @property
    def again(self) -> RunFolder:
        """The further measurements of what a stage has measured, where one was not enough."""
        return RunFolder(self.path / "again")

    @property
    def rivals(self) -> RunFolder:
        """The stage that trains the parent at other widths and input sizes; its `latencies` are of all that may be."""
        return RunFolder(self.path / "rivals")

    @property
    def audit(self) -> RunFolder:
        """The stage that trains some architectures in full."""
        return RunFolder(self.path / "audit")

    @property
    def confirmed(self) -> RunFolder:
        """The stage that trains leading architectures once more, with another seed."""
        return RunFolder(self.path / "confirmed")

    @property
    def proof(self) -> RunFolder:
        """The trainings of `yolov5-nas prove`."""
        return RunFolder(self.path / "prove")

    @property
    def is_begun(self) -> bool:
        """Whether the folder holds a run; one that was killed may have left any of these."""
        stages = (self.supernet, self.scores, self.audit, self.parent)
        return any(path.exists() for path in (self.journal, self.trials, *(stage.path for stage in stages)))
