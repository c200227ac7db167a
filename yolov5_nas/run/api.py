"""A run: one search with its folder, from the options to the winner's files."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from ..cost.latency import Runtime
from ..engines.contract import Engine, EngineError
from ..engines.local import LocalEngine, device_indices, own_device
from ..engines.nni.engine import NNIEngine, has_nni
from ..engines.ray.engine import RayEngine
from ..errors import UserError
from ..files import find_file, increment_path, make_folder, shipped
from ..host import yolov5 as hosts
from ..host.dataset import check_data, find_data, read_data, resolve_data, take_subset
from ..records.hooks import LOG, Hook, Hooks, as_given, find_hook, keep_hooks, kept_hooks, split
from ..records.journal import Journal, TrialRecord, TrialResult, best, latest, read_journal, read_lines
from ..records.options import MAY_CHANGE, Options, check_names, load_options
from ..records.reward import REWARDS, Reward, make_reward
from ..results import audit
from ..results.report import closing_table, report
from ..results.tensorboard import TensorBoardLogger
from ..space.architecture import Value
from ..space.compile import dump_model
from ..space.space import STRIDE, Space, load_yaml, make_divisible, read_model_yaml
from ..strategies.early_stopping import Curves
from ..strategies.strategies import Plan, Strategy, make_strategy
from ..training.trial import Settings, check_weights, measure_trial, run_trial, run_trial_with_onnx
from ..weights import supernet
from .callbacks import Estimate, Keeper, Progress
from .loop import AskTell, Loop
from .stages import SCORES, SHARED, StageError, finalists, from_scratch, full_trainings, scores, shared_network


@dataclass(frozen=True)
class SearchResult:
    """What a search leaves: its folder, its trials by number, and why it ended."""

    folder: Path
    trials: tuple[TrialRecord, ...]
    ending: str
    interrupted: bool = False

    @property
    def best(self) -> TrialRecord | None:
        """The trial with the highest reward."""
        return best(self.trials)

    def table(self) -> str:
        """The closing table."""
        return closing_table(self.folder, self.trials)


def search(
    resume: str | Path | None = None,
    strategy: AskTell | str | None = None,
    reward: Reward | None = None,
    engine: Engine | str | None = None,
    **options: Any,
) -> SearchResult:
    """Search an architecture; the Python form of `yolov5-nas search`. Call it under `if __name__ == "__main__":`.

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
            One of your own must ask the same when it is asked and told the same, or a resume proposes others; where
            nothing is left to ask, it raises `strategies.SpaceExhausted`.
        reward: the name of one, or metrics to a number to maximise.
        engine: the name of one, or an object, in place of the options `engine`, `device`, `concurrency`,
            `trial_minutes`, and those of NNI and Ray.
        options: those of the command line, underscores for dashes; see `options.Options`.

    Raises:
        UserError: an option, a file or the machine is not as it must be. Nothing was written then.
        EngineError: the engine can't go on; the run can be resumed.
    """
    if isinstance(strategy, str):
        options["strategy"], strategy = strategy, None
    if isinstance(reward, str):
        options["reward"], reward = reward, None
    if isinstance(engine, str):
        options["engine"], engine = engine, None
    if resume:
        folder = Path(resume)
        chosen = _resumed_options(folder, check_names(options))
        _check_objects(engine, strategy, chosen)
        engine = engine or engine_of(chosen)
        with hold(folder):
            settings = settings_of(folder, chosen)
            done = sum(r.done and r.counts for r in latest(read_lines(folder / "trials.jsonl")).values())
            print(f"{settings.location}; {folder} goes on: {done} of {chosen.trials} trials are done")
            chosen.save(folder / "search.yaml")
            return _Course(folder, chosen, settings, strategy, reward, engine).run()
    chosen = Options().with_given(options)
    _check_objects(engine, strategy, chosen)
    prepared = _prepare(chosen)
    engine = engine or engine_of(prepared.options)
    folder = make_folder(_new_folder(chosen))
    with hold(folder):
        settings = _write_run(folder, prepared)
        return _Course(folder, prepared.options, settings, strategy, reward, engine).run()


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
        UserError: the architecture is not of the space, or an option, a file or the machine is not as it must be.
        TrialError: the trial ended without a result; `reason` is one of `journal.REASONS`.
    """
    prepared = _prepare(Options().with_given({"engine": "local", **options}))
    model, imgsz = prepared.model, prepared.options.imgsz
    space = Space.from_dict(model, imgsz=imgsz if "imgsz" in model else None)
    architecture = architecture or space.default()
    space.validate(architecture)
    if folder:
        _check_new(Path(folder))
    with contextlib.ExitStack() as stack:
        kept = make_folder(Path(folder or stack.enter_context(tempfile.TemporaryDirectory())))
        settings = replace(_write_run(kept, prepared), device=own_device(prepared.options.device))
        return run_trial(architecture, settings, prepared.options.seed, kept)


def _check_objects(engine: Engine | None, strategy: AskTell | None, o: Options) -> None:
    """Raise a UserError where a search has to start anew what was given as an object."""
    if engine and (o.one_shot is not None or o.audits):
        raise UserError("a one-shot search, and one with an audit, starts several engines: give the name of one")


@dataclass(frozen=True)
class _Prepared:
    """Everything that is checked before a folder is made."""

    options: Options  # every one resolved
    model: dict[str, Any]
    hyp: dict[str, Any]
    inherit_hyp: dict[str, Any] | None
    data: dict[str, Any]
    host: hosts.Host
    hooks: tuple[Hook, ...]


def _prepare(o: Options) -> _Prepared:
    """Find and check all that the user named."""
    hooks = _find_hooks(o)  # before YOLOv5 is imported, for which loggers are told to stay offline
    _ = reward_of(o), o.constraints  # raise what is wrong with them
    strategy = o.strategy or ("nsga2" if o.objectives else "evolution")
    if o.objectives and strategy in ("evolution", "tpe"):
        accepted = ("nsga2", "random", "grid")
        raise UserError("--objectives need a --strategy that searches for several", got=strategy, accepted=accepted)
    if o.one_shot == 0 and o.weights and not supernet.read(Path(o.weights)):
        raise UserError("--one-shot 0 scores by --weights of a shared network only", got=o.weights)
    _check_onnx(o)
    location = hosts.find(o.yolov5)
    cfg = find_file(o.cfg, [shipped("models"), location.root / "models"], "model YAML (--cfg)")
    model, _ = read_model_yaml(cfg)
    data_file = find_data(o.data, location.root)
    space = Space.from_yaml(cfg, imgsz=o.imgsz)
    wanted = space.imgsz.default if space.imgsz else o.imgsz or read_data(data_file).get("imgsz") or 640
    imgsz = make_divisible(int(wanted), STRIDE)
    if imgsz != wanted:
        print(f"the input size must be a multiple of {STRIDE}: {imgsz} is taken for {wanted}")
    hyp_file = _find_hyp(o.hyp or "hyp.short.yaml", "--hyp", location)
    hyp = _read_hyp(hyp_file)
    has_base = bool(o.weights or o.base_epochs)
    from_weights = has_base or o.one_shot is not None
    inherit_file = _find_hyp(o.inherit_hyp or o.hyp or "hyp.inherit.yaml", "--inherit-hyp", location)
    inherit_hyp = _read_hyp(inherit_file) if from_weights else None
    optimizer = o.optimizer or hyp.get("optimizer", "SGD")
    if inherit_hyp:
        inherit_hyp["optimizer"] = o.optimizer or inherit_hyp.get("optimizer", optimizer)
    host = hosts.load(location)
    print(f"{location}, torch {host.torch_utils.torch.__version__}")
    data = resolve_data(data_file, host)
    check_data(data, host, imgsz, data_file, o.single_cls)
    if o.weights:
        print(check_weights(Path(o.weights), space, 1 if o.single_cls else data["nc"], host))
    device = _device(o)
    Runtime(o.latency_backend, o.latency_batch, o.half, _torch_device(device)).check()
    population = o.population or max(2, min(16, o.trials // 3))
    options = replace(
        o,
        cfg=str(cfg),
        data=str(data_file),
        hyp=str(hyp_file) if o.hyp else None,
        inherit=o.inherit or ("base" if has_base else None),
        inherit_hyp=str(inherit_file) if o.inherit_hyp else None,
        weights=str(Path(o.weights).resolve()) if o.weights else None,
        yolov5=str(location.root) if location.kind == "clone" else hosts.PACKAGE,
        imgsz=imgsz,
        optimizer=optimizer,
        val_period=o.val_period or max(1, -(-o.epochs // (12 if o.prune else 4))),
        strategy=strategy,
        population=population,
        device=device,
        engine=_engine_name(o.engine),
        workers=o.workers if o.workers is not None else 0 if device == "cpu" else 8,
        hook=tuple(map(as_given, hooks)),
    )
    return _Prepared(options, model, hyp, inherit_hyp, data, host, hooks)


def _check_onnx(o: Options) -> None:
    if o.onnx and not find_spec("onnx"):
        raise UserError("--onnx needs the package onnx: pip install onnx")


def _find_hooks(o: Options) -> tuple[Hook, ...]:
    hooks = tuple(map(find_hook, o.hook))
    names = [hook.name for hook in hooks]
    if len(set(names)) < len(names):
        raise UserError("hook files must have different names", got=names)
    if not any("measure" in hook.functions for hook in hooks):
        _check_known(o)
    return hooks


def _check_known(o: Options) -> None:
    """Raise a UserError where a target, constraint or objective is no metric of ours, and no hook measures any."""
    plain = replace(o, hook=())  # looks at its objectives
    _ = plain.targets, plain.constraints


def _find_hyp(name: str, flag: str, location: hosts.Location) -> Path:
    return find_file(name, [shipped("data"), location.root / "data"], f"hyper-parameter YAML ({flag})")


def _read_hyp(path: Path) -> dict[str, Any]:
    hyp, _ = load_yaml(path)
    shipped_keys, _ = load_yaml(shipped("data") / "hyp.short.yaml")
    needed = set(shipped_keys) - {"optimizer", "nominal_batch", "warmup_iterations"}  # ours alone
    if not isinstance(hyp, dict) or not needed <= set(hyp):
        raise UserError("a hyper-parameter YAML must have YOLOv5's keys", accepted=sorted(needed), file=path)
    return hyp


def _device(o: Options) -> str:
    """`--device` resolved: "cpu", "mps" or GPU indices."""
    unset = o.device in ("", "None")
    if o.engine == "ray":
        if not unset and (o.device != "cpu" or o.gpus_per_trial):
            raise UserError("--engine ray gets its devices by --gpus-per-trial, not by --device", got=o.device)
        return "0" if o.gpus_per_trial else "cpu"
    if unset:
        import torch

        return "0" if torch.cuda.is_available() else "cpu"
    device_indices(o.device)
    return o.device


def _torch_device(device: str) -> str:
    """What a trial calls its device: the engine shows it one GPU only."""
    return device if device in ("cpu", "mps") else "cuda:0"


def _new_folder(o: Options) -> Path:
    folder = increment_path(Path(o.project) / o.name, o.exist_ok)
    _check_new(folder)
    return folder


def _check_new(folder: Path) -> None:
    """Raise a UserError where a folder holds a run, of which one that was killed may have any of these."""
    if any((folder / name).exists() for name in ("trials.jsonl", "trials", SHARED, SCORES, audit.FOLDER)):
        raise UserError("the folder holds a run already: go on with it by --resume, or give a new --name", file=folder)


def _write_run(folder: Path, prepared: _Prepared) -> Settings:
    """`search.yaml`, and the model and hyper-parameters as they are now, so that a resume does not depend on them."""
    keep_hooks(folder, prepared.hooks)
    (folder / "space.yaml").write_text(dump_model(prepared.model | {"nc": prepared.data["nc"]}))
    (folder / "hyp.yaml").write_text(yaml.safe_dump(prepared.hyp, sort_keys=False))
    if prepared.inherit_hyp:
        (folder / "hyp.inherit.yaml").write_text(yaml.safe_dump(prepared.inherit_hyp, sort_keys=False))
    prepared.options.save(folder / "search.yaml")  # last: with it the folder can be resumed
    return _settings(folder, prepared.options, prepared.data, prepared.host)


def settings_of(folder: Path, o: Options) -> Settings:
    """A trial's settings as a run's folder has them."""
    host = hosts.load(hosts.find(o.yolov5))
    data = resolve_data(Path(o.data), host)
    return _settings(folder, o, data, host)


def _settings(folder: Path, o: Options, data: dict[str, Any], host: hosts.Host) -> Settings:
    if o.subset < 1:
        data = take_subset(data, host, o.imgsz or 640, o.subset, o.seed, folder)
        check_data(data, host, o.imgsz or 640, Path(o.data), o.single_cls)
    model, _ = read_model_yaml(folder / "space.yaml")
    names = {n for n in Settings.__dataclass_fields__ if n in Options.__dataclass_fields__} - {
        "data",
        "hyp",
        "inherit_hyp",
        "device",
        "freeze",
    }
    data = {k: str(v) if isinstance(v, Path) else v for k, v in data.items() if k != "download"}
    return Settings(
        model=model,
        data=data,
        hyp={k: v for k, v in _saved_hyp(folder / "hyp.yaml").items() if k != "optimizer"},  # which is an option's
        inherit_hyp=_saved_hyp(folder / "hyp.inherit.yaml") if (folder / "hyp.inherit.yaml").exists() else None,
        location=host.location,
        device=_torch_device(o.device),
        freeze=frozen_layers(o.freeze),
        constraints=o.constraints,
        hooks=kept_hooks(folder, o.hook),
        needed=_needed(o),
        **{name: getattr(o, name) for name in names},
    )


def _saved_hyp(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())  # type: ignore[no-any-return]


def frozen_layers(freeze: tuple[int, ...]) -> tuple[int, ...]:
    """The layers that `--freeze` means, as in YOLOv5: one number is how many of the first, several are the layers."""
    return tuple(range(freeze[0])) if len(freeze) == 1 else freeze


def _resumed_options(folder: Path, given: Mapping[str, Any]) -> Options:
    """The options of a run that goes on, with what may change taken from the user.

    Raises:
        UserError: the folder is no run, or an option is given that differs and may not.
    """
    if not (folder / "search.yaml").is_file():
        raise UserError("--resume must name the folder of a run (with its search.yaml)", got=str(folder))
    old = Options().with_given(load_options(folder / "search.yaml"))
    new = old.with_given(given)
    for name, value in given.items():
        if name not in MAY_CHANGE and not _same(name, getattr(old, name), getattr(new, name)):
            raise UserError(
                f"a resumed run keeps its options: {name} is {getattr(old, name)!r} in {folder}/search.yaml",
                got=value,
                accepted="changes of " + ", ".join(MAY_CHANGE),
            )
    resumed = replace(old, **{name: getattr(new, name) for name in MAY_CHANGE})
    _check_onnx(resumed)
    return resumed


def _same(name: str, old: Any, new: Any) -> bool:
    """Whether two values of an option mean the same; a file named bare is the one that was found by that name."""
    if name == "hook":
        return len(old) == len(new) and all(map(_same_hook, old, new))
    if name in ("cfg", "data", "hyp", "inherit_hyp", "weights", "yolov5") and old and new:
        return Path(old) == Path(new).expanduser().resolve() or Path(old).name == new
    return bool(old == new)


def _same_hook(old: str, new: str) -> bool:
    (file, *settings), (new_file, *new_settings) = split(old), split(new)
    same = _same("cfg", file, new_file) or Path(file).name == f"{new_file}.py"
    return same and list(map(_setting, settings)) == list(map(_setting, new_settings))


def _setting(text: str) -> tuple[str, str | float]:
    """A hook's `NAME=value`, numbers as such: 5 is 5.0."""
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        return name, value


def hold(folder: Path) -> FileLock:
    """Holds the run's folder against a second process.

    Raises:
        UserError: another search is writing to it.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError("another search is running in this folder", file=folder) from None
    return lock


def engine_of(o: Options) -> Engine:
    """The engine that the options name.

    Raises:
        UserError: it can't run so on this machine.
    """
    name = _engine_name(o.engine)
    if name == "local":
        return LocalEngine(device_indices(o.device), o.concurrency, o.trial_minutes)
    if name == "ray":
        if o.base_epochs:
            raise UserError(
                "--base-epochs is not for --engine ray, whose nodes don't have the base's weights; --weights is"
            )
        gpus = float(o.device not in ("cpu", "mps")) if o.gpus_per_trial is None else o.gpus_per_trial
        files = [path for path in (o.yolov5, o.weights) if path and path != hosts.PACKAGE]
        numbers = o.cpus_per_trial, gpus, o.concurrency, o.trial_minutes
        return RayEngine(o.address, *numbers, o.ship_data, files, o.measure_on, measure_trial)
    return NNIEngine(device_indices(o.device), o.concurrency, o.trial_minutes, o.port, o.host)


def _engine_name(given: str | None) -> str:
    """`--engine` resolved, and said."""
    if given:
        return given
    if has_nni():
        return "nni"
    print("engine: local (NNI is not installed: pip install 'yolov5-nas[nni]' for its web portal)")
    return "local"


def _strategy(o: Options, settings: Settings) -> Strategy:
    name, population = o.strategy or "evolution", o.population or 16
    return make_strategy(name, settings.space, o.seed, population, o.objectives, settings.constraints)


def _asked(strategy: Any, space: Space) -> AskTell:
    """A strategy with ask and tell; NNI's own have neither."""
    if hasattr(strategy, "ask"):
        return strategy
    from ..engines.nni.strategy import NNIStrategy

    return NNIStrategy(strategy, space)


def reward_of(o: Options) -> Reward:
    """The reward that the options name."""
    return make_reward(o.reward, o.targets, o.exponent)


def _needed(o: Options) -> tuple[str, ...]:
    """The metrics without which a trial is of no use; what a function of the user's needs is seen when it is called."""
    targets = o.targets if o.reward in ("soft", "hard") else ()
    return (*(t.metric for t in targets), *(c.metric for c in o.constraints), *o.objectives)


class _Course:
    """All that a run does, from where the folder's journals end: a shared network, an audit, the trials.

    Args:
        first: an engine as the options name it or in its place, not started; it is good for one start only.
    """

    def __init__(
        self,
        folder: Path,
        o: Options,
        settings: Settings,
        strategy: AskTell | None,
        reward: Reward | None,
        first: Engine,
    ):
        self.folder, self.options, self.settings, self.strategy = folder, o, settings, strategy
        self.first: Engine | None = first
        self.reward, self.hooks = reward or reward_of(o), Hooks(settings.hooks, folder / LOG)
        self.loop: dict[str, Any] = {"seed": o.seed, "hours": o.hours, "since": time.monotonic()}

    def run(self) -> SearchResult:
        """Go through it, and write the report."""
        ending, interrupted = "interrupted", True
        self.hooks.call("on_search_start", run=self.folder, options=asdict(self.options))
        try:
            ending = self._stages()
            interrupted = False
        except StageError as e:
            ending, interrupted = str(e), False
        except EngineError as e:
            raise EngineError(f"{e}; go on with: yolov5-nas search --resume {self.folder}") from e
        except KeyboardInterrupt:
            pass  # as the result says
        finally:
            if self.first:
                self.first.close()
        trials: tuple[TrialRecord, ...] = ()
        if (self.folder / "trials.jsonl").exists():
            trials = tuple(read_journal(self.folder))
            report(self.folder)
        self.hooks.call("on_search_end", run=self.folder, trials=trials)
        return SearchResult(self.folder, trials, ending, interrupted)

    def _stages(self) -> str:
        """Returns why the search ended."""
        o, settings, strategy = self.options, self.settings, self.strategy
        if o.one_shot is not None:
            o, settings, strategy = self._one_shot(o.scores)
        ending = self._trials(o, settings, strategy, o.trials)
        if self._audit():
            print(audit.verdict(audit.read(self.folder, self.options)))
            if o.keep_portal:
                print("the portal is closed; --resume with --keep-portal opens it again")
        return ending

    def _engine(self, o: Options) -> Engine:
        """A fresh engine for a stage with these options."""
        first, self.first = self.first, None
        if first and o == self.options:
            return first
        if first:
            first.close()
        return engine_of(o)

    # Whether the proxy is any good --------------------------------------------------------------------------------

    def _is_audit_left(self) -> bool:
        done = {r.id for r in read_lines(self.folder / audit.FOLDER / "trials.jsonl") if r.done}
        return any(a.id not in done for a in audit.sample(self.folder, self.options))

    def _audit(self) -> bool:
        """Train the sample in full; whether there was anything to do."""
        if not self._is_audit_left():
            return False
        o, architectures = self.options, audit.sample(self.folder, self.options)
        count, scores = len(architectures), {r.id: r.metrics["map50_95"] for r in audit.scored(self.folder, o)}
        print(f"audit: {count} architectures are trained in full ({o.full_epochs} epochs), in {self.folder}/audit")

        def tell(record: TrialRecord) -> None:
            full = f"mAP50-95 {record.reward:.4f}" if record.state == "complete" else f"{record.state}: {record.error}"
            print(f"[audit {record.number + 1}/{count}] {record.id}: {full}, by the proxy {scores[record.id]:.4f}")

        settings = self.settings if o.only_prunes else from_scratch(self.settings, o.full_epochs)
        settings = replace(settings, constraints=())
        alone = replace(_from_nothing(o), measure_on=None, trial_minutes=None)  # which is for trials
        stage = {**self.loop, "engine": lambda: self._engine(alone), "listeners": lambda journal: [tell]}
        full_trainings(self.folder, settings, architectures, **stage)
        return True

    # The trials, and what comes before them -----------------------------------------------------------------------

    def _one_shot(self, count: int) -> tuple[Options, Settings, AskTell]:
        """Train the shared network and score `count` architectures by it: what trials start from, and which."""
        o, settings = self.options, self.settings
        if o.one_shot:
            alone = replace(o, concurrency=1, measure_on=None, trial_minutes=None)  # which is for trials
            print(f"shared network: {o.one_shot} epochs, in {self.folder}/shared")
            run = {**self.loop, "engine": lambda: self._engine(alone)}
            weights = str(shared_network(self.folder, settings, o.one_shot, **run))
            o, settings = replace(o, weights=weights, inherit="base"), replace(settings, weights=weights)
        asked = _asked(self.strategy or _strategy(o, settings), settings.space)
        print(f"scores of {count} architectures, in {self.folder}/scores")
        with contextlib.ExitStack() as stack:

            def listeners(journal: Journal) -> list[Progress]:
                return [stack.enter_context(Progress(count, journal, "scores", only_best=True))]

            rest = {**self.loop, "engine": lambda: self._engine(o), "listeners": listeners}
            everything = replace(settings, measure_all=o.reward not in REWARDS)
            found = scores(self.folder, everything, asked, reward=self.reward, count=count, **rest)
        return o, settings, Plan(finalists(found, settings.space.default(), o.objectives))

    def _trials(self, o: Options, settings: Settings, strategy: AskTell | None, count: int) -> str:
        """Run the loop, with the listeners that keep the folder up to date; why it ended.

        Raises:
            StageError: the time is over.
        """
        folder, journal = self.folder, Journal(self.folder / "trials.jsonl")
        asked = _asked(strategy or _strategy(o, settings), settings.space)
        engine = self._engine(o)
        has_base = bool(o.base_epochs)
        keeper = Keeper(folder, journal, o.front, has_base, getattr(engine, "fetch", None))
        logger = TensorBoardLogger(folder, [r for r in journal.records if r.done], o, settings.space)
        if isinstance(engine, NNIEngine):
            engine.reward = engine.reward or self.reward
        with Progress(count, journal) as progress:

            def started(record: TrialRecord) -> None:
                progress.started(record)
                self.hooks.started(record)

            try:
                engine.start(run_trial_with_onnx if o.onnx else run_trial, settings, folder)
                _check_device(journal, engine)
                estimate = Estimate(folder, journal, o, engine.slots, progress.write)
                loop = Loop(
                    asked,
                    engine,
                    journal,
                    self.reward,
                    count,
                    has_base=has_base,
                    curves=Curves(self.reward, o.objectives, o.inherits) if o.prune else None,
                    listeners=(keeper, logger, progress, estimate, self.hooks.ended),
                    on_start=started,
                    **self.loop,
                )
                ending = loop.run()
                if o.keep_portal and isinstance(engine, NNIEngine) and not self._is_audit_left():
                    report(folder)
                    progress.write(f"{ending}; the portal stays at {engine.url} until Ctrl-C")
                    engine.linger()
            finally:
                engine.close()
                logger.close()
        if loop.is_out_of_time:
            raise StageError(ending)
        return ending


def _from_nothing(o: Options) -> Options:
    """Options of a search whose trials start from no weights."""
    return replace(
        o,
        one_shot=None,
        weights=None,
        base_epochs=None,
        inherit=None,
        inherit_hyp=None,
        audit=None,
        audit_epochs=None,
    )


def _check_device(journal: Journal, engine: Engine) -> None:
    """Raise a UserError where the run's latencies are those of another device than the engine's."""
    device = getattr(engine, "device", None)
    known = {r.conditions["device"] for r in journal.trials.values() if "device" in r.conditions}
    if device and known - {device}:
        raise UserError("latencies of unlike devices can't be compared", got=device, accepted=sorted(known))
