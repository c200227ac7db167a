"""What is a machine's fault is not booked to an architecture: the search stops, and a resume goes on."""

import errno
import os
import subprocess

import fake_trials
import pytest
from inline import inline, untrained
from loops import loop

from yolov5_nas.cli import main
from yolov5_nas.engines.contract import Job, MachineError, call_trial
from yolov5_nas.errors import TrialError, machine_fault
from yolov5_nas.records.journal import Journal, read_journal

FLAGS = ["--epochs", "1", "--imgsz", "64", "--device", "cpu", "--trials", "3", "--engine", "local"]


# A full disk, at every stage ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A disk of 24 MB."""
    folder = tmp_path_factory.mktemp("disk")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], capture_output=True)
    if made.returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk, free):
    """Leave so many bytes free."""
    left = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with (disk / "filler").open("wb") as file:
        file.write(bytes(max(0, left - free)))


@pytest.mark.parametrize(
    ("kilobytes", "expected"),
    [
        *((4, 2), (80, 3), (4500, 3)),  # before the start, in the first trial, and at the second's weights
        *(pytest.param(n, None, marks=pytest.mark.slow) for n in (0, 12, 28, 40, 300, 1500, 4100, 6000, 9000)),
    ],
)
def test_a_disk_that_is_full_at_any_stage_ends_the_search_and_a_resume_goes_on(
    host, digits_yaml, disk, capsys, kilobytes, expected
):
    run = disk / f"runs/{kilobytes}"
    flags = ["--data", digits_yaml, "--project", run.parent, "--name", run.name, *FLAGS]
    run.parent.mkdir(exist_ok=True)
    fill(disk, kilobytes * 1024)
    with inline(), untrained():
        code = main(["search", *map(str, flags)])
        assert code == expected or expected is None
        err = capsys.readouterr().err.strip()
        assert "Traceback" not in err
        if code == 2:  # it had not begun
            assert "can't be written" in err and not run.exists()
        elif code == 3:
            last = err.splitlines()[-1]
            assert last.startswith("error: ") and last.endswith(f"go on with: yolov5-nas search --resume {run}")
            assert {r.state for r in Journal(run / "trials.jsonl").records} <= {"started", "complete"}
        (disk / "filler").unlink()
        if code == 2:
            assert main(["search", *map(str, flags)]) == 0
        else:
            assert main(["search", "--resume", str(run)]) == 0
    records = read_journal(run)
    assert [r.state for r in records] == ["complete"] * 3
    ended = [r.number for r in Journal(run / "trials.jsonl").records if r.done]
    assert sorted(ended) == [0, 1, 2]  # none twice
    assert (run / "report.html").stat().st_size > 10_000
    assert (run / "best/weights/best.pt").stat().st_size > 1_000_000
    subprocess.run(["rm", "-rf", run], check=True)


# Other faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_a_fault_of_the_machine_ends_the_search_and_the_trial_is_tried_again(tmp_path, number):
    broken = {2}

    def trial(architecture, settings, seed, folder):
        if int(folder.name) in broken:
            raise OSError(number, os.strerror(number), "a file")
        return fake_trials.quick(architecture, settings, seed, folder)

    def as_engines_call_it(architecture, settings, seed, folder):
        return call_trial(trial, Job(int(folder.name), architecture, seed), settings, folder.parent.parent)

    with pytest.raises(MachineError, match=f"trial 2 can't go on: {os.strerror(number)}: a file"):
        loop(tmp_path, 5, as_engines_call_it).run()
    assert [r.state for r in Journal(tmp_path / "trials.jsonl").trials.values()] == ["complete", "complete", "started"]
    broken.clear()
    again = loop(tmp_path, 5, as_engines_call_it)
    again.run()
    assert [(r.state, r.attempt) for r in again.journal.trials.values()] == [
        ("complete", 1 + (n == 2)) for n in range(5)
    ]
    assert [r.id for r in again.journal.trials.values()] == ids_of_a_search_without_faults(tmp_path)


def ids_of_a_search_without_faults(tmp_path):
    folder = tmp_path / "whole"
    folder.mkdir()
    whole = loop(folder, 5)
    whole.run()
    return [r.id for r in whole.journal.trials.values()]


def test_a_trial_that_was_killed_twice_is_tried_again_by_a_resume(tmp_path):
    killed = {0, 3}

    def trial(architecture, settings, seed, folder):
        if int(folder.name) in killed:
            raise TrialError("killed", "the process ended with exit code -9")
        return fake_trials.quick(architecture, settings, seed, folder)

    first = loop(tmp_path, 5, trial)
    assert first.run() == "all 5 trials are done"
    assert [r.state == "failed" for r in first.journal.trials.values()] == [n in killed for n in range(5)]
    killed.clear()
    again = loop(tmp_path, 5, trial)
    again.run()
    records = again.journal.trials.values()
    assert [(r.number, r.state, r.attempt) for r in records] == [
        (n, "complete", 3 if n in (0, 3) else 1) for n in range(5)
    ]
    assert len({r.id for r in records}) == 5
    third = loop(tmp_path, 5, trial)
    third.run()
    assert len(third.journal.records) == len(again.journal.records)  # nothing is left to do


@pytest.mark.parametrize("strategy", ["additive", "evolution", "random", "tpe", "nsga2"])
def test_every_strategy_takes_a_second_outcome(host, digits_yaml, tmp_path, strategy, monkeypatch):
    from yolov5_nas.run import pipeline

    killed = {1}

    def trial(architecture, settings, seed, folder):
        if int(folder.name) in killed:
            raise TrialError("killed", "the process ended with exit code -9")
        return fake_trials.curved(architecture, settings, seed, folder)

    monkeypatch.setattr(pipeline, "run_trial", trial)
    flags = ["--data", digits_yaml, "--project", tmp_path, *FLAGS, "--trials", "6", "--strategy", strategy]
    with inline():
        assert main(["search", *map(str, flags)]) == 0
        killed.clear()
        assert main(["search", "--resume", str(tmp_path / "exp"), "--trials", "8"]) == 0
    assert [r.state for r in read_journal(tmp_path / "exp")] == ["complete"] * 8


def test_a_search_whose_stock_trial_failed_is_not_called_done(host, digits_yaml, tmp_path, capsys, monkeypatch):
    from yolov5_nas.run import pipeline

    def trial(architecture, settings, seed, folder):
        if folder.name == "0":
            raise TrialError("crash", "broken on purpose")
        return fake_trials.curved(architecture, settings, seed, folder)

    monkeypatch.setattr(pipeline, "run_trial", trial)
    with inline():
        assert main(["search", "--data", str(digits_yaml), "--project", str(tmp_path), *FLAGS]) == 1
    out = capsys.readouterr().out
    assert "trial 0, stock YOLOv5, has failed (broken on purpose), and all others are compared with it" in out
    assert [r.number for r in read_journal(tmp_path / "exp")] == [0]


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/model.onnx")


HOOK = "import os\n\ndef measure():\n    raise OSError(28, os.strerror(28))\n"
REWARD = "import os\n\ndef f(metrics):\n    raise OSError(28, os.strerror(28))\n"


@pytest.mark.parametrize("place", ["latency", "hook", "reward"])
def test_a_disk_that_is_full_where_something_is_measured(host, digits_yaml, tmp_path, monkeypatch, capsys, place):
    from yolov5_nas.cost import measure

    own = tmp_path / "own.py"
    flags = ["--data", digits_yaml, "--project", tmp_path, *FLAGS]
    with inline(), untrained(), pytest.MonkeyPatch.context() as patch:
        if place == "latency":
            patch.setattr(measure, "latency", full)
        else:
            own.write_text(HOOK if place == "hook" else REWARD)
            flags += ["--hook", own] if place == "hook" else ["--reward", f"{own}:f"]
        assert main(["search", *map(str, flags)]) == 3
    assert "No space left on device" in (err := capsys.readouterr().err) and err.strip().endswith("exp")
    if place == "latency":
        with inline(), untrained():
            assert main(["search", "--resume", str(tmp_path / "exp")]) == 0
        assert [r.state for r in read_journal(tmp_path / "exp")] == ["complete"] * 3
    else:
        assert [r.state for r in read_journal(tmp_path / "exp")] == ["started"]


def test_memory_that_is_short_is_told_from_a_crash():
    from yolov5_nas.training.process import is_out_of_memory

    text = (
        "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    )
    assert is_out_of_memory(RuntimeError(text))


def test_faults_are_told_from_errors():
    assert machine_fault(OSError(errno.ENOSPC, "No space left on device", "x")) == "No space left on device: x"
    writing = RuntimeError("[enforce fail at inline_container.cc:659] . unexpected pos 128 vs 0")
    said = f"a file can't be written whole: the disk is full or was taken away ({writing})"
    assert machine_fault(writing) == said
    for text in (
        "Caught OSError in DataLoader worker process 0.\nOSError: [Errno 28] No space left on device",
        "[Errno 24] Too many open files: 'x'",
    ):
        assert machine_fault(OSError(text))  # without a number, as torch raises a loader's again
    for text, meaning in (
        ("DataLoader worker (pid(s) 4711) exited unexpectedly", "a process that loads images was killed"),
        ("DataLoader worker (pid 4711) is killed by signal: Bus error. ", "a process that loads images was killed"),
        ("unable to open shared memory object </torch_1_2>: Too many open files (24)", "too many files are open"),
        ("received 0 items of ancdata", "too many files are open"),
        (
            "unable to mmap 8 bytes from file </torch_1_2>: Cannot allocate memory (12)",
            "shared memory (/dev/shm) is full",
        ),
    ):
        said = machine_fault(RuntimeError(text))
        assert said.startswith(meaning) and f"({text.strip()})" in said
    for error in (FileNotFoundError(errno.ENOENT, "none"), RuntimeError("sizes"), BrokenPipeError(errno.EPIPE, "pipe")):
        assert machine_fault(error) is None
