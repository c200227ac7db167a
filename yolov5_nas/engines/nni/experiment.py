"""NNI's side of the engine: an experiment whose strategy takes the architectures that the search hands it."""

from __future__ import annotations

import json
import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from ..contract import EngineError
from . import client as nni_client
from .patience import Patience

with warnings.catch_warnings():  # two RuntimeWarnings about names in torch that NNI 3.0 does not know
    warnings.simplefilter("ignore")
    import nni
    import nni_node
    import websockets
    from nni.experiment import RunMode, rest
    from nni.nas.evaluator import FunctionalEvaluator
    from nni.nas.experiment import NasExperiment, NasExperimentConfig
    from nni.nas.strategy.base import Strategy
    from nni.runtime.command_channel.websocket import connection
    from nni.tools.nnictl.config_utils import Experiments

from .space import SymbolicSpace

NODE = Path(nni_node.__path__[0]) / "node"
PRELOAD = Path(__file__).with_name("preload.js")
VERSIONS = {  # as NNI's own `collect_version_info` has them
    "nniVersion": nni.__version__,
    "nniPath": nni.__path__[0],
    "pythonVersion": "{}.{}.{}-{}-{}".format(*sys.version_info),
    "pythonPath": sys.executable,
}
STARTS_WITHIN, SETTLES_WITHIN, ENDS_WITHIN = 60.0, 3.0, 15.0  # seconds of an idle machine
REQUEST_ENDS_WITHIN = 60.0  # seconds


class Queue(Strategy):
    """Submits what is put into `models`, until None is."""

    def __init__(self) -> None:
        super().__init__()
        self.models: queue.SimpleQueue[SymbolicSpace | None] = queue.SimpleQueue()
        self.submitted: list[SymbolicSpace] = []  # NNI itself holds weak references only
        self.running = threading.Event()

    def _run(self) -> None:  # what a strategy of NNI's overrides
        self.running.set()
        while (model := self.models.get()) is not None:
            self.submitted.append(model)
            self.engine.submit_models(model)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the search's journal holds the state."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing."""


class Experiment(NasExperiment):
    """An NNI experiment of a `SymbolicSpace`, run in a thread, with all its files in one folder.

    Args:
        folder: for NNI's files, that is, the run's folder / nni.
        space: the choices that the portal shows.
        slots: trials at a time.
    """

    def __init__(self, folder: Path, space: SymbolicSpace, slots: int, host: str, name: str):
        config = NasExperimentConfig("ts", "simplified", "local")
        config.experiment_name = name
        config.trial_concurrency = slots  # trial_gpu_number stays unset: with it NNI starts processes without end
        config.experiment_working_directory = str(folder)
        config.nni_manager_ip = "127.0.0.1"  # else it looks for the machine's outer address
        # The one way to another trial command: NNI itself appends "-m nni.nas.execution.training_service trial".
        client = [sys.executable, "-I", "-S", nni_client.__file__, str(folder)]
        config._trial_command_params = {"python": shlex.join(client)}
        self.queue = Queue()
        super().__init__(space, FunctionalEvaluator(dict), self.queue, config)  # the evaluator is never called
        self.folder, self.host = folder, host
        self.error: BaseException | None = None
        self.ending = False

    def executable_model_factory(self, config: Any) -> SymbolicSpace:
        """The space as it is; NNI's own takes torch modules only."""
        return self.model_space

    def launch(self, port: int) -> None:
        """Start the manager and the strategy's thread.

        Raises:
            EngineError: the manager did not come up.
        """
        self.thread = threading.Thread(target=self._start_in_thread, args=(port,), daemon=True, name="nni")
        self.patience = Patience(STARTS_WITHIN)
        self.thread.start()
        while not self.queue.running.wait(0.05):
            if self.error or self.patience.is_over():
                message = f"{type(self.error).__name__}: {self.error}" if self.error else "no answer"
                raise EngineError(f"NNI's manager did not start ({message}); its log is {self.folder}/manager.log")

    def _start_in_thread(self, port: int) -> None:
        try:
            self.start(port, run_mode=RunMode.Detach)  # in the other modes it registers a clean-up of its own
        except BaseException as e:
            self.error = e

    # In place of NNI's own, which writes to ~/nni-experiments, prints, and gives the manager this process' environment.
    def _start_nni_manager(self, port: int, *_: Any, **__: Any) -> None:
        self._tuner_command_channel = f"ws://localhost:{port}/tuner"  # where NNI's own puts it for the engine
        arguments = {
            "port": port,
            "experiment-id": self.id,
            "action": "create",
            "mode": "local",
            "experiments-directory": self.folder,
            "log-level": "info",
            "tuner-command-channel": self._tuner_command_channel,
            "python-interpreter": sys.executable,
        }
        flags = [text for key, value in arguments.items() for text in (f"--{key}", str(value))]
        if self.ending:  # Ctrl-C came before the manager did
            raise EngineError("it was stopped")
        with (self.folder / "manager.log").open("ab") as log:
            self._proc = subprocess.Popen(
                [str(NODE), "--max-old-space-size=4096", "main.js", *flags],
                cwd=NODE.parent,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that Ctrl-C does not reach it
            )
        self.port = port
        self.patience.watch(self._proc.pid)
        self._wait_for_manager()
        # The portal looks its own experiment up in this list, which NNI's launcher writes.
        Experiments(str(self.folder / "nni-experiments")).add_experiment(
            self.id,
            port,
            int(time.time() * 1000),
            "local",
            self.config.experiment_name,
            pid=self._proc.pid,
            logDir=str(self.folder),
            tag=["retiarii"],
        )
        rest.post(port, "/experiment", self.config.canonical_copy().json())

    def _environment(self) -> dict[str, str]:
        """The manager's: with our preload, and a home in the run's folder for its list of experiments."""
        options = f'--require "{PRELOAD}" {os.environ.get("NODE_OPTIONS", "")}'.strip()
        own = {"YOLOV5_NAS_HOST": self.host, "YOLOV5_NAS_VERSIONS": json.dumps(VERSIONS)}
        return {**os.environ, "NODE_OPTIONS": options, "HOME": str(self.folder), **own}

    def _wait_for_manager(self) -> None:
        """Wait until it answers or ends; `launch` gives up, if need be, and then ends it."""
        while not (self._has_port() and self._answers()):
            if self._proc.poll() is not None:
                raise EngineError(f"it ended with exit code {self._proc.returncode}")
            time.sleep(0.1)

    def _has_port(self) -> bool:
        """Whether it is our manager that listens on the port: another search's may have taken it first."""
        return self.port in {address.port for address in self.listening()}

    def _answers(self) -> bool:
        try:
            return "status" in rest.get(self.port, "/check-status")
        except (OSError, ValueError):  # requests' errors are OSErrors; before it is ready it answers no JSON
            return False

    def listening(self) -> list[Any]:
        """The addresses on which the manager and what it started listen, as the system knows them."""
        try:
            manager = psutil.Process(self._proc.pid)
            processes = [manager, *manager.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
        return [c.laddr for p in processes for c in _connections(p) if c.status == psutil.CONN_LISTEN]

    @property
    def pid(self) -> int:
        """The manager's."""
        return self._proc.pid

    def is_alive(self) -> bool:
        """Whether the manager runs."""
        return self._proc is not None and self._proc.poll() is None

    def end(self) -> None:
        """Stop the manager and all that it started, whatever state they are in."""
        self.ending = True
        self.queue.models.put(None)
        rest.timeout = REQUEST_ENDS_WITHIN  # a manager that hangs would never answer
        manager = self._proc
        if manager is None:
            return
        try:
            if self._has_port():
                self._settle()
                rest.delete(self.port, "/experiment")
                Patience(ENDS_WITHIN, manager.pid).wait(lambda: manager.poll() is not None)
        except (OSError, ValueError):  # requests' errors are OSErrors
            pass
        with suppress(ProcessLookupError):
            os.killpg(manager.pid, signal.SIGKILL)  # a stand-in that was just starting is in its group too
        manager.wait()
        if self._engine is not None:
            # `shutdown` would wait for its thread, which after a crash of the manager still tries to reach it.
            self._engine._channel_listen_stop_event.set()
        self._stop_logging()

    def _settle(self) -> None:
        """Let the manager, which looks twice a second, see that trials ended, so that its database is whole."""
        Patience(SETTLES_WITHIN, self._proc.pid).wait(self._is_settled)

    def _is_settled(self) -> bool:
        return not {trial["status"] for trial in rest.get(self.port, "/trial-jobs")} & {"WAITING", "RUNNING"}


def _connections(process: psutil.Process) -> list[Any]:
    try:
        return process.net_connections("inet")
    except psutil.Error:
        return []


async def _connect(url: str) -> Any:
    """Connect without deadlines. By default websockets drops a peer that answers no ping for 20 s.

    NNI connects again then, but an architecture that was on its way is lost.
    """
    return await websockets.connect(url, max_size=None, open_timeout=None, ping_interval=None)


def prepare() -> None:
    """Keep NNI's messages off the terminal (its log file gets them), and its requests to this machine off a proxy.

    NNI's own deadlines go: a manager may be slow, and whether it has had its time is known by `Patience` alone.
    """
    nni.silence_stdout()
    connection._connect_async = _connect
    rest.timeout = None
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "localhost", "127.0.0.1"]))
