"""Hooks: functions of a user's file at the points of real searches, on every engine, and the shipped ones."""

import contextlib
import doctest
import getpass
import io
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from inline import inline
from places import ROOT
from processes import LONG, wait_until

from yolov5_nas.cli import main
from yolov5_nas.errors import TrialError, UserError
from yolov5_nas.files import shipped
from yolov5_nas.records import hooks as module
from yolov5_nas.records.hooks import POINTS, Hooks, as_given, find_hook, keep_hooks, kept_hooks, read_hook, split
from yolov5_nas.records.journal import read_journal
from yolov5_nas.run.prepare import settings_of
from yolov5_nas.run.resume import _same_hook, resumed_options
from yolov5_nas.training.trial import measure_architecture

DOCS = ROOT / "docs" / "hooks.md"
FAST = ["--epochs", "1", "--subset", "0.1", "--imgsz", "64", "--device", "cpu", "--seed", "5"]
RECORDER = """
from pathlib import Path

FILE = ""

def note(*words):
    with Path(FILE).open("a") as file:
        print(*words, file=file)

def on_search_start(run, options): note("on_search_start", run.name, options["trials"])
def on_trial_start(trial): note("on_trial_start", trial.number, trial.state)
def on_train_epoch_end(epoch, model, folder): note("on_train_epoch_end", epoch, type(model).__name__, folder.name)
def on_fit_epoch_end(vals, epoch, best_fitness, fi): note("on_fit_epoch_end", len(vals), epoch, best_fitness == fi)
def on_trial_end(trial): note("on_trial_end", trial.number, trial.state, trial.metrics.get("relus"))
def on_search_end(run, trials): note("on_search_end", len(trials))
"""
BROKEN = """
def measure(): raise RuntimeError("no meter\\nhere")
def on_trial_start(trial): raise ValueError("broken on purpose")
def on_train_epoch_end(**given): raise SystemExit("left")
"""


def example():
    """The hook of docs/hooks.md, and the command beside it."""
    text = DOCS.read_text()
    code = re.search(r"```python\n(# relus.py\n.*?)```", text, re.DOTALL)
    command = re.search(r"^(yolov5-nas search .*--hook relus.py.*)$", text, re.MULTILINE)
    return code[1], shlex.split(command[1])[1:]


def write(folder, name, text):
    (folder / name).write_text(text)
    return folder / name


def shipped_hook(name):
    return vars(module._module(find_hook(name)))


# A search with hooks --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(host, digits_yaml, tmp_path_factory):
    """The command of the docs, with a hook that notes what runs and one that raises; and what it printed."""
    folder = tmp_path_factory.mktemp("hooks")
    code, command = example()
    write(folder, "relus.py", code)
    recorder = f"{write(folder, 'recorder.py', RECORDER)} FILE={folder / 'noted.txt'}"
    broken = write(folder, "broken.py", BROKEN)
    flags = [*FAST, "--data", str(digits_yaml), "--trials", "2", "--engine", "local", "--project", str(folder)]
    line = [*command, *flags, "--hook", recorder, "--hook", str(broken)]
    if find_spec("wandb"):
        line += ["--hook", "wandb_logger PROJECT=mine"]
    printed = io.StringIO()
    with inline(), pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("WANDB_MODE", "offline")
        patch.chdir(folder)
        assert main(line) == 0
    return folder / "exp", printed.getvalue()


def test_a_metric_of_the_docs_works_as_a_constraint(run):
    records = read_journal(run[0])
    relus = {r.number: sum(a == "ReLU" for n, a in r.architecture.items() if n.endswith("_act")) for r in records}
    assert relus[0] == records[0].metrics["relus"] == 0  # stock YOLOv5 has SiLU alone
    assert [r.state == "complete" for r in records] == [r.metrics["relus"] <= 8 for r in records]
    assert sum(r.state == "complete" for r in records) == 2
    assert re.search(r"trial 0  stock .* relus 0  ", run[1])  # the terminal shows it
    assert "estimate for 1 more: about" in run[1]
    assert all(r.metrics["relus"] >= relus[r.number] for r in records)  # a C3's choice counts for each of its layers


def test_every_point_runs_in_order_with_its_arguments(run):
    noted = (run[0].parent / "noted.txt").read_text().splitlines()
    records = read_journal(run[0])
    assert noted[0] == "on_search_start exp 2" and noted[-1] == f"on_search_end {len(records)}"
    start = noted.index("on_trial_start 0 started")
    rest = ["on_train_epoch_end 0 DetectionModel 0", "on_fit_epoch_end 13 0 True", "on_trial_end 0 complete 0"]
    assert noted[start + 1 : start + 4] == rest
    ended = [line.split()[1:3] for line in noted if line.startswith("on_trial_end")]
    assert ended == [[str(r.number), r.state] for r in records]


def test_a_hook_that_raises_is_reported_once_and_the_search_goes_on(run):
    folder, printed = run
    assert printed.count("hook broken.py on_trial_start: ValueError: broken on purpose") == 1
    assert printed.count("hook broken.py measure: RuntimeError: no meter") == 1
    assert printed.count("hook broken.py on_train_epoch_end: SystemExit: left") == 1
    log = (folder / "hooks.log").read_text()
    assert log.count("Traceback") == 1 and 'raise ValueError("broken on purpose")' in log
    assert (folder / "trials/0/log.txt").read_text().count('raise RuntimeError("no meter') == 1
    problems = read_journal(folder)[0].conditions["hooks"]
    assert problems == {
        "broken.py measure": "RuntimeError: no meter",
        "broken.py on_train_epoch_end": "SystemExit: left",
    }


def test_a_resumed_run_has_its_hooks_and_says_if_a_file_changed(run, tmp_path, capsys):
    folder, _ = run
    (folder.parent / "broken.py").unlink()
    write(folder.parent, "relus.py", "def measure(): return {'relus': 100}")
    assert main(["search", "--resume", str(folder)]) == 0
    assert f"relus.py has changed since the search began; it goes on with its copy, {folder}" in capsys.readouterr().out
    given = yaml.safe_load((folder / "search.yaml").read_text())["hook"]
    for same in (given, [Path(given[0]).name, *given[1:]]):
        options = resumed_options(folder, {"hook": same})
        assert list(options.hook) == given
        assert settings_of(folder, options).hooks[0].text == example()[0]
    other = write(tmp_path, "other.py", "def on_trial_end(): pass")
    assert main(["search", "--resume", str(folder), "--hook", str(other)]) == 2
    assert "a resumed run keeps its options: hook is" in capsys.readouterr().err


def test_an_objective_of_a_hook_is_reported(run, tmp_path):
    shutil.copytree(run[0], tmp_path / "exp", ignore=shutil.ignore_patterns("*.html", "*.csv", "*.png"))
    options = yaml.safe_load((tmp_path / "exp/search.yaml").read_text()) | {"objectives": ["map50_95", "relus"]}
    write(tmp_path, "exp/search.yaml", yaml.safe_dump(options))
    assert main(["report", str(tmp_path / "exp")]) == 0
    assert "relus" in (tmp_path / "exp/results.csv").read_text().splitlines()[0].split(",")
    assert "relus" in (tmp_path / "exp/report.html").read_text() and (tmp_path / "exp/pareto.png").exists()


def test_a_needed_metric_that_no_hook_gave_fails_the_trial_with_the_reason(small_settings, tmp_path):
    good, bad = (
        write(tmp_path, "relus.py", example()[0]),
        write(tmp_path, "bad.py", "def measure(): raise OSError('no meter')"),
    )
    for needed, metrics in ((("relus",), {"relus": 0}), ((), {})):  # what costs time is measured where it is needed
        s = replace(small_settings, hooks=(read_hook(good),), needed=needed)
        found = measure_architecture(s.space.default(), s, with_latency=False).metrics
        assert {name: value for name, value in found.items() if name == "relus"} == metrics
    for files, reason in (((good,), "they measured relus"), ((good, bad), "bad.py measure: OSError: no meter")):
        s = replace(small_settings, hooks=tuple(map(read_hook, files)), needed=("relu",))
        with pytest.raises(TrialError) as e:
            measure_architecture(s.space.default(), s, with_latency=False)
        assert (e.value.reason, e.value.message) == ("hook", f"no hook measured relu ({reason})")


# Files that are no hooks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("\ndef on_epoch_end(): pass", "hook.py:2: unknown hook, got 'on_epoch_end'; accepted: on_search_start"),
        ("def on_trial_end(record): pass", "hook.py:1: on_trial_end can't take such an argument, got 'record'"),
        ("x = 1", "hook.py: a hook file must have a function of a known point"),
        ("measure = 1", "hook.py: measure must be a function, got 1"),
        ("x = 1\ndef measure(:", "hook.py:2: a hook file must be importable (SyntaxError"),
        ("\nimport no_such_module", "hook.py:2: a hook file must be importable (ModuleNotFoundError"),
        ("raise SystemExit", "hook.py:1: a hook file must be importable (SystemExit"),
    ],
)
def test_what_is_wrong_with_a_hook_file_is_said(text, error, tmp_path):
    with pytest.raises(UserError, match=re.escape(error)):
        read_hook(write(tmp_path, "hook.py", text))


def test_every_argument_of_every_point_can_be_taken_or_left(tmp_path):
    for point, arguments in POINTS.items():
        for taken in ("", ", ".join(arguments), "**given", "*, " + arguments[0], arguments[0] + ", mine=1"):
            read_hook(write(tmp_path, "hook.py", f"def {point}({taken}): pass"))


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("no_such", "hook file (--hook) does not exist, got 'no_such.py'"),
        ("energy WATTS=1", "energy.py: a setting must be NAME=value of a constant of the file, got 'WATTS=1'"),
        ("energy SECONDS", "got 'SECONDS'; accepted: SECONDS, BATCH, POWERCAP, WARM_UP"),
        ("energy BATCH=1.5", "the setting BATCH must be of the type int, got '1.5'"),
        ("energy SECONDS=nan", "the setting SECONDS must be of the type float, got 'nan'"),
        ("energy 'BATCH=1", "--hook can't be read (No closing quotation)"),
        ("x" * 300, "hook file (--hook) does not exist, got 'xxx"),
    ],
)
def test_a_hook_that_is_not_there_or_has_no_such_setting_is_an_error(given, error):
    with pytest.raises(UserError, match=re.escape(error)):
        find_hook(given)


def test_a_setting_is_the_same_number_however_it_is_written(tmp_path):
    path = write(tmp_path, "hook.py", "RATE = 0.1\ndef on_trial_end(): pass")
    hook = read_hook(path, ["RATE=0.00001"])
    assert read_hook(path, split(as_given(hook))[1:]) == hook
    assert _same_hook(as_given(hook), f"{path} RATE=0.00001") and _same_hook(f"{path} RATE=5.0", f"{path} RATE=5")
    assert not _same_hook(as_given(hook), f"{path} RATE=0.0001")


def test_the_ends_of_lines_are_no_change_of_a_file(tmp_path, capsys):
    path = tmp_path / "hook.py"
    path.write_bytes(b"def on_trial_end():\r\n    pass\r\n")
    keep_hooks(tmp_path / "run", [read_hook(path)])
    kept_hooks(tmp_path / "run", [str(path)])
    assert capsys.readouterr().out == ""


def test_bad_hooks_leave_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "a.py", "def on_trial_end(): pass")
    (tmp_path / "b").mkdir()
    write(tmp_path, "b/a.py", "def measure(): return {}")
    assert main(["search", "--hook", "a.py", "--hook", "b/a.py"]) == 2
    assert main(["search", "--hook", "a.py", "--constraint", "relus<=8"]) == 2
    assert main(["search", "--hook", "b/a.py", "--constraint", "map50<=8"]) == 2
    assert main(["search", "--hook", "a.py", "--objectives", "map50_95", "relus"]) == 2
    first, *others = capsys.readouterr().err.splitlines()
    assert "hook files must have different names" in first
    assert all("accepted: " in line and "what the measure of a --hook gives" in line for line in others)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("returned", "metrics", "problem"),
    [
        ("{'a': 1, 'b': torch.tensor(2.5), 'c': __import__('numpy').float32(3)}", {"a": 1, "b": 2.5, "c": 3}, None),
        ("None", {}, "it must return a dict of numbers, got None"),
        ("{'a': 1, 'b': float('nan')}", {"a": 1}, "it must return finite numbers, got b = nan"),
        ("{'a': True, 'b': torch.zeros(2), 'c': 'x'}", {}, "it must return finite numbers, got a = True"),
        ("{'params': 1, 'a': 2}", {"a": 2}, "a metric can't be named 'params'"),
    ],
)
def test_numbers_become_metrics_and_nothing_else(returned, metrics, problem, tmp_path):
    hook = read_hook(write(tmp_path, "hook.py", f"import torch\ndef measure(model): return {returned}"))
    hooks = Hooks([hook])
    assert hooks.measured(torch.nn.ReLU(), 64, "cpu") == metrics
    assert hooks.problems == ({"hook.py measure": problem} if problem else {})


def test_the_examples_in_docstrings_are_true():
    assert doctest.testmod(module).failed == 0


# energy ---------------------------------------------------------------------------------------------------------------


def zone(powercap, name, label, microjoules, most=10_000_000):
    (powercap / name).mkdir(parents=True)
    for file, value in (("name", label), ("energy_uj", microjoules), ("max_energy_range_uj", most)):
        (powercap / name / file).write_text(f"{value}\n")


def test_energy_counts_packages_and_memory_and_a_counter_that_starts_again(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 9_000_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 1_000_000)  # in the package already
    zone(tmp_path, "intel-rapl:0:1", "dram", 2_000_000)
    zone(tmp_path, "intel-rapl:1", "psys", 5_000_000)  # holds the package
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 5_000_000)  # the same package by another way
    energy = shipped_hook("energy")
    read = energy["rapl_counter"](tmp_path)
    before = read()
    (tmp_path / "intel-rapl:0/energy_uj").write_text("3000000")  # 1 J to the end, and 3 J
    (tmp_path / "intel-rapl:0:1/energy_uj").write_text("2500000")
    (tmp_path / "intel-rapl:0:0/energy_uj").write_text("8000000")
    assert energy["joules_between"](before, read()) == pytest.approx(4.5)


def test_energy_divides_by_the_images(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    measured = []

    class Model(torch.nn.Module):
        """Takes 2 J an image of its counter."""

        def forward(self, images):
            measured.append(images.shape)
            (tmp_path / "intel-rapl:0/energy_uj").write_text(str(2_000_000 * len(measured) * len(images) % 10_000_000))

    hook = find_hook(f"energy SECONDS=0.0 BATCH=4 POWERCAP={tmp_path}")
    energy = vars(module._module(hook))
    energy["time"] = Clock()
    assert energy["measure"](Model(), 64, "cpu") == {"joules_per_image": pytest.approx(2)}
    assert measured[0] == (4, 3, 64, 64)


class Clock:
    """Lets one pass through."""

    def __init__(self):
        self.times = iter([0.0, -1.0, 1.0])

    def perf_counter(self):
        return next(self.times)


def test_energy_says_clearly_what_is_missing(tmp_path):
    energy = shipped_hook("energy")
    with pytest.raises(RuntimeError, match=r"no energy counter: no GPU is used, and .* has no RAPL zone"):
        energy["rapl_counter"](tmp_path / "none")
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    (tmp_path / "intel-rapl:0/energy_uj").unlink()
    (tmp_path / "intel-rapl:0/energy_uj").mkdir()  # root may read any file, but no folder
    with pytest.raises(RuntimeError, match=r"can't be read: sudo chmod a\+r .*/intel-rapl:\*/energy_uj"):
        energy["rapl_counter"](tmp_path)


def test_energy_on_this_machine(host):
    """A number where the machine has a counter that may be read; else the line that says what to do."""
    hooks = Hooks([find_hook("energy SECONDS=0.5")])
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    model = host.build(yaml.safe_load((host.location.root / "models/yolov5n.yaml").read_text())).to(device).eval()
    with torch.no_grad():
        metrics = hooks.measured(model, 64, device)
    if metrics:
        assert 0 < metrics["joules_per_image"] < 100
    else:
        (problem,) = hooks.problems.values()
        assert re.search("no energy counter|can't be read: sudo chmod|pip install nvidia-ml-py", problem)


# remote_latency -------------------------------------------------------------------------------------------------------

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
HAS_SSHD = bool(SSHD and shutil.which("ssh") and shutil.which("ssh-keygen"))


@pytest.fixture
def sshd(tmp_path):
    """A server on 127.0.0.1 with keys of its own; gives ssh's options."""
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    known = " ".join((tmp_path / "host.pub").read_text().split()[:2])
    write(tmp_path, "known_hosts", f"[127.0.0.1]:{port} {known}\n")
    shutil.copy(tmp_path / "user.pub", tmp_path / "authorized_keys")
    config = {
        "ListenAddress": "127.0.0.1",
        "Port": port,
        "HostKey": tmp_path / "host",
        "AuthorizedKeysFile": tmp_path / "authorized_keys",
        "PidFile": "none",
        "UsePAM": "no",
        "StrictModes": "no",
        "PasswordAuthentication": "no",
        "Subsystem": "sftp internal-sftp",
    }
    file = write(tmp_path, "sshd_config", "".join(f"{key} {value}\n" for key, value in config.items()))
    Path("/run/sshd").mkdir(exist_ok=True)  # where sshd of Debian gives up its rights
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(file)], stderr=(tmp_path / "sshd.log").open("w"))

    def answers():
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(answers)
    options = ["IdentitiesOnly=yes", f"UserKnownHostsFile={tmp_path}/known_hosts", f"Port={port}"]
    yield f"-F none -i {tmp_path}/user " + " ".join(f"-o {option}" for option in options)
    server.terminate()
    server.wait(LONG)


def remote(command, ssh, folder, **more):
    settings = {"HOST": f"{getpass.getuser()}@127.0.0.1", "COMMAND": command, "SSH": ssh, "FOLDER": str(folder), **more}
    return find_hook(shlex.join(["remote_latency", *(f"{name}={value}" for name, value in settings.items())]))


@pytest.mark.skipif(not HAS_SSHD, reason="sshd or ssh is not installed")
def test_remote_latency_runs_the_docs_script_over_ssh(sshd, host, tmp_path):
    script = re.search(r"```python\n(# time_onnx.py\n.*?)```", DOCS.read_text(), re.DOTALL)[1]
    file = write(tmp_path, "time_onnx.py", script)
    folder = tmp_path / "there"
    folder.mkdir()
    model = host.build(yaml.safe_load((host.location.root / "models/yolov5n.yaml").read_text())).eval().fuse()
    command = f"{sys.executable} {file} {{model}}"
    for precision in ("fp32", "int8"):
        hooks = Hooks([remote(command, sshd, folder, PRECISION=precision)])
        metrics = hooks.measured(model, 64, "cpu")
        assert not hooks.problems
        assert 0.1 < metrics["remote_ms"] < 1000
    assert not list(folder.iterdir())  # nothing is left on the device


@pytest.mark.skipif(not HAS_SSHD, reason="sshd or ssh is not installed")
def test_remote_latency_says_what_went_wrong(sshd, tmp_path):
    folder = tmp_path / "there"
    folder.mkdir()
    file = write(tmp_path, "model.onnx", "no model")
    for command, error in (
        ("echo no onnxruntime >&2; false {model}", "no onnxruntime"),
        ("echo fast; true {model}", "printed no number but 'fast"),
    ):
        run = vars(module._module(remote(command, sshd, folder)))["remote_milliseconds"]
        with pytest.raises(RuntimeError, match=error):
            run(file)
        assert not list(folder.iterdir())
    (tmp_path / "known_hosts").write_text("")  # a host that was never seen is not taken
    run = vars(module._module(remote("echo 1 {model} ", sshd, folder)))["remote_milliseconds"]
    with pytest.raises(RuntimeError, match="Host key verification failed"):
        run(file)
    with pytest.raises(RuntimeError, match="set HOST and COMMAND"):
        shipped_hook("remote_latency")["measure"](None, 64)


# wandb_logger ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not find_spec("wandb"), reason="wandb is not installed")
def test_wandb_logger_writes_a_run_for_each_trial(run):
    records = [r for r in read_journal(run[0]) if r.state == "complete"]
    files = list(run[0].glob("wandb/offline-run-*/run-*.wandb"))
    wait_until(lambda: all("reward" in read_wandb(file)["summary"] for file in files))  # its own process writes them
    found = [read_wandb(file) for file in files]
    assert sorted(run["name"] for run in found) == sorted(f"trial {r.number}" for r in records)
    assert {run["group"] for run in found} == {f"{run[0].parent.name}/exp"}
    first = next(run for run in found if run["name"] == "trial 0")
    assert first["config"]["architecture"] == dict(records[0].architecture)
    assert first["config"]["trials"] == 2
    assert first["summary"]["relus"] == 0
    assert first["summary"]["reward"] == records[0].reward
    assert first["history"] == [records[0].curve[0]["map50_95"]]


def test_yolov5_leaves_the_mode_of_wandb_alone(host, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    host.module("utils.callbacks")
    assert os.environ["WANDB_MODE"] == "offline"


def read_wandb(file):
    """What is in wandb's own file of a run."""
    from wandb.proto import wandb_internal_pb2

    found = {"config": {}, "summary": {}, "history": []}
    for data in log_records(file.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        if record.HasField("run"):
            found |= {"name": record.run.display_name, "group": record.run.run_group}
            found["config"] |= {i.key: json.loads(i.value_json) for i in record.run.config.update}
        for item in record.summary.update:
            found["summary"][item.key or item.nested_key[0]] = json.loads(item.value_json)
        values = {i.key or i.nested_key[0]: json.loads(i.value_json) for i in record.history.item}
        if "map50_95" in values:
            found["history"].append(values["map50_95"])
    return found


def log_records(data):
    """The records of LevelDB's log format after wandb's 7 bytes: blocks of 32 KiB, parts of CRC, length, kind, data."""
    at, record = 7, b""
    while at + 7 <= len(data):
        if (left := 2**15 - at % 2**15) < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def test_shipped_hooks_are_found_by_their_names():
    assert {path.stem for path in shipped("hooks").glob("*.py")} == {"energy", "remote_latency", "wandb_logger"}
    for name in ("energy", "remote_latency.py", "wandb_logger"):
        assert find_hook(name).functions
