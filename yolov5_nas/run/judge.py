"""The last stage of a replacement search: the parent, winners and rivals on the test images, or else on those of `val`,
and how sure their differences are. What comes of it is read by `results.judged`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..engines.local import own_device
from ..errors import UserError
from ..files import write_whole
from ..host.dataset import check_split
from ..host.yolov5 import Host, load
from ..records.journal import TrialRecord, read_journal, reference
from ..records.options import Options
from ..records.run_folder import RunFolder
from ..results.judged import read
from ..results.replacement import winners
from ..results.rivals import rivals
from ..training.detections import Detections, detect, resampled
from ..training.process import global_state_kept, log_to
from ..training.settings import Settings
from .callbacks import say

DRAWS = 500  # of a bootstrap; a fifth where detections are many
MANY = 100_000


def judge(folder: Path, o: Options, settings: Settings) -> None:
    """Validate what was trained on the split that judges it, and write `judged.json`, unless that has all of it.

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
        paths = sorted({path for one in by_image.values() for path in one})
        detections = [Detections.of(by_image[record.id], paths) for _, record in networks]
        most = max(len(one.classes) for one in detections)
        draws = DRAWS if most < MANY else DRAWS // 5
        drawn = resampled(host, detections, draws, o.seed)
    low, high = np.percentile(drawn - drawn[:, :1], [2.5, 97.5], axis=0)
    for i, (_, record) in enumerate(networks):
        found[record.id] |= {"low": float(low[i]), "high": float(high[i])}
    parent = networks[0][1].id
    content = {"split": split, "images": len(paths), "draws": draws, "parent": parent, "networks": found}
    write_whole(RunFolder(folder).judged, json.dumps(content, indent=1))


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
