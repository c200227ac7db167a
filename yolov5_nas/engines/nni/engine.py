"""The NNI engine: trials as an NNI 3.0 experiment, with NNI's web portal.

NNI decides when a trial starts and shows what came of it; it is never asked for a result. What it starts is a stand-in
(`nni_client`) that says which of our trials it is. The trial itself runs in a process forked by a warm one (`warm`),
and the stand-in stays until that ended and its metrics were reported under the stand-in's id.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...records.run_folder import RunFolder
from ...space.architecture import Architecture
from .. import warm
from ..contract import KILLED, Engine, EngineError, Job, Outcome, Trial, check_slots, cores, free_slot
from . import client as nni_client
from . import rest
from .checks import HOST, HOSTS, check_nni, free_ports, is_free
from .patience import Patience

STARTS_TRIAL_WITHIN = 120.0  # seconds of an idle machine, after NNI was given one
ENDS_WITHIN = 10.0  # seconds of an idle machine, in which the warm process must end its trials
ASK = 5.0  # seconds after which, and between which, NNI is asked about one that it has not started
CANCELLED = ("killed", "its NNI trial was cancelled or killed")
ENDED = {"USER_CANCELED", "SYS_CANCELED", "EARLY_STOPPED", "FAILED", "SUCCEEDED"}


@dataclass
class _Running:
    """A job on its way: given to NNI, met its stand-in, started, ended."""

    job: Job
    slot: int
    since: float  # of its latest step
    patience: Patience  # until its stand-in comes
    hello: Mapping[str, Any] = field(default_factory=dict)
    client: socket.socket | None = None
    pid_known: bool = False
    stopped: tuple[str, str] | None = None  # why we killed it
    reported: int = 0  # points of its curve


class NNIEngine(Engine):
    """Trials as an experiment of NNI's on this machine.

    Args:
        devices: GPU indices as in `CUDA_VISIBLE_DEVICES`; none for the CPU.
        concurrency: trials at a time; by default one for each device.
        trial_minutes: a trial that takes longer is stopped and recorded as `timeout`.
        port: of the portal; by default 8083 or the next free one.
        host: "127.0.0.1", or "0.0.0.0" to open the portal, which asks for no password, to the network.
        reward: metrics to the number that the portal shows as default metric; without it that is `map50_95`.

    Raises:
        UserError: NNI is not installed or does not run here, the port is taken, or the slots are too many.
    """

    def __init__(
        self,
        devices: tuple[str, ...] = (),
        concurrency: int | None = None,
        trial_minutes: float | None = None,
        port: int | None = None,
        host: str = HOST,
        reward: Callable[[Mapping[str, float]], float] | None = None,
    ):
        self.slots = check_slots(devices, concurrency, trial_minutes)
        check_nni()
        if host not in HOSTS:
            raise UserError("--host must be an address that NNI can use", got=host, accepted=HOSTS)
        if port is not None and not is_free(port, host):
            raise UserError("--port must be a free port", got=port, accepted="another one, or none for the next free")
        self.devices, self.given_port, self.host, self.reward = devices, port, host, reward
        self.seconds = trial_minutes * 60 if trial_minutes else None
        self.threads = max(1, cores() // self.slots)
        self._running: dict[int, _Running] = {}
        self._ended: list[Outcome] = []
        self._asked = 0.0  # when NNI was last asked about its trials
        self._experiment: Any = None
        self._process: Any = None
        self._listener: socket.socket | None = None

    @property
    def url(self) -> str:  # type: ignore[override]
        """The portal's address."""
        return f"http://127.0.0.1:{self._experiment.port}"

    def start(self, trial: Trial, settings: Any, folder: Path) -> None:
        """Stop what a killed search left in this folder; start the warm process, the manager and the portal.

        Raises:
            EngineError: the manager did not start, or listens where it must not.
        """
        self.run = folder.resolve()
        self.folder = self.run / "nni"
        self.folder.mkdir(parents=True, exist_ok=True)
        if orphans := warm.stop_orphans(self.folder):
            print(f"stopped what the last search left running: {', '.join(sorted(set(orphans)))}")
        atexit.register(self.close)  # before the exit of multiprocessing, which would wait for the warm process
        try:
            self._start_warm(trial, settings)
            self._listen()
            self._start_experiment(settings)
        except BaseException:
            self.close()
            raise
        warning = ""
        if self.host != HOST:
            warning = " (open to the network: whoever reaches it can read and change this search without a password)"
        print(f"NNI's portal: {self.url}{warning}")

    def _start_warm(self, trial: Trial, settings: Any) -> None:
        context = multiprocessing.get_context("spawn")  # this process may have threads and CUDA
        self._warm, theirs = context.Pipe()
        self._process = context.Process(target=warm.serve, args=(theirs, self.threads, self.folder), name="warm")
        self._process.start()
        theirs.close()
        warm.note_process(self.folder, self._process.pid, "warm process")
        self._warm.send((trial, settings))

    def _listen(self) -> None:
        """The socket at which stand-ins report; of this user only."""
        path = self.folder / nni_client.SOCKET
        path.unlink(missing_ok=True)
        descriptor = os.open(self.folder, os.O_PATH)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"/proc/self/fd/{descriptor}/{path.name}")  # a socket's own path may have 107 bytes only
        os.close(descriptor)
        path.chmod(0o600)
        self._listener.listen(64)

    def _start_experiment(self, settings: Any) -> None:
        from . import experiment as nni_experiment  # seconds: NNI imports pytorch_lightning
        from . import space as nni_space

        nni_experiment.prepare()
        space = nni_space.symbolic(getattr(settings, "space", None))
        name = f"{self.run.parent.name}/{self.run.name}"
        self._frozen = nni_space.frozen
        for port in [self.given_port] if self.given_port else free_ports(self.host):
            self._experiment = nni_experiment.Experiment(self.folder, space, self.slots, self.host, name)
            try:
                self._experiment.launch(port)
                break
            except EngineError:
                self._experiment.end()
                if self.given_port or is_free(port, self.host):  # else another program took it in the meantime
                    raise
        warm.note_process(self.folder, self._experiment.pid, "manager")
        self._check_sockets()

    def _check_sockets(self) -> None:
        """Raise unless every socket that the manager listens on is bound to where it must be."""
        others = [f"{a.ip}:{a.port}" for a in self._experiment.listening() if a.ip != self.host]
        if others and self.host == HOST:
            raise EngineError(f"NNI's manager listens on {', '.join(others)}, which other machines may reach")

    def submit(self, job: Job) -> None:
        """Hand NNI a job; one whose outcome an earlier process of this run left is not run again."""
        if outcome := warm.read_outcome(RunFolder(self.run).trial(job.number), job):
            self._ended.append(outcome)
            return
        slot = free_slot(self.slots, (r.slot for r in self._running.values()))
        patience = Patience(STARTS_TRIAL_WITHIN, self._experiment.pid)
        self._running[job.number] = _Running(job, slot, time.monotonic(), patience)
        self._experiment.queue.models.put(self._frozen(job.architecture, job.number))

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        """What ended; see `Engine`.

        Raises:
            EngineError: the manager is gone, or starts no trial.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while self._running and not self._ended:
            self._step(min(0.5, max(0.0, deadline - time.monotonic())))
            if time.monotonic() >= deadline:
                break
        ended, self._ended = sorted(self._ended, key=lambda o: o.number), []
        return ended

    def _step(self, timeout: float) -> None:
        """Take one round of news: from stand-ins, from the warm process, from the clock."""
        clients = {r.client: r for r in self._running.values() if r.client}
        news = wait([self._listener, self._warm, self._process.sentinel, *clients], timeout)  # type: ignore[list-item]
        if self._warm in news:
            self._take_answer()
        for client in news:
            if client in clients:  # it says nothing after its hello: it was ended, in the portal for instance
                self._stop(clients[client], *CANCELLED)
        if self._listener in news:
            self._meet()
        self._check_time()
        for running in self._running.values():
            self._report_curve(running)
        if not self._process.is_alive():
            raise EngineError(f"the process that starts trials ended with exit code {self._process.exitcode}")
        if self._experiment.error:
            raise EngineError(f"NNI takes no more trials ({self._experiment.error})")
        if not self._experiment.is_alive():
            raise EngineError(f"NNI's manager is gone; its log is {self.folder}/manager.log")

    def _meet(self) -> None:
        """A stand-in came up: start the trial that NNI gave it."""
        assert self._listener
        client, _ = self._listener.accept()
        client.settimeout(10)
        try:
            hello = json.loads(client.makefile().readline())
            running = self._running[hello["number"]]
            if hello["architecture"] != Architecture(running.job.architecture).id or running.client:
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError):  # no trial of ours
            client.close()
            return
        running.client, running.hello, running.since = client, hello, time.monotonic()
        device = self.devices[running.slot % len(self.devices)] if self.devices else None
        self._warm.send((running.job, running.slot, device))

    def _take_answer(self) -> None:
        """The warm process says that a trial started or ended."""
        try:
            answer = self._warm.recv()
        except (EOFError, OSError):
            return  # it is gone, which is looked at next
        if isinstance(answer, str):
            self.start_method = answer
            return
        number, code = answer
        running = self._running[number]
        if code is None:
            running.since, running.pid_known = time.monotonic(), True
        else:
            self._end(running, code)

    def _check_time(self) -> None:
        now = time.monotonic()
        self._end_unmet(now)
        for running in self._running.values():
            if running.pid_known and self.seconds and now - running.since > self.seconds:
                self._stop(running, "timeout", f"took longer than {self.seconds:g} s")
            elif not running.client and running.patience.is_over():
                raise EngineError(
                    f"nothing has moved for {running.patience.seconds:g} s: NNI does not start trial"
                    f" {running.job.number}; its logs are in {self.folder}"
                )

    def _end_unmet(self, now: float) -> None:
        """End the jobs whose stand-in was cancelled in the portal before it could say which of them it got."""
        unmet = {r.job.number: r for r in self._running.values() if not r.client and now - r.since > ASK}
        if not unmet or now - self._asked < ASK:
            return
        self._asked = now
        for entry in json.loads(rest.request(self._experiment.port, "GET", "/api/v1/nni/trial-jobs") or b"[]"):
            if entry.get("status") in ENDED and entry.get("hyperParameters"):
                running = unmet.get(json.loads(entry["hyperParameters"][0])["parameters"].get("trial"))
                if running and running.stopped is None:
                    running.stopped = CANCELLED
                    self._end(running, -signal.SIGKILL)

    def _stop(self, running: _Running, reason: str, message: str) -> None:
        if running.stopped is None:
            running.stopped = reason, message
            self._warm.send(running.job.number)

    def _end(self, running: _Running, code: int) -> None:
        """A trial's process ended: take its outcome, report it to NNI, let the stand-in go."""
        folder = RunFolder(self.run).trial(running.job.number)
        outcome = warm.read_outcome(folder, running.job)
        if outcome is None:
            outcome = Outcome(running.job.number, time.monotonic() - running.since, error=_why(running, code))
        self._report_curve(running)
        done = self._report(running, outcome)
        if running.hello and folder.onnx.exists():
            shown = Path(running.hello["output"]) / folder.onnx.name  # where NNI's visualization looks for it
            shown.unlink(missing_ok=True)
            shown.symlink_to(folder.onnx.resolve())
        del self._running[running.job.number]
        if running.client:
            with contextlib.suppress(OSError):
                running.client.sendall(b"0" if done else b"1")
            running.client.close()
        self._ended.append(outcome)

    # Reports to NNI ---------------------------------------------------------------------------------------------------

    def _report_curve(self, running: _Running) -> None:
        """New validations of a running trial."""
        if not running.client:
            return
        try:
            lines = RunFolder(self.run).trial(running.job.number).curve.read_text(encoding="utf-8").split("\n")[:-1]
        except OSError:
            return
        for line in lines[running.reported :]:
            point = {k: v for k, v in json.loads(line).items() if v is not None}
            self._put(running, "PERIODICAL", running.reported, {"default": point.get("map50_95", 0.0), **point})
            running.reported += 1

    def _report(self, running: _Running, outcome: Outcome) -> bool:
        """A trial's metrics, the reward as the default one; whether it has any."""
        measured = outcome.result.metrics if outcome.result else {}
        metrics: dict[str, Any] = {k: v for k, v in measured.items() if isinstance(v, int | float) and math.isfinite(v)}
        try:
            reward = float(self.reward(metrics) if self.reward else metrics["map50_95"])
        except Exception:  # the loop will say what is wrong with it
            return False
        if not math.isfinite(reward):
            return False
        metrics |= {"trial": running.job.number, "architecture": running.hello.get("architecture")}
        return self._put(running, "FINAL", 0, {"default": reward, **metrics})

    def _put(self, running: _Running, kind: str, sequence: int, value: Mapping[str, Any]) -> bool:
        """Report a metric under the id of a stand-in, in NNI's own protocol for trials."""
        if not running.hello:
            return False
        metric = {
            "parameter_id": running.hello["parameter_id"],
            "trial_job_id": running.hello["job"],
            "type": kind,
            "sequence": sequence,
            "value": json.dumps(value),
        }
        body = json.dumps({"type": "metric", "metric": json.dumps(metric)})
        return rest.request(self._experiment.port, "PUT", running.hello["path"], body) is not None

    # The end ----------------------------------------------------------------------------------------------------------

    def linger(self) -> None:
        """Keep the portal until Ctrl-C."""
        with contextlib.suppress(KeyboardInterrupt):
            while self._experiment.is_alive():
                time.sleep(0.5)

    def close(self) -> None:
        """Stop every process."""
        atexit.unregister(self.close)
        with _uninterrupted():
            self._close()

    def _close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(OSError):
                self._warm.send(None)
            slow = (process.pid,) if self._running else ()  # it may still be importing, when there is nothing to end
            Patience(ENDS_WITHIN, *slow).wait(lambda: not process.is_alive())
            self._warm.close()  # not before: where an answer can't be sent, the search was killed, and trials go on
            warm.stop_orphans(self.folder, kinds=("trial", "warm process"))
            process.join(1)
        for running in self._running.values():
            if running.client:
                running.client.close()
        self._running.clear()
        if self._experiment is not None:
            self._experiment.end()
        if self._listener:
            self._listener.close()
            self._listener = None
            (self.folder / nni_client.SOCKET).unlink(missing_ok=True)
            warm.stop_orphans(self.folder)


def _why(running: _Running, code: int) -> dict[str, str]:
    """Why a trial ended without an outcome."""
    if running.stopped:
        return dict(zip(("reason", "message"), running.stopped))
    if code == warm.UNWRITTEN:
        return {"reason": "machine", "message": "its outcome can't be written (is the disk full?)"}
    reason = "killed" if code in KILLED else "crash"
    return {"reason": reason, "message": f"the process ended with exit code {code}"}


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C, SIGTERM and SIGHUP while processes are being stopped; a second one would leave some running."""
    ending = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    signals = ending if threading.current_thread() is threading.main_thread() else ()
    old = {number: signal.signal(number, signal.SIG_IGN) for number in signals}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
