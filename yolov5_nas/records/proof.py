"""The plan of a proof: what `yolov5-nas prove` trains, as its run folder keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .journal import read_lines
from .options import Options
from .run_folder import RunFolder
from .shape import known, read_yaml

PLAN = {
    **{"epochs": int, "candidates": [int], "rescaled?": ({str: (str, float)}, None), "start?": str},
    **{"seeds?": [int], "search_seeds?": [int], "margin?": float},
}


@dataclass(frozen=True)
class Plan:
    """What a proof trains; `<run>/prove/prove.yaml`.

    Args:
        epochs: of each training.
        candidates: numbers of the run's trials.
        rescaled: the architecture of the rescaled rival, `{depth_multiple: ..., width_multiple: ...}` or a form of the
            parent; None where there is none.
        start: `scratch`, or `weights`: those that the run's trials started from.
        seeds: the most trainings of each, one entry per request; empty in plans of earlier versions.
        margin: mAP50-95 within which a cheaper one is as good.
        search_seeds: of the search's trainings when the proof was begun, which it does not use. A training with one of
            them is the one that its candidate was chosen by, or shares its luck: the best of ten trials is about 1.5
            standard deviations of the seeds above its mean (selection bias).
    """

    epochs: int
    candidates: tuple[int, ...]
    rescaled: Mapping[str, Any] | None = None
    start: str = "scratch"
    seeds: tuple[int, ...] = ()
    margin: float = Options.margin
    search_seeds: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As YAML has it."""
        rescaled = dict(self.rescaled) if self.rescaled else None
        entries = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return entries | {"rescaled": rescaled}


def read_plan(run: Path) -> Plan | None:
    """What a run's proof trains; None where none was begun. Plans of earlier versions don't name the search's seeds."""
    path = RunFolder(run).proof.plan
    if not path.exists():
        return None
    found = dict(read_yaml(path, PLAN, lambda entries: entries))
    if "search_seeds" not in found:
        found["search_seeds"] = search_seeds(run)
    counts = {name: tuple(found.get(name, ())) for name in ("candidates", "seeds", "search_seeds")}
    return known(Plan, {**found, **counts})


def search_seeds(run: Path) -> tuple[int, ...]:
    """Return the seeds of all trainings of a run's search, whichever stage they belong to."""
    files = RunFolder(run)
    stages = (files, files.supernet, files.parent, files.rivals, files.audit, files.confirmed)
    return tuple(sorted({record.seed for stage in stages for record in read_lines(stage.journal)}))
