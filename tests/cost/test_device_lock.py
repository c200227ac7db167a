"""Trainings and measurements of several processes take turns on a device, and nobody waits for ever."""

import itertools
import os
import signal
import subprocess
import sys
import time

import pytest
from places import ROOT

from yolov5_nas.cost import device_lock
from yolov5_nas.cost.device_lock import NOTICE, DeviceLock, LockedLoader, own_folder

TRAINS = """
import sys, time
from yolov5_nas.cost.device_lock import DeviceLock, LockedLoader
for batch in LockedLoader(range(10**6), DeviceLock(sys.argv[1], patience=300)):
    start = time.monotonic()
    print("in its turn", flush=True)
    time.sleep(float(sys.argv[2] or 0.01))
    print(start, time.monotonic(), flush=True)
"""
MEASURES = """
import sys, time
from yolov5_nas.cost.device_lock import DeviceLock
while True:
    with DeviceLock(sys.argv[1], patience=300).measuring():
        start = time.monotonic()
        print("in its turn", flush=True)
        time.sleep(float(sys.argv[2] or 0.2))
        print(start, time.monotonic(), flush=True)
"""


@pytest.fixture
def device():
    return f"test-{time.monotonic_ns()}"


@pytest.fixture
def start(device):
    """Starts processes that train or measure without end, each in its first turn; kills them afterwards."""
    processes = []

    def begin(script, seconds=""):
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", script, device, str(seconds)]
        processes.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
        processes[-1].stdout.readline()
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def turns_of(process, count=None):
    """When each turn of a process began and ended: of its next ones, or of all until now, when it is killed."""
    if count is None:
        process.kill()
    lines = process.stdout.read().split("\n")[:-1] if count is None else iter(process.stdout.readline, None)
    turns = (tuple(map(float, line.split())) for line in lines if line.count(".") == 2)
    return list(itertools.islice(turns, count))


def test_no_batch_of_any_process_runs_while_a_measurement_does(device, start):
    trainings = [start(TRAINS), start(TRAINS)]
    spans = []
    for _ in range(4):
        with DeviceLock(device).measuring():
            begin = time.monotonic()
            time.sleep(0.1)
            spans.append((begin, time.monotonic()))
    batches = [batch for training in trainings for batch in turns_of(training)]
    assert not [1 for batch in batches for span in spans if span[0] < batch[1] and batch[0] < span[1]]
    for (_, end), (begin, _) in itertools.pairwise(spans):
        assert any(end < batch[0] < begin for batch in batches)  # they went on between measurements


def test_who_measures_without_pause_leaves_trainings_the_greater_part_of_the_time(start):
    trainings = [start(TRAINS), start(TRAINS)]
    measurements = [start(MEASURES), start(MEASURES)]
    spans = sorted(span for p in measurements for span in turns_of(p, 4))
    batches, begin, end = turns_of(trainings[0]), spans[0][0], spans[-1][1]
    measured = sum(b - a for a, b in spans)
    assert measured / (end - begin) < 0.45  # a third, and the first one without a pause before it
    assert all(b <= c for (_, b), (c, _) in itertools.pairwise(spans))
    assert len([1 for a, _ in batches if begin < a < end]) > len(spans)


def test_where_nobody_trains_measurements_follow_each_other(device):
    waited = []
    for _ in range(3):
        with DeviceLock(device, sleep=waited.append).measuring():
            time.sleep(0.2)
    assert waited == []


def test_a_dead_training_keeps_nobody_waiting(device, start):
    process = start(TRAINS)
    process.kill()
    process.wait()
    with DeviceLock(device).measuring():
        pass


@pytest.mark.parametrize("script", [TRAINS, MEASURES], ids=["training", "measurement"])
def test_a_stopped_holder_keeps_others_for_as_long_as_their_patience_alone(device, start, script, capsys):
    stopped = start(script, 3)
    while stopped.stdout.readline() != "in its turn\n":
        pass
    stopped.send_signal(signal.SIGSTOP)
    lock = DeviceLock(device, patience=0.5)
    with lock.measuring():
        pass
    with lock.training():
        start(TRAINS)  # others find the way free already
    assert "was not given back in 0.5 s: going on without its holder" in capsys.readouterr().out
    stopped.send_signal(signal.SIGCONT)
    assert stopped.stdout.readline()  # it goes on, as one of many


def test_who_waits_for_longer_than_a_minute_says_so_once(device, capsys):
    now = [1000.0]

    def sleep(seconds):
        now[0] += 1.0
        if now[0] > 1000 + 3 * NOTICE:
            held.close()

    held = device_lock._locked(DeviceLock(device).queue, device_lock.LockFlags.EXCLUSIVE)
    os.utime(held.name, (1000.0, 1000.0))
    with DeviceLock(device, clock=lambda: now[0], sleep=sleep).training():
        pass
    assert capsys.readouterr().out.count("still waiting for the device test-") == 1


def test_a_loader_left_in_the_middle_gives_its_turn_back(device):
    loader = LockedLoader([1, 2, 3], DeviceLock(device))
    for batch in loader:
        if batch == 2:
            break
    loader.close()
    with DeviceLock(device).measuring():
        pass
    assert list(loader) == [1, 2, 3]
    assert len(loader) == 3


@pytest.mark.parametrize(
    ("visible", "name", "expected"),
    [
        (None, "cuda:1", "cuda-1"),
        ("2,3", "cuda:1", "cuda-3"),
        ("3", "cuda:0", "cuda-3"),
        ("GPU-5a", "cuda:0", "cuda-GPU-5a"),
        ("3", "cpu", "cpu"),
    ],
)
def test_a_gpu_has_one_lock_whatever_a_process_sees(monkeypatch, visible, name, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert DeviceLock(name).device.name == f"{expected}.device"


def test_a_folder_that_is_anothers_is_left_to_them(tmp_path, monkeypatch):
    first = own_folder(tmp_path)
    assert own_folder(tmp_path) == first
    monkeypatch.setattr(os, "getuid", lambda: first.stat().st_uid + 1)
    taken = tmp_path / f"yolov5-nas-{first.stat().st_uid + 1}"
    taken.touch()  # no folder at all
    others = own_folder(tmp_path)
    assert others not in (first, taken)
