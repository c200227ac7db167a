"""A Ray cluster on this machine, on 127.0.0.1 alone: a head without cores and nodes of one core each.

`python ray_cluster.py NODES` prints a line of JSON for each: {"address"} for the head, then {"node", "pid"}. A further
line on its standard input, the environment of one more node as JSON, adds that; the end of the input ends it all. A
node's pid is its raylet's. The first node says that it has two GPUs, the second that it has a `meter`. Each has a
folder of its own for what it is sent, as machines have.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {
    "RAY_TMPDIR": tempfile.mkdtemp(prefix="r", dir="/tmp"),  # of a short name, since sockets lie in it
    "RAY_worker_niceness": "0",  # else other programs slow the tests down
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
}

from ray.cluster_utils import Cluster

TEMPORARY = Path(os.environ["RAY_TMPDIR"])
STORE = 80 * 2**20


def say(**entries: object) -> None:
    print(json.dumps(entries), flush=True)


def add(cluster: Cluster, number: int) -> None:
    options: dict[str, Any] = {"num_cpus": 1, "num_gpus": 0 if number else 2, "object_store_memory": STORE}
    options["resources"] = {"meter": 1} if number == 1 else {}
    try:
        node = cluster.add_node(temp_dir=tempfile.mkdtemp(dir=TEMPORARY), **options)
    except Exception:  # it must start in 30 s, which on a busy machine it may not
        node = cluster.add_node(temp_dir=tempfile.mkdtemp(dir=TEMPORARY), **options)
    say(node=node.node_id, pid=node.all_processes["raylet"][0].process.pid)


def main(nodes: int) -> None:
    (TEMPORARY / "ray").mkdir()  # where Ray writes its address down without making the folder
    folder = tempfile.mkdtemp(dir=TEMPORARY)
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE, "temp_dir": folder}
    head["include_log_monitor"] = False  # no search asks for the logs of Ray's own processes
    cluster = Cluster(initialize_head=True, head_node_args=head)
    say(address=cluster.address)
    for number in range(nodes):
        add(cluster, number)
    for number, line in enumerate(sys.stdin, nodes):
        os.environ |= json.loads(line)
        add(cluster, number)
    cluster.shutdown()
    shutil.rmtree(TEMPORARY, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
