"""The processes of a test, and how long it waits for one."""

import time
from collections.abc import Callable

import psutil

LONG = 300.0  # seconds, which nothing takes that a test waits for, on the busiest machine


def own_processes() -> list[psutil.Process]:
    """This process and its children, without those of the tests' Ray cluster."""
    own = psutil.Process()
    clusters = list(filter(_is_cluster, own.children()))
    others = {child.pid for p in clusters for child in [p, *p.children(recursive=True)]}
    return [own, *(p for p in own.children(recursive=True) if p.pid not in others)]


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


def _is_cluster(process: psutil.Process) -> bool:
    try:
        return any("ray_cluster.py" in part for part in process.cmdline())
    except psutil.Error:  # it has just ended
        return False
