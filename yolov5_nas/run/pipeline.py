"""All that a run does, stage by stage, from the options to the report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

from ..engines.contract import Engine, EngineError, MachineError
from ..errors import UserError, machine_fault
from ..records.hooks import Hooks
from ..records.journal import Journal, TrialRecord, read_journal, read_lines, reference
from ..records.options import Options
from ..records.reward import REWARDS, Reward
from ..records.run_folder import REFERENCE, RunFolder
from ..results import audit, deployed
from ..results.confirmed import is_left
from ..results.export import write_trial
from ..results.replacement import first_winner, winners
from ..results.report import closing_table, report
from ..results.tensorboard import TensorBoardLogger
from ..results.winner import options_of, winner_of
from ..space.space import Space
from ..strategies.early_stopping import Curves
from ..strategies.given import GivenArchitectures
from ..strategies.named import make_strategy
from ..strategies.strategy import Strategy
from ..training.settings import Settings
from ..training.trial import run_trial, run_trial_with_onnx
from .callbacks import Checkpoints, Estimate, Progress
from .confirm import confirm
from .deploy import Deploying
from .exported import how_of
from .judge import judge
from .loop import AskTell, Loop
from .prepare import engine_of, reward_of
from .replace import Replacement, to_train
from .rivals import Rivals
from .stages import (
    StageError,
    asked_before,
    finalists,
    from_scratch,
    from_weights,
    full_trainings,
    scores,
    trained_supernet,
)


@dataclass(frozen=True)
class SearchResult:
    """What a search leaves: its folder, its trials by number, and why it ended."""

    folder: Path
    trials: tuple[TrialRecord, ...]
    ending: str
    interrupted: bool = False
    is_planned: bool = False  # a replacement search whose plans are made

    @property
    def best(self) -> TrialRecord | None:
        """The winner: by reward, or with `--confirm` by two of them; for the first target of a replacement search."""
        return winner_of(self.folder, self.trials, options_of(self.folder))

    @property
    def is_compared(self) -> bool:
        """Whether there is a best trial, and the reference beside it; or plans, where no trial was asked for."""
        return (self.is_planned and not self.trials) or (self.best is not None and reference(self.trials) is not None)

    def table(self) -> str:
        """The closing table."""
        return closing_table(self.folder, self.trials)


def strategy_of(o: Options, settings: Settings) -> Strategy:
    name, population = o.strategy or "evolution", o.population or 16
    costs = [target.metric for target in o.targets] if o.reward in ("soft", "hard") else []
    space, limits = settings.space, settings.constraints
    return make_strategy(name, space, o.seed, population, o.objectives, limits, settings.imgsz, costs)


def asked_of(strategy: Any, space: Space) -> AskTell:
    """A strategy with ask and tell; NNI's own have neither."""
    if hasattr(strategy, "ask"):
        return strategy
    from ..engines.nni.strategy import NNIStrategy

    return NNIStrategy(strategy, space)


class Pipeline:
    """All that a run does, from where the folder's journals end: a supernet, an audit, the trials.

    Args:
        first: the engine that the options name, or one to use instead; not started yet, and can start only once.
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
        self.reward, self.hooks = reward or reward_of(o), Hooks(settings.hooks, RunFolder(folder).hooks_log)
        self.loop: dict[str, Any] = {"seed": o.seed, "hours": o.hours, "since": time.monotonic()}

    def run(self) -> SearchResult:
        """Go through it, and write the report.

        Raises:
            EngineError: the engine failed, or the machine (its disk is full, say); the run can be resumed.
        """
        try:
            return self._run()
        except EngineError as e:
            problem: Exception = e
        except OSError as e:
            if not (fault := machine_fault(e)):
                raise
            problem = MachineError(fault)
        kind, way_on = type(problem), f"go on with: yolov5-nas search --resume {quote(str(self.folder))}"
        raise kind(f"{problem}; {way_on}") from problem

    def _run(self) -> SearchResult:
        ending, interrupted = "interrupted", True
        self.hooks.call("on_search_start", run=self.folder, options=asdict(self.options))
        try:
            ending = self._stages()
            interrupted = False
        except StageError as e:
            ending, interrupted = str(e), False
            if self.options.deploy:
                formats = " ".join(self.options.deploy)
                ending += f"; nothing was deployed (yolov5-nas export {self.folder} --include {formats} --validate)"
        except KeyboardInterrupt:
            pass  # as the result says
        finally:
            if self.first:
                self.first.close()
        trials: tuple[TrialRecord, ...] = ()
        files, is_planned = RunFolder(self.folder), False
        if files.journal.exists():
            trials = tuple(read_journal(self.folder))
        if files.journal.exists() or self.options.replaces:
            is_planned = files.plans.journal.exists() and not interrupted
            self._write_winners(trials)
            report(self.folder)
        self.hooks.call("on_search_end", run=self.folder, trials=trials)
        return SearchResult(self.folder, trials, ending, interrupted, is_planned)

    def _write_winners(self, trials: Sequence[TrialRecord]) -> None:
        """The files of a winner that other trainings have chosen, or of each target's."""
        if self.options.confirm and (chosen := winner_of(self.folder, trials, self.options)):
            write_trial(self.folder, chosen, RunFolder(self.folder).best)
        for winner in winners(self.folder, trials, self.options) if self.options.replaces else ():
            if winner.record:
                write_trial(self.folder, winner.record, RunFolder(self.folder).targets / winner.name)

    def _stages(self) -> str:
        """Returns why the search ended."""
        o, settings, strategy = self.options, self.settings, self.strategy
        if o.one_shot is not None:
            o, settings, strategy = self._one_shot(o.scores)
        if o.replaces:
            return self._replacement()
        ending = self._trials(o, settings, strategy, o.trials or 0)
        if o.confirm:
            confirm(self.folder, o, settings, self.reward, self._engine, self.loop)
        self._deploy(settings, [winner_of(self.folder, read_journal(self.folder), o)])
        if self._audit():
            print(audit.verdict(audit.read(self.folder, self.options)))
            if o.keep_portal:
                print("the portal is closed; --resume with --keep-portal opens it again")
        return ending

    def _replacement(self) -> str:
        """From the parent to trained plans; why it ended."""
        replacement = Replacement(self.folder, self.options, self.settings, self._engine, self.loop)
        o, settings, found = replacement.run()
        before = asked_before(RunFolder(self.folder))
        trained = to_train(found, settings.space.default(), o.trials, before)
        if not trained:
            return "the plans are made; --trials 0 trains none"
        o = replace(o, trials=len(trained), base_epochs=None)
        settings = replace(settings, constraints=())
        ending = self._trials(o, settings, GivenArchitectures(trained), len(trained))
        replacement.measure_trained()
        self._write_winners(read_journal(self.folder))  # what comes now is about them, and may be broken off
        if o.rivals != "none":
            Rivals(self.folder, o, settings, self._engine, self.loop).run()
        judge(self.folder, o, settings)
        won = winners(self.folder, read_journal(self.folder), o)
        self._deploy(settings, [winner.record for winner in won])
        return ending

    def _deploy(self, settings: Settings, found: Sequence[TrialRecord | None]) -> None:
        """The reference and winners in the form in which they will run, unless that is done."""
        o = self.options
        how = how_of(o)
        first = [REFERENCE] if RunFolder(self.folder).trial(REFERENCE).weights.exists() else []
        numbers = list(dict.fromkeys([*first, *(r.number for r in found if r)]))
        done = {(row.number, row.form) for row in deployed.read(self.folder).rows}
        if numbers and not {(n, form) for n in numbers for form in how.forms} <= done:
            try:
                Deploying(self.folder, o, settings, how).deploy(numbers)
            except UserError as e:  # the run is whole all the same
                print(f"nothing was deployed: {e}")

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
        done = {r.id for r in read_lines(RunFolder(self.folder).audit.journal) if r.done}
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

        keeps = audit.is_from_weights(self.folder, o)
        full = from_weights if keeps else from_scratch
        settings = self.settings if o.only_prunes else full(self.settings, o.full_epochs)
        settings = replace(settings, constraints=())
        alone = replace(o if keeps else _from_nothing(o), measure_on=None, trial_minutes=None)  # which is for trials
        stage = {**self.loop, "engine": lambda: self._engine(alone), "listeners": lambda journal: [tell]}
        full_trainings(self.folder, settings, architectures, **stage)
        return True

    # The trials, and what comes before them -----------------------------------------------------------------------

    def _one_shot(self, count: int) -> tuple[Options, Settings, AskTell]:
        """Train the supernet and score `count` architectures by it: what trials start from, and which."""
        o, settings = self.options, self.settings
        if o.one_shot:
            alone = replace(o, concurrency=1, measure_on=None, trial_minutes=None)  # which is for trials
            print(f"supernet: {o.one_shot} epochs, in {self.folder}/shared")
            run = {**self.loop, "engine": lambda: self._engine(alone)}
            weights = str(trained_supernet(self.folder, settings, o.one_shot, **run))
            o, settings = replace(o, weights=weights, inherit="base"), replace(settings, weights=weights)
        asked = asked_of(self.strategy or strategy_of(o, settings), settings.space)
        print(f"scores of {count} architectures, in {self.folder}/scores")
        with contextlib.ExitStack() as stack:

            def listeners(journal: Journal) -> list[Progress]:
                return [stack.enter_context(Progress(count, journal, "scores", only_best=True))]

            rest = {**self.loop, "engine": lambda: self._engine(o), "listeners": listeners}
            everything = replace(settings, measure_all=o.reward not in REWARDS)
            found = scores(self.folder, everything, asked, reward=self.reward, count=count, **rest)
        return o, settings, GivenArchitectures(finalists(found, settings.space.default(), o.objectives))

    def _trials(self, o: Options, settings: Settings, strategy: AskTell | None, count: int) -> str:
        """Run the loop, with the listeners that keep the folder up to date; why it ended.

        Raises:
            StageError: the time is over, or trial 0 has failed.
        """
        folder, journal = self.folder, Journal(RunFolder(self.folder).journal)
        asked = asked_of(strategy or strategy_of(o, settings), settings.space)
        engine = self._engine(o)
        has_base = bool(o.base_epochs)
        choose = (lambda records: first_winner(folder, records, o)) if o.replaces else None
        keeps_first = has_base or bool(o.deploy or o.confirm)
        keeper = Checkpoints(folder, journal, o.front, keeps_first, engine.fetch, choose, o.confirm)
        logger = TensorBoardLogger(folder, [r for r in journal.records if r.done], o, settings.space)
        engine.reward = engine.reward or self.reward
        with Progress(count, journal, reference=o.reference) as progress:

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
                    reference="your model trained further" if o.replaces else "stock YOLOv5",
                    curves=Curves(self.reward, o.objectives, o.inherits) if o.prune else None,
                    listeners=(keeper, logger, progress, estimate, self.hooks.ended),
                    on_start=started,
                    **self.loop,
                )
                ending = loop.run()
                if (
                    o.keep_portal
                    and engine.url
                    and not (self._is_audit_left() or is_left(folder, read_journal(folder), o))
                ):
                    report(folder)
                    progress.write(f"{ending}; the portal stays at {engine.url} until Ctrl-C")
                    engine.linger()
            finally:
                engine.close()
                logger.close()
        if loop.is_out_of_time or loop.has_no_reference:
            raise StageError(ending)
        return ending


def _from_nothing(o: Options) -> Options:
    """Options of a search whose trials start from no weights."""
    return replace(
        o,
        method="trials",
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
    known = {r.conditions["device"] for r in journal.trials.values() if "device" in r.conditions}
    if engine.device and known - {engine.device}:
        raise UserError("latencies of unlike devices can't be compared", got=engine.device, accepted=sorted(known))
