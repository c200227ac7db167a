"""The networks of a replacement search or of a proof on the test images, or else on those of `val`, and how sure their
differences are. What comes of it is read by `results.judged` and `results.comparison`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..engines.local import own_device
from ..errors import UserError
from ..files import write_whole
from ..host.dataset import check_split
from ..host.yolov5 import Host, load
from ..records.journal import TrialRecord, read_journal, read_lines, reference
from ..records.options import Options
from ..records.run_folder import RunFolder
from ..results.comparison import read_images
from ..results.judged import read
from ..results.race import Race
from ..results.replacement import winners
from ..results.rivals import rivals
from ..training.detections import Detections, detect, resampled
from ..training.process import global_state_kept, log_to
from ..training.settings import Settings
from .callbacks import say

DRAWS = 500  # of a bootstrap; a fifth where detections are many
MANY = 100_000


def judge(folder: Path, o: Options, settings: Settings) -> None:
    """Validate the trained networks on the judging split and write `judged.json`, unless it has them all already.

    Args:
        settings: as the trials had them.
    """
    networks = _networks(folder, o)
    if len(networks) < 2 or {record.id for _, record in networks} <= read(folder).networks.keys():
        return
    settings = replace(settings, device=own_device(o.device))
    host = load(settings.location)
    split = judging_split(o, settings, host)
    say(f"judged: {len(networks)} networks on the {split} images")
    found, by_image = {}, {}
    with log_to(folder / "judged"), global_state_kept():
        for weights, record in networks:
            size = settings.imgsz_of(record.architecture)
            found[record.id], by_image[record.id] = detect(host, weights, settings, size, split)
        drawn, images = _drawn(host, [by_image[record.id] for _, record in networks], o.seed)
    low, high = np.percentile(drawn - drawn[:, :1], [2.5, 97.5], axis=0)
    for i, (_, record) in enumerate(networks):
        found[record.id] |= {"low": float(low[i]), "high": float(high[i])}
    parent = networks[0][1].id
    content = {"split": split, "images": images, "draws": len(drawn), "parent": parent, "networks": found}
    write_whole(RunFolder(folder).judged, json.dumps(content, indent=1))


def judge_proof(run: Path, race: Race, names: Mapping[str, str], o: Options, settings: Settings) -> None:
    """Validate a proof's networks on the judging split and write `<run>/prove/judged.json`, unless it has them all.

    Args:
        race: with all trainings that count; others are not looked at.
        names: contestants' names by the ids of architectures.
        settings: of the trainings.
    """
    files = RunFolder(run).proof
    counted = {(name, seed) for name, c in race.contestants.items() for seed in c.scores}
    complete = [r for r in read_lines(files.journal) if r.state == "complete" and (names[r.id], r.seed) in counted]
    trained = [r for r in complete if files.trial(r.number).weights.exists()]
    known = read_images(run)
    done = {(name, seed) for name, scores in (known.scores if known else {}).items() for seed in scores}
    if {(names[r.id], str(r.seed)) for r in trained} <= done:
        return
    settings = replace(settings, device=own_device(o.device))
    host = load(settings.location)
    split = judging_split(o, settings, host)
    say(f"judged: {len(trained)} networks on the {split} images")
    with log_to(files.path / "judged"), global_state_kept():
        each = [files.trial(r.number).weights for r in trained]
        sizes = [settings.imgsz_of(r.architecture) for r in trained]
        found = [detect(host, weights, settings, size, split) for weights, size in zip(each, sizes)]
        drawn, images = _drawn(host, [by_image for _, by_image in found], o.seed)
    scores: dict[str, dict[str, float]] = {}
    columns: dict[str, dict[str, int]] = {}
    for i, record in enumerate(trained):
        name, seed = names[record.id], str(record.seed)
        scores.setdefault(name, {})[seed] = found[i][0]["map50_95"]
        columns.setdefault(name, {})[seed] = i
    spreads = {}
    for candidate, rival in itertools.product(race.candidates, race.rivals):
        own, other = columns.get(candidate, {}), columns.get(rival, {})
        if seeds := sorted(own.keys() & other.keys()):
            gains = sum(drawn[:, own[seed]] - drawn[:, other[seed]] for seed in seeds) / len(seeds)
            spreads[f"{candidate}, {rival}"] = float(np.std(gains))
    content = {"split": split, "images": images, "scores": scores, "spreads": spreads}
    write_whole(files.judged, json.dumps(content, indent=1))


def _drawn(host: Host, by_image: Sequence[dict[str, Any]], seed: int) -> tuple[np.ndarray, int]:
    """mAP50-95 of networks, (draws, networks), over images that are drawn again; and how many images there are."""
    paths = sorted({path for one in by_image for path in one})
    detections = [Detections.of(one, paths) for one in by_image]
    most = max(len(one.classes) for one in detections)
    return resampled(host, detections, DRAWS if most < MANY else DRAWS // 5, seed), len(paths)


def judging_split(o: Options, settings: Settings, host: Host) -> str:
    """The split that judges: `test` where the data has such images, with labels; COCO's have none."""
    if not settings.data.get("test"):
        return "val"
    try:
        check_split(settings.data, "test", host, settings.imgsz, Path(o.data), settings.single_cls)
    except UserError as e:
        say(f"judged: by the images of val, since {e}")
        return "val"
    return "test"


def _networks(folder: Path, o: Options) -> Sequence[tuple[Path, TrialRecord]]:
    """Checkpoints of the parent, the winners and the rivals, with their records."""
    files, records = RunFolder(folder), read_journal(folder)
    found = winners(folder, records, o)
    own = [reference(records), *(winner.record for winner in found)]
    others = [rival.record for rival in rivals(folder, found, o)]
    every = [*((files.trial(r.number).weights, r) for r in own if r)]
    every += [(files.rivals.trial(r.number).weights, r) for r in others if r]
    kept = {r.id: (weights, r) for weights, r in every if weights.exists()}
    return list(kept.values()) if own[0] and own[0].id in kept else []
