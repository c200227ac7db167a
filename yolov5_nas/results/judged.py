"""How a replacement search's winners compare with their parent on images that chose nothing, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..records.run_folder import RunFolder
from ..records.shape import known, read_json
from .replacement import Winner

NETWORK = {"map50_95": float, "low": float, "high": float, str: float}
SHAPE = {"split": str, "images": int, "parent": str, "networks": {str: NETWORK}}


@dataclass(frozen=True)
class Judged:
    """What `run.judge` found.

    Args:
        split: `test`, or `val` where the data has no such images.
        images: how many have a label or a detection.
        networks: by id, accuracies and the 95 % interval (`low`, `high`), for other such images, of the difference
            between its mAP50-95 and the parent's.
    """

    split: str = "val"
    images: int = 0
    parent: str = ""
    networks: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def has_test(self) -> bool:
        """Whether the data has images that chose nothing."""
        return self.split == "test" and bool(self.networks)

    def cell(self, id: str) -> str:
        """A network's mAP50-95, for a table."""
        return f"{self.networks[id]['map50_95']:.3f}" if id in self.networks else "-"


def read(run: Path) -> Judged:
    """Of a run's folder; without networks where it is not there yet."""
    path = RunFolder(run).judged
    return read_json(path, SHAPE, lambda found: known(Judged, found)) if path.exists() else Judged()


def words(run: Path, found: Sequence[Winner]) -> str:
    """In words."""
    judged = read(run)
    own = [(w, judged.networks[w.record.id]) for w in found if w.record and w.record.id in judged.networks]
    if not own or judged.parent not in judged.networks:
        return ""
    what = {"test": "test images, which chose nothing", "val": "validation images (for want of a test split)"}
    parent = judged.networks[judged.parent]["map50_95"]
    lines = [f"On the {judged.images} {what[judged.split]}, the parent has {parent:.3f}"]
    for winner, one in own:
        name = " ".join(map(str, winner.targets))
        sure = f"{one['low']:+.3f} to {one['high']:+.3f}"
        lines.append(f"{name} {one['map50_95']:.3f} ({one['map50_95'] - parent:+.3f}; for other such images {sure})")
    return ", ".join(lines) + "; 95 % intervals of a bootstrap over images."
