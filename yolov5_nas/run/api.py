"""A run: one search with its folder, from the options to the winner's files."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..engines.contract import Engine
from ..engines.local import own_device
from ..errors import UserError, machine_fault
from ..files import given_path, make_folder
from ..host.yolov5 import load
from ..records.journal import TrialResult, latest, read_lines
from ..records.options import Options, check_names
from ..records.reward import Reward
from ..records.run_folder import RunFolder
from ..results.report import check_readable
from ..space.architecture import Value
from ..space.space import Space
from ..training.initial import check_weights
from ..training.trial import run_trial
from .check_parent import with_method
from .exported import how_of
from .loop import AskTell
from .pipeline import Pipeline, SearchResult
from .prepare import check_new, engine_of, new_folder, prepare, settings_of, write_run
from .resume import hold, resumed_options


def search(
    resume: str | Path | None = None,
    strategy: AskTell | str | None = None,
    reward: Reward | None = None,
    engine: Engine | str | None = None,
    **options: Any,
) -> SearchResult:
    """Search for an architecture; the Python form of `yolov5-nas search`. Call it under `if __name__ == "__main__":`.

    >>> from yolov5_nas import Space
    >>> class Neighbours:  # tries what differs from stock in one choice
    ...     def __init__(self, space):
    ...         self.left = [space.default(), *space.neighbours(space.default())]
    ...
    ...     def ask(self):
    ...         return self.left.pop(0)
    ...
    ...     def tell(self, record):  # a TrialRecord
    ...         pass
    >>> def reward(metrics):
    ...     return metrics["map50"] - 0.1 * metrics["gflops"]
    >>> strategy = Neighbours(Space.from_yaml("yolov5n_nas.yaml"))
    >>> tiny = dict(data="digits.yaml", imgsz=64, subset=0.1, epochs=1, trials=2, device="cpu", engine="local")
    >>> result = search(strategy=strategy, reward=reward, **tiny)  # doctest: +ELLIPSIS
    YOLOv5 ...
    >>> str(result.folder), result.ending, [record.state for record in result.trials]
    ('runs/nas/exp', 'all 2 trials are done', ['complete', 'complete'])

    Args:
        resume: the folder of a run to go on with.
        strategy: the name of one, an object with `ask` and `tell`, or a multi-trial strategy of `nni.nas.strategy`.
            One of your own must propose the same when asked and told the same, or a resume proposes others; when it
            has nothing left to propose, it raises `strategies.strategy.SpaceExhausted`.
        reward: the name of one, or metrics to a number to maximise.
        engine: the name of one, or an object, instead of the options `engine`, `device`, `concurrency`,
            `trial_minutes`, and those of NNI and Ray.
        options: those of the command line, underscores for dashes; see `options.Options`.

    Raises:
        UserError: an option, a file or the machine is invalid. Nothing was written then.
        EngineError: the engine failed; the run can be resumed.
    """
    if isinstance(strategy, str):
        options["strategy"], strategy = strategy, None
    if isinstance(reward, str):
        options["reward"], reward = reward, None
    if isinstance(engine, str):
        options["engine"], engine = engine, None
    if resume is not None:
        folder = given_path(resume)
        chosen = resumed_options(folder, check_names(options))
        _check_objects(engine, strategy, chosen)
        engine = engine or engine_of(chosen)
        with hold(folder):
            check_readable(folder)
            settings = settings_of(folder, chosen)
            if not chosen.measure_on:
                settings.runtime.check()
            if options.get("weights"):  # they may lie elsewhere now
                check_weights(Path(chosen.weights or ""), settings.space, settings.nc, load(settings.location))
            how_of(chosen).check(load(settings.location), settings.device)
            print(f"{settings.location}; {folder} goes on, and keeps {_kept(RunFolder(folder), chosen)}")
            chosen.save(RunFolder(folder).options)
            return Pipeline(folder, chosen, settings, strategy, reward, engine).run()
    chosen = Options().with_given(with_method(check_names(options)))
    _check_objects(engine, strategy, chosen)
    prepared = prepare(chosen)
    engine = engine or engine_of(prepared.options)
    folder = new_folder(chosen)
    existed = folder.exists()
    make_folder(folder)
    with hold(folder):
        try:
            settings = write_run(folder, prepared)
        except OSError as e:
            if not existed:
                shutil.rmtree(folder, ignore_errors=True)
            raise UserError(f"the run can't be written ({machine_fault(e) or e})", file=folder) from None
        return Pipeline(folder, prepared.options, settings, strategy, reward, engine).run()


def evaluate(
    architecture: Mapping[str, Value] | None = None, folder: str | Path | None = None, **options: Any
) -> TrialResult:
    """Measure, train and validate one architecture in this process, as a trial of a search does.

    >>> tiny = dict(data="digits.yaml", imgsz=64, subset=0.1, epochs=1, device="cpu")
    >>> result = evaluate(cfg="yolov5n_nas.yaml", folder="one", **tiny)  # doctest: +ELLIPSIS
    YOLOv5 ...
    >>> result.state, result.metrics["params"], 0 <= result.metrics["map50_95"] <= 1
    ('complete', 1777447, True)
    >>> Path("one/model.yaml").exists(), Path("one/weights.pt").exists()
    (True, True)

    Args:
        architecture: `{label: value}` of the space; by default stock YOLOv5's.
        folder: gets the log, the curve, `model.yaml` and `weights.pt` (both stock), and what a run's folder has; by
            default nothing is kept.
        options: those of a search that are about one trial; see `options.Options`.

    Returns:
        The metrics of the best validated epoch, the costs, and the curve; see `journal.TrialResult`.

    Raises:
        UserError: the architecture is not of the space, or an option, a file or the machine is invalid.
        TrialError: the trial ended without a result; `reason` is one of `journal.REASONS`.
    """
    prepared = prepare(Options().with_given({"engine": "local", **options}))
    model, imgsz = prepared.model, prepared.options.imgsz
    space = Space.from_dict(model, imgsz=imgsz if "imgsz" in model else None)
    architecture = architecture or space.default()
    space.validate(architecture)
    if folder:
        check_new(given_path(folder))
    with contextlib.ExitStack() as stack:
        kept = make_folder(given_path(folder or stack.enter_context(tempfile.TemporaryDirectory())))
        settings = replace(write_run(kept, prepared), device=own_device(prepared.options.device))
        return run_trial(architecture, settings, prepared.options.seed, kept)


def _kept(files: RunFolder, o: Options) -> str:
    """What a run that goes on has done, in words."""

    def done(stage: RunFolder) -> int:
        return sum(r.done and r.counts for r in latest(read_lines(stage.journal)).values())

    trials = f"{done(files)} of {o.trials} trials" if o.trials else f"{done(files)} trials"
    if not o.replaces:
        return trials
    stages = {"scored options": files.replacements, "latencies": files.latencies, "scored plans": files.plans}
    return ", ".join([*(f"{done(stage)} {name}" for name, stage in stages.items()), trials])


def _check_objects(engine: Engine | None, strategy: AskTell | None, o: Options) -> None:
    """Raise a UserError where a search has to start anew what was given as an object."""
    if engine and (o.one_shot is not None or o.audits or o.confirm):
        raise UserError("a one-shot search, and one with an audit or --confirm, starts several engines: name one")
