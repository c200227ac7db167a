"""The stage of a replacement search that trains its winners' rivals: what they are, see `results.rivals`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..engines.contract import Engine, Trial
from ..errors import UserError
from ..host.yolov5 import load
from ..records.journal import Journal, TrialRecord, read_journal
from ..records.options import Options
from ..records.reward import accuracy
from ..records.run_folder import RunFolder
from ..results.replacement import cost_of, winners
from ..results.rivals import doubtful, measured_forms, rivals
from ..space.architecture import Architecture, Value
from ..space.arithmetic import Multiples
from ..space.space import Space
from ..strategies.given import GivenArchitectures
from ..strategies.pooled import AGAIN
from ..strategies.savings import measured_costs, needed_costs, ratio_of
from ..training.settings import Settings
from ..training.trial import measure_trial, run_trial
from ..weights.scaling import scaled
from ..weights.source import read_source
from .again import measure_again
from .callbacks import say
from .replace import without_portal
from .stages import asked_before, run_stage, with_earlier

SCALES = tuple(n / 20 for n in range(19, 4, -1))  # of all widths, 0.95 to 0.25
LEFT = 0.5  # of a winner's cost: what has fewer GFLOPs than that share of it costs less


class Rivals:
    """Finds and trains the rivals of a run's winners, in `<run>/rivals`.

    Args:
        o, settings: as the trials had them; `settings.weights` is the parent.
        engine: a fresh engine for options.
        stage: as `run_stage` takes it: `seed`, `hours`, `since`.
    """

    def __init__(self, folder: Path, o: Options, settings: Settings, engine: Callable[[Options], Engine], stage: Any):
        self.folder, self.options, self.engine, self.stage = folder, o, engine, stage
        self.files = RunFolder(folder).rivals
        self.settings = replace(settings, constraints=(), freeze=(), stock=None)  # no form keeps frozen layers

    def run(self) -> None:
        """Measure the parent's forms, and train those that cost what winners do.

        Raises:
            StageError: the time is over.
        """
        found = [w for w in winners(self.folder, read_journal(self.folder), self.options) if w.record]
        costs = [cost_of(self.folder, w.record, ratio_of(w.targets[0].metric), self.options) for w in found if w.record]
        forms = self._forms(LEFT * min(costs)) if costs else []
        if not forms:
            return
        self.files.path.mkdir(exist_ok=True)
        default = self.settings.space.default()
        self._run(self.files.latencies, measure_trial, [default, *forms], needed_costs(self.options), self._tell_cost)
        self._measure_again(measured_costs(self.options))
        chosen = rivals(self.folder, found, self.options)
        self.names = {rival.architecture.id: rival.name for rival in chosen}
        if not chosen:
            say(
                "rivals: none, since no form of the parent has a cost that is known (too noisy?) and below the parent's"
            )
        else:
            count = len(self.names)
            say(f"rivals: {count} of the winners' cost are trained alike, in {self.files.path} (--rivals none: no)")
            self._run(self.files, run_trial, [rival.architecture for rival in chosen], (), self._tell_trained)

    def _measure_again(self, metrics: Sequence[str]) -> None:
        """Measure those forms again whose costs can't be right."""
        files, o = self.files.latencies, without_portal(self.options)
        settings = replace(self.settings, needed=needed_costs(self.options))
        for _ in range(AGAIN):
            if not metrics or not (measured := measured_forms(self.folder, self.options)):
                return
            zero, *forms = measured
            times = Counter(a.id for a in asked_before(files.again))
            left = [r for r in doubtful(forms, zero, metrics[0]) if times[r.id] < AGAIN]
            asked = [*asked_before(files.again), *(Architecture(r.architecture) for r in left)]
            if not left:
                return
            measure_again(files, asked, settings, lambda: self.engine(o), metrics, self.stage)

    def _forms(self, least: float) -> list[Architecture]:
        """The parent's other scales and smaller input sizes that may cost more than a share of its cost.

        From here on the settings are those of all scales and sizes, so that a resume for other targets finds its own.
        """
        trained = load(self.settings.location).load_checkpoint(Path(self.settings.weights or ""))
        self.settings = formed(self.settings, int(trained.stride.max()))
        space = self.settings.space
        plain, imgsz = space.in_form(space.forms[0]), self.settings.imgsz
        scales = [scale for scale in space.choices["scale"].options[1:] if float(scale) ** 1.5 >= least]
        source = read_source(trained, plain, self.settings.weights or "")
        try:
            for scale in scales:
                scaled(source, plain, space.in_form({**space.forms[0], "scale": scale}))
        except UserError as e:
            say(f"rivals: none of other widths ({e})")
            scales = []
        sizes = [size for size in space.choices["imgsz"].options[1:] if (int(size) / imgsz) ** 2 >= least]
        forms = [*({"scale": scale} for scale in scales), *({"imgsz": size} for size in sizes)]
        return [Architecture({**space.default(), **form}) for form in forms]

    def _tell_cost(self, record: TrialRecord) -> None:
        costs = "gflops", *needed_costs(self.options)
        shown = ", ".join(f"{m} {record.metrics[m]:.3f}" for m in costs if m in record.metrics)
        form = ", ".join(f"{k} {record.architecture[k]}" for k in ("scale", "imgsz"))
        say(f"[form {record.number}] {form}: {shown or record.state}")

    def _tell_trained(self, record: TrialRecord) -> None:
        score = f"mAP50-95 {record.reward:.4f}" if record.state == "complete" else f"{record.state}: {record.error}"
        say(f"[rival {record.number + 1}] {self.names.get(record.id, record.id)}: {score}, {record.seconds:.0f} s")

    def _run(
        self,
        files: RunFolder,
        trial: Trial,
        asked: Sequence[Architecture],
        needed: tuple[str, ...],
        tell: Callable[[TrialRecord], None],
    ) -> None:
        def listeners(journal: Journal) -> list[Callable[[TrialRecord], None]]:
            return [tell]

        asked = with_earlier(files, asked)
        o = self.options if trial is run_trial else without_portal(self.options)
        rest = {"engine": lambda: self.engine(o), "listeners": listeners, **self.stage}
        settings, given = replace(self.settings, needed=needed), GivenArchitectures(asked)
        reward = accuracy if trial is run_trial else (lambda metrics: -metrics["gflops"])
        run_stage(files, trial, settings, given, reward=reward, count=len(asked), **rest)


def formed(s: Settings, stride: int) -> Settings:
    """Settings of a space in which the parent's scale and input size are choices, as rivals have them.

    Args:
        stride: the parent's largest.
    """
    plain, imgsz = s.space.in_form(s.space.forms[0]), s.imgsz_of(s.space.default())
    scales = [scale for scale in distinct(plain, SCALES) if _can_be_built(plain, scale)]
    choices = {"scale": [1.0, *scales], "imgsz": list(range(imgsz, 0, -stride))}
    return replace(s, model={**plain.yaml, **choices}, imgsz=imgsz)


def _can_be_built(plain: Space, scale: float) -> bool:
    """Whether all layers have widths that they can have at a scale, by their groups say."""
    try:
        Space.from_dict({**plain.yaml, "scale": [1.0, scale]})
    except UserError:
        return False
    return True


def having(architecture: Mapping[str, Value], s: Settings) -> Settings:
    """Settings whose space has an architecture: their own, or for a rival that of the parent in this form."""
    choices = s.space.choices
    if architecture.keys() == choices.keys() and all(v in choices[k].options for k, v in architecture.items()):
        return s
    plain, imgsz = s.space.in_form(s.space.forms[0]), s.imgsz_of(s.space.default())
    sizes = list(dict.fromkeys([imgsz, architecture["imgsz"]]))
    model = {**plain.yaml, "scale": [1.0, architecture["scale"]], "imgsz": sizes}
    return replace(s, model=model, imgsz=imgsz, freeze=(), stock=None)


def distinct(space: Space, scales: Sequence[float]) -> list[float]:
    """The scales with distinct widths, in descending order: of equal ones the smallest; none equal to the space's."""
    model, numbers = space.yaml, {row[3][0] for row in space.rows if row[3] and isinstance(row[3][0], int)}

    def widths(scale: float) -> tuple[int, ...]:
        multiples = Multiples({**model, "width_multiple": model["width_multiple"] * scale})
        return tuple(multiples.width(number) for number in sorted(numbers))

    found = {widths(scale): scale for scale in sorted(scales, reverse=True)}
    found.pop(widths(1.0), None)
    return sorted(found.values(), reverse=True)
