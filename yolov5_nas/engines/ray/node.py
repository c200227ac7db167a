"""What the Ray engine runs on the nodes: a check before the first trial, and the slots.

A slot is an actor that runs its trials on a `LocalEngine` of one slot: in a warm process beside it, so that a trial may
crash, be killed or run out of time without the actor's end. Nothing here imports Ray.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import platform
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ...errors import UserError, machine_fault
from ...files import PACKAGE, write_whole
from ...records.journal import TrialResult
from ...records.option_rules import PARENT
from ...records.run_folder import RunFolder
from ...space.architecture import Value
from ..contract import Job, Outcome, Trial, call_trial, outcome_from_json, outcome_to_json
from ..local import LocalEngine, end_with
from .shipping import SPLITS, files_of, images_of, listed, size_hash, unpack

JOB = "job.pkl"  # in a trial's folder on the node: the job, and the outcome of its measuring as JSON
SLOT = "yolov5-nas-slot-"  # of a slot, in the node's folder for temporary files
ROOT = PACKAGE.parent  # on a node the folder that Ray unpacked, with what was sent along


@dataclass(frozen=True)
class Parcel:
    """What the nodes get of a search.

    Args:
        pickled: the trial, the measuring, and the settings with the paths of the driver.
        lists: the images of the splits that a file lists, one a line.
        sizes: `size_hash` of the data set; "" where the settings have none.
        digest: `content_hash` of the data set where it is copied to the nodes, else "".
    """

    pickled: bytes
    lists: Mapping[str, str] = field(default_factory=dict)
    sizes: str = ""
    digest: str = ""

    @classmethod
    def of(cls, trial: Trial, measure: Trial | None, settings: Any, digest: str = "") -> Parcel:
        """The parcel of a search."""
        pickled, data = pickle.dumps((trial, measure, settings)), getattr(settings, "data", None)
        if data is None:
            return cls(pickled)
        lists = {s: "".join(f"{image}\n" for image in images_of(data, s)) for s in SPLITS if listed(data, s)}
        return cls(pickled, lists, size_hash(files_of(data)), digest)

    def open(self, measures: bool = False) -> tuple[Trial, Any]:
        """The trial (or the measuring) and its settings, as they are on this machine."""
        trial, measure, settings = pickle.loads(self.pickled)
        settings = self._at_home(settings)
        if measures and not _finds_gpu(settings):
            settings = replace(settings, device="cpu")  # it measures for all, whatever they train on
        return measure if measures else trial, settings

    def _at_home(self, settings: Any) -> Any:
        changes: dict[str, Any] = {}
        if location := getattr(settings, "location", None):
            changes["location"] = _location(location)
        for name in ("weights", "distill"):
            if (file := getattr(settings, name, None)) and file != PARENT:
                changes[name] = str(ROOT / Path(file).name)
        if data := getattr(settings, "data", None):
            changes["data"] = {**data, **{name: self._path(data, name) for name in ("path", *SPLITS) if name in data}}
        return replace(settings, **changes) if changes else settings

    def _path(self, data: Mapping[str, Any], name: str) -> Any:
        if name in self.lists:
            return str(self._list(name))
        return [self._here(p) for p in data[name]] if isinstance(data[name], list) else self._here(data[name])

    def _here(self, path: str) -> str:
        return str(self.copy / path.lstrip("/")) if self.digest else path

    def _list(self, split: str) -> Path:
        """The file that lists a split's images here; one for all slots, since YOLOv5 puts its label cache beside it."""
        text = "".join(f"{self._here(line)}\n" for line in self.lists[split].splitlines())
        path = cache() / "lists" / hashlib.sha256(text.encode()).hexdigest()[:16] / f"{split}.txt"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, text)
        return path

    @property
    def copy(self) -> Path:
        """Where the copy of the data lies on a node; the driver's own paths are below it."""
        return cache() / "data" / self.digest[:16]


def cache() -> Path:
    """A folder that stays, on each node."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "yolov5-nas"


def _location(driver: Any) -> Any:
    """YOLOv5 here: the clone that was sent along, or the package that is installed."""
    from ...host.locate import find

    if driver.kind == "clone":
        return replace(driver, root=ROOT / driver.root.name)
    return find()


# The check ------------------------------------------------------------------------------------------------------------


def check(
    parcel: Parcel, measures: bool, wanted: Mapping[str, str], pieces: Sequence[Any], get: Callable[[Any], bytes]
) -> str:
    """Whether this node can run trials; done once on each, before its first.

    Args:
        measures: whether it is one that measures.
        wanted: the `versions` of the driver.
        pieces: of the packed data set, where this node is to get a copy; `get` fetches one.

    Returns:
        The kind of its device; "" if it needs a copy of the data first.

    Raises:
        UserError: it can't, and why.
    """
    if parcel.digest and not parcel.copy.is_dir():
        if not pieces:
            return ""
        unpack(map(get, pieces), parcel.copy, parcel.digest)
    _, settings = parcel.open(measures)
    for name, version in versions(settings).items():
        if version != wanted.get(name):
            raise UserError(f"{name} must be of the driver's version", got=version, accepted=wanted.get(name, "none"))
    if parcel.sizes:
        _check_data(parcel, settings)
    return device_kind(settings)


def versions(settings: Any) -> dict[str, str]:
    """What must be the same on all machines, by name."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    if location := getattr(settings, "location", None):
        from importlib.metadata import version

        from ...host.yolov5 import load

        host = load(location)
        found["torch"] = str(host.torch_utils.torch.__version__).partition("+")[0]
        if location.kind == "package":
            found["yolov5"] = version("yolov5")
    return found


def device_kind(settings: Any) -> str:
    """What the device that trials run on is called: latencies of devices of one name may be compared.

    Raises:
        UserError: there is no GPU where one is wanted, or latency can't be measured as it should be.
    """
    if not _finds_gpu(settings):
        raise UserError("torch sees no GPU")
    if not hasattr(settings, "runtime"):
        return platform.machine()
    settings.runtime.check()
    return settings.runtime.conditions(settings.imgsz)["device"]


def _finds_gpu(settings: Any) -> bool:
    """Whether there is a GPU, where one is wanted."""
    if not str(getattr(settings, "device", "cpu")).startswith("cuda"):
        return True
    import torch

    return torch.cuda.is_available()


def _check_data(parcel: Parcel, settings: Any) -> None:
    """The data is there and as the driver's. Reading its labels here also writes YOLOv5's caches by one process."""
    from ...host.dataset import check_data
    from ...host.yolov5 import load

    root = Path(str(settings.data.get("path") or settings.data["train"]))
    try:
        same = bool(parcel.digest) or size_hash(files_of(settings.data)) == parcel.sizes
    except OSError as e:
        raise UserError(f"the data is missing ({e.strerror}): {e.filename}") from None
    if not same:
        raise UserError("the data is missing or not as the driver's", got=str(root))
    check_data(settings.data, load(settings.location), settings.imgsz, root, settings.single_cls)


# The slots ------------------------------------------------------------------------------------------------------------


class Slot:
    """Runs trials, or measures architectures, one at a time, as an actor."""

    def __init__(self, parcel: Parcel, measures: bool, trial_minutes: float | None, threads: int, gpu: bool):
        # Ray ends it with its node, but not where only the node's Ray was killed.
        threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
        self.folder, self.lock = _own_folder()
        file = self.folder / "parcel.pkl"
        file.write_bytes(pickle.dumps(parcel))
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # Ray's choice
        self.engine = LocalEngine((visible,) if gpu and visible else (), 1, trial_minutes, threads)
        self.engine.start(measure_here if measures else run_here, str(file), self.folder)

    def ready(self) -> None:
        """Answers when the slot can take a trial."""

    def run(self, job: Job, costs: str) -> tuple[str, dict[str, bytes], dict[str, bytes]]:
        """A job's outcome as JSON, its files, and its heavy files, which the driver fetches if it wants them.

        Args:
            costs: the outcome of its measuring, where that was done elsewhere.
        """
        own = RunFolder(self.folder).trial(job.number)
        folder = own.path
        try:
            folder.mkdir(parents=True)
            (folder / JOB).write_bytes(pickle.dumps((job, costs)))
        except OSError as e:
            error = {"reason": "machine", "message": f"{platform.node()}: {machine_fault(e) or e}"}
            return outcome_to_json(job, Outcome(job.number, 0.0, error=error)), {}, {}
        self.engine.submit(replace(job, overrides={}))  # which are for the settings in the parcel
        (outcome,) = self.engine.wait()
        (folder / JOB).unlink(missing_ok=True)
        found = {f.name: f.read_bytes() for f in folder.glob("*") if f.is_file() and f.suffix != ".tmp"}
        shutil.rmtree(folder, ignore_errors=True)
        heavy = {path.name: found.pop(path.name) for path in own.heavy if path.name in found}
        return outcome_to_json(job, outcome), found, heavy

    def close(self) -> None:
        """Stop the warm process and leave nothing behind."""
        self.engine.close()
        _remove(self.folder)


def _own_folder() -> tuple[Path, FileLock]:
    """A folder, and a lock that tells that its slot is alive; those of slots that were killed are removed."""
    temporary = Path(tempfile.gettempdir())
    for folder in temporary.glob(SLOT + "?" * 32):
        with contextlib.suppress(Timeout), FileLock(f"{folder}.lock", timeout=0):
            _remove(folder)
    folder = temporary / (SLOT + uuid.uuid4().hex)
    lock = FileLock(f"{folder}.lock")
    lock.acquire()  # before there is a folder that another slot might find unlocked
    folder.mkdir(mode=0o700)
    return folder, lock


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    Path(f"{folder}.lock").unlink(missing_ok=True)


# In a slot's warm process ---------------------------------------------------------------------------------------------


def run_here(architecture: Mapping[str, Value], parcel: str, seed: int, folder: Path) -> TrialResult:
    """The search's trial, with its settings as they are on this machine."""
    trial, settings = _opened(parcel, False)
    job, costs = pickle.loads((folder / JOB).read_bytes())
    if costs:
        measured = outcome_from_json(costs, job)
        assert measured
        trial = partial(trial, costs=measured.result)  # type: ignore[call-arg]
    return call_trial(trial, job, settings, folder.parents[1])


def measure_here(architecture: Mapping[str, Value], parcel: str, seed: int, folder: Path) -> TrialResult:
    """The measuring alone."""
    measure, settings = _opened(parcel, True)
    return measure(architecture, settings, seed, folder)


@lru_cache(maxsize=1)
def _opened(file: str, measures: bool) -> tuple[Trial, Any]:
    parcel: Parcel = pickle.loads(Path(file).read_bytes())
    return parcel.open(measures)
