"""The Ray engine: trials on the machines of a Ray cluster.

Ray places the slots, carries code and files, and says which nodes are alive. A slot is an actor (`ray_node.Slot`) that
ends only with its node or when we stop it; what happens to a trial's process is in the outcome that the slot sends.
Jobs go only to slots that have answered, so that a slot for which the cluster has no room keeps no job waiting.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import shutil
import tempfile
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...files import PACKAGE
from ...records.run_folder import RunFolder
from ..contract import Engine, EngineError, Job, Outcome, Trial, outcome_from_json
from . import node as ray_node
from .cluster import (
    check_numbers,
    import_ray,
    join,
    reason,
    signals_kept,
    stage,
    start_here,
)
from .nodes import Check, Node, Room, Slot, Task
from .shipping import content_hash, files_of, pack

PATIENCE = 600.0  # seconds in which a node must answer its check, and in which some slot must be able to work
LOOK = 10.0  # seconds between two looks for nodes that joined
STARTS = 3  # tries to start a slot on a node before it is left out


class RayEngine(Engine):
    """Trials on a Ray cluster.

    Args:
        address: "auto" or HOST:PORT of a running cluster; None starts a Ray on this machine, on 127.0.0.1 alone.
        cpus_per_trial: cores that a trial asks for; Ray counts them, and gives no more trials to a node than it has.
        gpus_per_trial: GPUs that it asks for; 0.5 lets two trials share one.
        concurrency: trials at a time; by default as many as the cluster has room for.
        trial_minutes: a trial that takes longer is stopped and recorded as `timeout`.
        ship_data: copy the data set to the nodes; else each must have it at the same path.
        files: what nodes need besides this package: a clone of YOLOv5, a checkpoint, a Python file of your own.
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
        self.room = Room(self.needs, measure_on)
        self.address, self.concurrency, self.trial_minutes = address, concurrency, trial_minutes
        self.ship_data, self.files = ship_data, tuple(map(Path, files))
        self.measure_on, self.measure = measure_on, measure
        self.device = ""  # kind of those that measure
        # Of those that measure (True) and those that run trials (False):
        self._queues: dict[bool, deque[Task]] = {True: deque(), False: deque()}
        self._idle: dict[bool, list[Slot]] = {True: [], False: []}
        self._slots: list[Slot] = []
        self._busy = 0  # slots with a job
        self._changed = False  # nodes or slots are others than when slots were last started
        self._nodes: dict[str, Node] = {}
        self._news: dict[Any, Slot | Check] = {}  # what is awaited, by reference
        self._heavy: dict[int, Any] = {}
        self._devices: dict[str, Node] = {}  # kinds that answered, each with a node that has it
        self._problems: list[str] = []
        self._packed: list[Any] = []
        self._data: Mapping[str, Any] | None = None
        self._looked = self._worked = 0.0
        self._open = True
        self._connect()
        try:
            totals = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
            self.slots = self.room.check(totals, concurrency)
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
        with signals_kept():
            if self.address:
                join(self.ray, self.address, common)
            else:
                self._start_here(common)

    def _start_here(self, common: Mapping[str, Any]) -> None:
        try:
            start_here(self.ray, common)
        except EngineError:
            self.close()
            raise

    def runtime_env(self) -> dict[str, Any]:
        """What Ray gives every process of the search: the code, as its working directory."""
        return {"working_dir": str(self._staged)}

    # Nodes ------------------------------------------------------------------------------------------------------------

    def _invite(self) -> None:
        """Ask nodes that are new whether they can run trials; forget those that are gone."""
        self._looked = time.monotonic()
        alive = {node["NodeID"]: node for node in self.ray.nodes() if node["Alive"]}
        self._nodes = {id: node for id, node in self._nodes.items() if id in alive}
        for id, entry in alive.items():
            measures = self.room.measuring(entry["Resources"])
            room = self.room.trials(entry["Resources"], measures)
            if id not in self._nodes and (room or measures):
                name = f"{entry['NodeManagerHostname']} ({entry['NodeManagerAddress']}, {id[:6]})"
                self._nodes[id] = Node(id, name, room, measures)
                self._ask(Check(self._nodes[id]))

    def _ask(self, check: Check) -> None:
        pieces = self._pieces() if check.has_pieces else []
        # The process of a check ends with it, since it has YOLOv5 in its memory.
        function = self.ray.remote(max_calls=1, max_retries=0)(ray_node.check)
        measures = bool(check.node.measures)
        answer = self._placed(function, check.node, measures).remote(
            self._parcel, measures, self._versions, pieces, self.ray.get
        )
        self._news[answer] = check

    def _placed(self, remote: Any, node: Node, measures: bool) -> Any:
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

    def _take_check(self, check: Check, answer: Any) -> None:
        try:
            device = self.ray.get(answer)
        except self.ray.exceptions.RayError as e:
            self._leave_out(check.node, reason(e))
            return
        if not device:
            self._ask(Check(check.node, has_pieces=True))
            return
        if not self.measure_on or check.node.measures:
            if self.device and device != self.device:
                self._leave_out(check.node, f"its device is {device}, the others' {self.device}")
                return
            self._devices.setdefault(device, check.node)
        check.node.good = self._changed = True

    def _leave_out(self, node: Node, why: str) -> None:
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

    def _start_slot(self, node: Node, measures: bool) -> None:
        placed = self._placed(self.ray.remote(max_restarts=0)(ray_node.Slot), node, measures)
        needs = node.measures if measures else self.needs
        threads, gpu = max(1, int(needs["CPU"])), bool(needs.get("GPU"))
        self._slots.append(
            Slot(placed.remote(self._parcel, measures, self.trial_minutes, threads, gpu), node, measures)
        )
        self._news[self._slots[-1].actor.ready.remote()] = self._slots[-1]

    def submit(self, job: Job) -> None:
        """Run a job in the first slot that is free."""
        self._queues[bool(self.measure_on)].append(Task(job))
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
            if isinstance(asked, Check):
                self._take_check(asked, answer)
            elif outcome := self._take_slot(asked, answer):
                outcomes.append(outcome)
        return outcomes

    def _take_slot(self, slot: Slot, answer: Any) -> Outcome | None:
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
            return _lost(job, slot, f"the connection to node {slot.node.name} failed")
        outcome = outcome_from_json(text, job)
        assert outcome
        heavy, slot.files, slot.heavy = slot.heavy, None, None
        if slot.measures and outcome.result and outcome.result.state == "complete":
            self._queues[False].append(Task(job, text))
            return None
        self._write(job.number, files)
        self._heavy[job.number] = heavy
        return outcome

    def _lose(self, slot: Slot, e: Exception) -> Outcome | None:
        """A slot is gone: with its node, or alone."""
        self._slots.remove(slot)
        self._changed = True
        self.ray.kill(slot.actor)
        node, job, why = slot.node, slot.job, reason(e)
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
        with signals_kept():
            self.ray.shutdown()
        shutil.rmtree(self._staged, ignore_errors=True)


def _lost(job: Job, slot: Slot, message: str, lost: bool = True) -> Outcome:
    error = {"reason": "killed", "message": message[:500]}
    return Outcome(job.number, time.monotonic() - slot.since, error=error, lost=lost)
