"""The processes of a test."""

import psutil


def own_processes() -> list[psutil.Process]:
    """This process and its children, without those of the tests' Ray cluster."""
    own = psutil.Process()
    clusters = list(filter(_is_cluster, own.children()))
    others = {child.pid for p in clusters for child in [p, *p.children(recursive=True)]}
    return [own, *(p for p in own.children(recursive=True) if p.pid not in others)]


def _is_cluster(process: psutil.Process) -> bool:
    try:
        return any("ray_cluster.py" in part for part in process.cmdline())
    except psutil.Error:  # it has just ended
        return False
