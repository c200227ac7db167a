"""Any trial of a run as files that an untouched YOLOv5 takes: stock model YAML, and checkpoint where it was kept."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path

from ..errors import UserError
from ..files import given_path, write_whole
from ..records.journal import TrialRecord, best, complete, front, read_journal
from ..records.run_folder import RunFolder, TrialFolder
from ..space.architecture import Architecture
from ..space.compile import derive, dump_model
from ..space.model_yaml import load_yaml, read_model_yaml
from ..space.space import Space
from .confirmed import leading
from .winner import options_of, winner_of

WRITTEN = ("model.yaml", "weights/best.pt")  # besides `architecture.json`


def export(run: str | Path, number: int | None = None, out: str | Path | None = None) -> Path:
    """Write `model.yaml`, `architecture.json` and, where kept, `weights/best.pt` of a trial into a folder.

    An untouched YOLOv5 takes the YAML and the weights, by `detect.py`, `val.py`, `train.py` and `export.py`.

    >>> str(export("runs/nas/exp", number=0))
    'runs/nas/exp/export/0'

    Args:
        run: a run's folder.
        number: of the trial; by default the best one.
        out: by default `<run>/export/<number>`.

    Returns:
        The folder.

    Raises:
        UserError: there is no such run or trial, or the folder can't be written.
    """
    run = given_path(run)
    records = read_journal(run)
    record = (
        winner_of(run, records, options_of(run))
        if number is None
        else next((r for r in records if r.number == number), None)
    )
    if record is None:
        raise UserError("no such trial in the run", got=number, accepted=[r.number for r in records], file=run)
    folder = given_path(out) if out else RunFolder(run).exported / str(record.number)
    check_out(folder, WRITTEN)
    _check_files(RunFolder(run).trial(record.number))
    try:
        write_trial(run, record, folder)
    except OSError as e:
        raise UserError(f"the folder can't be written ({e.strerror})", got=str(folder)) from None
    return folder


def _check_files(trial: TrialFolder) -> None:
    """Raise a UserError where a trial's files are damaged."""
    if trial.model.exists():
        read_model_yaml(trial.model)
    if trial.weights.exists() and not zipfile.is_zipfile(trial.weights):
        raise UserError("the trial's weights are damaged", file=trial.weights)


def check_out(folder: Path, written: Sequence[str]) -> None:
    """Raise a UserError where a folder has files of names that would be written, and no export wrote them."""
    theirs = [name for name in written if (folder / name).exists()]
    if theirs and not (folder / "architecture.json").exists():
        accepted = "a new folder, or one of an earlier export"
        raise UserError(f"the export would overwrite {theirs[0]}", got=str(folder), accepted=accepted)


def write_trial(run: Path, record: TrialRecord, folder: Path) -> None:
    """A trial's model YAML, architecture and weights into a folder; each file appears whole or not at all."""
    source = RunFolder(run).trial(record.number)
    architecture = Architecture(record.architecture)
    trained = source.model  # has the anchors that it was trained with
    text = (
        trained.read_text(encoding="utf-8") if trained.exists() else dump_model(derive(load_space(run), architecture))
    )
    comment = f"# Trial {record.number} of {run.resolve()}, found by yolov5-nas. Input size {_imgsz(run, record)}.\n"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "architecture.json", architecture.to_json() + "\n")
    write_whole(folder / "model.yaml", comment + text)
    weights = folder / "weights" / "best.pt"
    if source.weights.exists():
        weights.parent.mkdir(exist_ok=True)
        temporary = weights.with_suffix(".tmp")
        shutil.copyfile(source.weights, temporary)
        temporary.replace(weights)
    else:
        weights.unlink(missing_ok=True)  # another trial's


def load_space(run: Path) -> Space:
    """The search space of a run, as it was when the run began."""
    return Space.from_yaml(RunFolder(run).space)


def keep_weights(
    run: Path, records: list[TrialRecord], objectives: tuple[str, ...], others: Collection[int] = (), first: int = 0
) -> list[TrialRecord]:
    """Delete the weights of trials that are not the best, among the `first` that lead, on the front of the objectives
    or among the others.

    Returns:
        Those whose weights are kept.
    """
    kept = {r.number: r for r in [*front(records, *objectives), *(r for r in records if r.number in others)]}
    if (winner := best(records)) is not None:
        kept[winner.number] = winner
    kept |= {r.number: r for r in leading(records, first)}
    for record in complete(records):
        if record.number not in kept:
            RunFolder(run).trial(record.number).weights.unlink(missing_ok=True)
    return list(kept.values())


def _imgsz(run: Path, record: TrialRecord) -> object:
    return record.architecture.get("imgsz") or load_yaml(RunFolder(run).options)[0]["imgsz"]
