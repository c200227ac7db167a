"""The Ray engine: trials on the machines of a Ray cluster.

Ray places the slots, carries code and files, and says which nodes live. A slot is an actor (`ray_node.Slot`) that ends
with its node or by our hand only: what happens to a trial's process is told by the outcome that the slot sends. Jobs
are handed to slots that answered, so that one for which the cluster has no room keeps none waiting.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from ...errors import UserError
from ...files import PACKAGE
from ...records.run_folder import RunFolder
from ..contract import EngineError, Job, Outcome, Trial, cores, outcome_from_json
from . import node as ray_node
from .shipping import content_hash, files_of, pack

PATIENCE = 600.0  # seconds in which a node must answer its check, and in which some slot must be able to work
LOOK = 10.0  # seconds between two looks for nodes that joined
STARTS = 3  # tries to start a slot on a node before it is left out
STORE = 256 * 2**20  # bytes of a local Ray's object store
SUFFIXES = {".py", ".yaml", ".yml", ".json", ".txt"}  # of a folder of code that is sent along
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


@dataclass
class _Node:
    """A machine of the cluster that has room for trials."""

    id: str
    name: str
    room: int  # trials at a time
    measures: dict[str, float]  # what its measuring takes of it, if it measures
    good: bool = False
    failures: int = 0  # slots in a row that did not start


@dataclass(eq=False)
class _Slot:
    """An actor, and the job that it runs."""

    actor: Any
    node: _Node
    measures: bool
    job: Job | None = None
    since: float = 0.0
    files: Any = None  # reference to the light and the heavy files of its job
    heavy: Any = None


@dataclass
class _Task:
    """A job that waits for a slot."""

    job: Job
    costs: str = ""  # the outcome of its measuring, where that is done elsewhere


@dataclass
class _Check:
    """A node that was asked whether it can run trials."""

    node: _Node
    has_pieces: bool = False
    since: float = field(default_factory=time.monotonic)


class RayEngine:
    """Trials on a Ray cluster.

    Args:
        address: "auto" or HOST:PORT of a running cluster; None starts a Ray on this machine, on 127.0.0.1 alone.
        cpus_per_trial: cores that a trial asks for; Ray counts them, and gives no more trials to a node than it has.
        gpus_per_trial: GPUs that it asks for; 0.5 lets two trials share one.
        concurrency: trials at a time; by default as many as the cluster has room for.
        trial_minutes: a trial that takes longer is stopped and recorded as `timeout`.
        ship_data: copy the data set to the nodes; else each must have it at the same path.
        files: what nodes need besides this package: a clone of YOLOv5, a checkpoint, a Python file of one's own.
        measure_on: a resource of Ray's; nodes that have it measure, one architecture at a time, before it is trained
            on whatever node. None: each trial measures where it trains.
        measure: with `measure_on`, what measures; its result is given to the trial as a fifth argument.

    Raises:
        UserError: there is no Ray, it is of another version, or no node has what a trial asks for.
    """

    def __init__(
        self,
        address: str | None = None,
        cpus_per_trial: float = 1.0,
        gpus_per_trial: float = 0.0,
        concurrency: int | None = None,
        trial_minutes: float | None = None,
        ship_data: bool = False,
        files: Sequence[str | Path] = (),
        measure_on: str | None = None,
        measure: Trial | None = None,
    ):
        check_numbers(cpus_per_trial, gpus_per_trial, concurrency, trial_minutes)
        if not find_spec("ray"):
            raise UserError("--engine ray needs Ray: pip install 'yolov5-nas[ray]'")
        self.needs = {"CPU": cpus_per_trial, "GPU": gpus_per_trial} if gpus_per_trial else {"CPU": cpus_per_trial}
        self.address, self.concurrency, self.trial_minutes = address, concurrency, trial_minutes
        self.ship_data, self.files = ship_data, tuple(map(Path, files))
        self.measure_on, self.measure = measure_on, measure
        self.device = ""  # kind of those that measure
        # Of those that measure (True) and those that run trials (False):
        self._queues: dict[bool, deque[_Task]] = {True: deque(), False: deque()}
        self._idle: dict[bool, list[_Slot]] = {True: [], False: []}
        self._slots: list[_Slot] = []
        self._busy = 0  # slots with a job
        self._changed = False  # nodes or slots are others than when slots were last started
        self._nodes: dict[str, _Node] = {}
        self._news: dict[Any, _Slot | _Check] = {}  # what is awaited, by reference
        self._heavy: dict[int, Any] = {}
        self._devices: dict[str, _Node] = {}  # kinds that answered, each with a node that has it
        self._problems: list[str] = []
        self._packed: list[Any] = []
        self._data: Mapping[str, Any] | None = None
        self._looked = self._worked = 0.0
        self._open = True
        self._connect()
        try:
            self.slots = self._check_room()
        except UserError:
            self.close()
            raise

    # Connection -------------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        self._staged = Path(tempfile.mkdtemp(prefix="yolov5-nas-"))
        stage([PACKAGE, *self.files], self._staged)
        self.ray = import_ray(self.address)
        if self.ray.is_initialized():
            raise UserError("this process is connected to a Ray already: call ray.shutdown() before the search")
        common = {"runtime_env": self.runtime_env(), "log_to_driver": False, "logging_level": "error"}
        with _signals_kept():
            if self.address:
                self._join(self.address, common)
            else:
                self._start_here(common)

    def runtime_env(self) -> dict[str, Any]:
        """What Ray gives every process of the search: the code, as its working directory."""
        return {"working_dir": str(self._staged)}

    def _join(self, address: str, common: Mapping[str, Any]) -> None:
        if address != "auto":
            check_address(address)
        try:
            self.ray.init(address=address, **common)
        except (ConnectionError, RuntimeError, ValueError) as e:
            raise UserError(f"no Ray could be joined ({_reason(e)})", got=address) from None

    def _start_here(self, common: Mapping[str, Any]) -> None:
        try:
            self.ray.init("local", num_cpus=cores(), include_dashboard=False, object_store_memory=STORE, **common)
        except Exception as e:  # Ray's own are of no class of theirs
            self.close()
            raise EngineError(f"Ray does not start on this machine: {_reason(e)}") from None
        self._check_sockets()

    def _check_sockets(self) -> None:
        """Raise unless every socket that our Ray listens on is bound to this machine alone."""
        own = psutil.Process()
        processes = [own, *own.children(recursive=True)]
        found = [c.laddr for p in processes for c in _connections(p) if c.status == psutil.CONN_LISTEN]
        others = [f"{a.ip}:{a.port}" for a in found if a.ip not in LOOPBACK]
        if others:
            self.close()
            raise EngineError(f"Ray listens on {', '.join(others)}, which other machines may reach")

    # Nodes ------------------------------------------------------------------------------------------------------------

    def _check_room(self) -> int:
        """How many trials there may be at a time, by what the cluster has in all.

        Raises:
            UserError: no node has room for one.
        """
        totals = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        wanted = {"CPU": ("--cpus-per-trial", self.needs["CPU"]), "GPU": ("--gpus-per-trial", self.needs.get("GPU", 0))}
        if self.measure_on:
            wanted[self.measure_on] = "--measure-on " + self.measure_on, 1
        for name, (flag, amount) in wanted.items():
            most = max((total.get(name, 0) for total in totals), default=0)
            if most < amount:
                raise UserError(f"{flag}: no node has as much", got=amount, accepted=f"at most {most:g}")
        measuring = [self._measures(total) for total in totals]
        if not (room := sum(map(self._room, totals, measuring))):
            raise UserError("no node has room for a trial", got=self.needs)
        if self.concurrency and self.concurrency > room:
            got = self.concurrency
            raise UserError(
                "--concurrency must be at most what the cluster has room for", got=got, accepted=f"1-{room}"
            )
        return (self.concurrency or room) + sum(map(bool, measuring))

    def _measures(self, total: Mapping[str, float]) -> dict[str, float]:
        """What measuring takes of a node that has so much; nothing where it does not measure."""
        if not self.measure_on or total.get(self.measure_on, 0) < 1:
            return {}
        return {self.measure_on: 1, **{name: min(need, total.get(name, 0)) for name, need in self.needs.items()}}

    def _room(self, total: Mapping[str, float], measures: Mapping[str, float]) -> int:
        left = {name: total.get(name, 0) - measures.get(name, 0) for name in self.needs}
        return min(math.floor(left[name] / need + 1e-6) for name, need in self.needs.items())

    def _invite(self) -> None:
        """Ask nodes that are new whether they can run trials; forget those that are gone."""
        self._looked = time.monotonic()
        alive = {node["NodeID"]: node for node in self.ray.nodes() if node["Alive"]}
        self._nodes = {id: node for id, node in self._nodes.items() if id in alive}
        for id, entry in alive.items():
            measures = self._measures(entry["Resources"])
            room = self._room(entry["Resources"], measures)
            if id not in self._nodes and (room or measures):
                name = f"{entry['NodeManagerHostname']} ({entry['NodeManagerAddress']}, {id[:6]})"
                self._nodes[id] = _Node(id, name, room, measures)
                self._ask(_Check(self._nodes[id]))

    def _ask(self, check: _Check) -> None:
        pieces = self._pieces() if check.has_pieces else []
        # The process of a check ends with it, since it has YOLOv5 in its memory.
        function = self.ray.remote(max_calls=1, max_retries=0)(ray_node.check)
        measures = bool(check.node.measures)
        answer = self._placed(function, check.node, measures).remote(
            self._parcel, measures, self._versions, pieces, self.ray.get
        )
        self._news[answer] = check

    def _placed(self, remote: Any, node: _Node, measures: bool) -> Any:
        strategy = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
        needs = dict(node.measures if measures else self.needs)
        return remote.options(
            num_cpus=needs.pop("CPU"),
            num_gpus=needs.pop("GPU", 0),
            resources=needs,
            scheduling_strategy=strategy(node_id=node.id, soft=False),
        )

    def _pieces(self) -> list[Any]:
        """The packed data set, in Ray's object store."""
        if not self._packed:
            self._packed = [self.ray.put(piece) for piece in pack(files_of(self._data or {}))]
        return self._packed

    def _take_check(self, check: _Check, answer: Any) -> None:
        try:
            device = self.ray.get(answer)
        except self.ray.exceptions.RayError as e:
            self._leave_out(check.node, _reason(e))
            return
        if not device:
            self._ask(_Check(check.node, has_pieces=True))
            return
        if not self.measure_on or check.node.measures:
            if self.device and device != self.device:
                self._leave_out(check.node, f"its device is {device}, the others' {self.device}")
                return
            self._devices.setdefault(device, check.node)
        check.node.good = self._changed = True

    def _leave_out(self, node: _Node, why: str) -> None:
        self._problems.append(f"node {node.name} is left out: {why}")
        print(self._problems[-1])

    # The contract -----------------------------------------------------------------------------------------------------

    def start(self, trial: Trial, settings: Any, folder: Path) -> None:
        """Check every node, name and leave out those that can't run trials, and start the slots.

        Raises:
            UserError: no node can run trials, or their devices are unlike.
        """
        try:
            self._start(trial, settings, folder)
        except BaseException:
            self.close()
            raise

    def _start(self, trial: Trial, settings: Any, folder: Path) -> None:
        self.folder, self._data, self._worked = folder, getattr(settings, "data", None), time.monotonic()
        digest = content_hash(files_of(self._data)) if self.ship_data and self._data else ""
        parcel = ray_node.Parcel.of(trial, self.measure, settings, digest)
        self._parcel, self._versions = self.ray.put(parcel), ray_node.versions(settings)
        self._invite()
        while self._news:
            self._take_news(1.0)
            for answer, check in list(self._news.items()):
                if time.monotonic() - check.since > PATIENCE:
                    del self._news[answer]
                    self._leave_out(check.node, f"it did not answer in {PATIENCE:g} s")
        self._packed = []
        if not self._devices or not any(node.good and node.room for node in self._nodes.values()):
            raise UserError("; ".join(self._problems) or "no node is there")
        if len(self._devices) > 1:
            unlike = "; ".join(f"{device} on {node.name}" for device, node in self._devices.items())
            raise UserError("latencies of unlike devices can't be compared: name some by --measure-on", got=unlike)
        (self.device,) = self._devices
        self._fill()
        print(f"Ray: {self.slots} slots on {sum(n.good for n in self._nodes.values())} nodes, {self.device}")

    def _fill(self) -> None:
        """Start slots until there are as many as there may be, on the nodes with the most room left."""
        self._changed = False
        good = [node for node in self._nodes.values() if node.good]
        measured = {slot.node.id for slot in self._slots if slot.measures}
        for node in good:
            if node.measures and node.id not in measured:
                self._start_slot(node, measures=True)
        used = Counter(slot.node.id for slot in self._slots if not slot.measures)
        if not (room := sum(node.room for node in good)):
            return
        wanted = min(self.concurrency or room, room)
        self.slots = wanted + sum(bool(node.measures) for node in good)
        for _ in range(wanted - used.total()):
            node = max(good, key=lambda n: n.room - used[n.id])
            used[node.id] += 1
            self._start_slot(node, measures=False)

    def _start_slot(self, node: _Node, measures: bool) -> None:
        placed = self._placed(self.ray.remote(max_restarts=0)(ray_node.Slot), node, measures)
        needs = node.measures if measures else self.needs
        threads, gpu = max(1, int(needs["CPU"])), bool(needs.get("GPU"))
        self._slots.append(
            _Slot(placed.remote(self._parcel, measures, self.trial_minutes, threads, gpu), node, measures)
        )
        self._news[self._slots[-1].actor.ready.remote()] = self._slots[-1]

    def submit(self, job: Job) -> None:
        """Run a job in the first slot that is free."""
        self._queues[bool(self.measure_on)].append(_Task(job))
        self._hand_out()

    def _hand_out(self) -> None:
        for measures, queue in self._queues.items():
            while queue and self._idle[measures]:
                slot, task = self._idle[measures].pop(0), queue.popleft()
                run = slot.actor.run.options(num_returns=3)
                outcome, slot.files, slot.heavy = run.remote(task.job, task.costs)
                slot.job, slot.since = task.job, time.monotonic()
                self._news[outcome] = slot
                self._busy += 1

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        """What ended; see `Engine`.

        Raises:
            EngineError: no node can run trials any more.
        """
        self._heavy.clear()
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            outcomes = self._take_news(min(1.0, max(0.0, deadline - time.monotonic())))
            if time.monotonic() - self._looked > LOOK:
                self._invite()
            if self._changed:
                self._fill()
            self._hand_out()
            if outcomes or not (self._busy or any(self._queues.values())) or time.monotonic() >= deadline:
                return sorted(outcomes, key=lambda o: o.number)
            if self._busy:
                self._worked = time.monotonic()
            elif time.monotonic() - self._worked > PATIENCE:
                raise EngineError(f"no node has had room for a trial for {PATIENCE:g} s")

    def _take_news(self, timeout: float) -> list[Outcome]:
        """Take in what nodes, new slots and trials have answered; the outcomes among it."""
        if not self._news:
            time.sleep(timeout)
            return []
        self.ray.wait(list(self._news), timeout=timeout, fetch_local=False)
        answers, _ = self.ray.wait(list(self._news), num_returns=len(self._news), timeout=0, fetch_local=False)
        outcomes = []
        for answer in answers:
            asked = self._news.pop(answer)
            if isinstance(asked, _Check):
                self._take_check(asked, answer)
            elif outcome := self._take_slot(asked, answer):
                outcomes.append(outcome)
        return outcomes

    def _take_slot(self, slot: _Slot, answer: Any) -> Outcome | None:
        """A slot is ready, or gone, or its job has ended."""
        errors = self.ray.exceptions
        try:
            text = self.ray.get(answer)
            files = self.ray.get(slot.files) if slot.files else {}
        except errors.ActorUnavailableError:  # for now, or for ever: that Ray says at a later call
            slot.files = slot.heavy = None
            self._news[slot.actor.ready.remote()] = slot
            return None
        except errors.RayError as e:
            return self._lose(slot, e)
        job, slot.job, slot.node.failures = slot.job, None, 0
        self._idle[slot.measures].append(slot)
        if not job:
            return None
        self._busy -= 1
        if not slot.files:  # it is back, but what it answered to its job is lost
            return _lost(job, slot, f"the connection to node {slot.node.name} broke")
        outcome = outcome_from_json(text, job)
        assert outcome
        heavy, slot.files, slot.heavy = slot.heavy, None, None
        if slot.measures and outcome.result and outcome.result.state == "complete":
            self._queues[False].append(_Task(job, text))
            return None
        self._write(job.number, files)
        self._heavy[job.number] = heavy
        return outcome

    def _lose(self, slot: _Slot, e: Exception) -> Outcome | None:
        """A slot is gone: with its node, or alone."""
        self._slots.remove(slot)
        self._changed = True
        self.ray.kill(slot.actor)
        node, job, why = slot.node, slot.job, _reason(e)
        self._busy -= job is not None
        alive = any(entry["NodeID"] == node.id and entry["Alive"] for entry in self.ray.nodes())
        if not alive:
            if self._nodes.pop(node.id, None):
                print(f"node {node.name} is gone")
            return _lost(job, slot, f"node {node.name} is gone") if job else None
        if job:
            return _lost(job, slot, f"the slot on node {node.name} is gone ({why})", lost=False)
        node.failures += 1
        if node.failures >= STARTS and node.good:
            node.good = False
            self._leave_out(node, f"slots don't start there: {why}")
        return None

    def fetch(self, number: int) -> None:
        """Bring a trial's heavy files, its weights; until the next `wait`."""
        if heavy := self._heavy.pop(number, None):
            with contextlib.suppress(self.ray.exceptions.RayError):  # its node died in this moment
                self._write(number, self.ray.get(heavy))

    def _write(self, number: int, files: Mapping[str, bytes]) -> None:
        folder = RunFolder(self.folder).trial(number).path
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            temporary = folder / (Path(name).name + ".tmp")
            temporary.write_bytes(content)
            temporary.replace(folder / Path(name).name)

    def close(self) -> None:
        """Stop every slot, leave the cluster, and stop a Ray that was started here."""
        if not self._open:
            return
        self._open = False
        closing = [slot.actor.close.remote() for idle in self._idle.values() for slot in idle]
        if closing:
            self.ray.wait(closing, num_returns=len(closing), timeout=5, fetch_local=False)
        for slot in self._slots:
            self.ray.kill(slot.actor)
        kept: Any
        for kept in (self._news, self._slots, self._heavy, *self._idle.values(), *self._queues.values()):
            kept.clear()
        with _signals_kept():
            self.ray.shutdown()
        shutil.rmtree(self._staged, ignore_errors=True)


# Checks and small things ----------------------------------------------------------------------------------------------


def check_numbers(cpus: float, gpus: float, concurrency: int | None, trial_minutes: float | None) -> None:
    """Raise a UserError unless a trial asks for amounts that Ray can give."""
    if not cpus > 0 or (cpus > 1 and cpus % 1):
        raise UserError("--cpus-per-trial must be a share of a core or a whole number of them", got=cpus)
    if gpus < 0 or (gpus > 1 and gpus % 1):
        raise UserError("--gpus-per-trial must be 0, a share of a GPU or a whole number of them", got=gpus)
    if concurrency is not None and concurrency < 1:
        raise UserError("--concurrency must be at least 1", got=concurrency)
    if trial_minutes is not None and not trial_minutes > 0:
        raise UserError("the minutes of a trial must be above 0", got=trial_minutes)


def check_address(address: str) -> None:
    """Raise a UserError unless something answers at HOST:PORT."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError("--address must be auto or HOST:PORT", got=address)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError) as e:
        raise UserError(f"no Ray answers there ({e})", got=address) from None


def import_ray(address: str | None) -> Any:
    """Ray, told to report to nobody, to be quiet, and where it starts here to stay on this machine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address is None:
        # Ray then takes 127.0.0.1 for its own address, and binds to it alone. Read when it is imported.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default, and latencies are measured there
    elif "RAY_AUTH_MODE" not in os.environ and _has_token():
        os.environ["RAY_AUTH_MODE"] = "token"  # what a cluster whose head found a token wants
    return importlib.import_module("ray")


def _has_token() -> bool:
    given = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    return given or (Path.home() / ".ray" / "auth_token").is_file()


def stage(paths: Sequence[Path], folder: Path) -> None:
    """Copy what nodes need into a folder, by name; of folders their code alone."""
    for path in paths:
        if path.is_dir():
            shutil.copytree(path, folder / path.name, ignore=_no_code)
        else:
            shutil.copy(path, folder / path.name)


def _no_code(folder: str, names: list[str]) -> set[str]:
    """What of a folder is no code: data, weights, runs, version control."""
    skipped = {"__pycache__", "runs", "datasets", "wandb", "node_modules", "venv"}
    return {
        name
        for name in names
        if name in skipped or name.startswith(".") or ((f := Path(folder, name)).is_file() and f.suffix not in SUFFIXES)
    }


def _lost(job: Job, slot: _Slot, message: str, lost: bool = True) -> Outcome:
    error = {"reason": "killed", "message": message[:500]}
    return Outcome(job.number, time.monotonic() - slot.since, error=error, lost=lost)


def _reason(e: BaseException) -> str:
    """An error of Ray's in one line."""
    cause = getattr(e, "cause", None)
    text = str(cause if isinstance(cause, Exception) else e)
    return " ".join(line.strip() for line in text.strip().splitlines()[-3:])[-400:]


def _connections(process: psutil.Process) -> list[Any]:
    try:
        return process.net_connections("inet")
    except psutil.Error:
        return []


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray sets a handler of its own for SIGTERM."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)
