"""A Ray cluster on this machine, on 127.0.0.1 alone: a head without cores and nodes of one core each.

`python ray_cluster.py NODES` prints a line of JSON for each: {"address"} for the head, then {"node", "pid"}. A further
line on its standard input adds a node; the end of the input ends it all. A node's pid is its raylet's.
"""

from __future__ import annotations

import json
import os
import sys

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}

from ray.cluster_utils import Cluster

STORE = 80 * 2**20


def say(**entries: object) -> None:
    print(json.dumps(entries), flush=True)


def add(cluster: Cluster, number: int) -> None:
    options = {"num_cpus": 1, "object_store_memory": STORE, "resources": {f"n{number}": 1}}
    try:
        node = cluster.add_node(**options)
    except Exception:  # it must start in 30 s, which on a busy machine it may not
        node = cluster.add_node(**options)
    say(node=node.node_id, pid=node.all_processes["raylet"][0].process.pid)


def main(nodes: int) -> None:
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    say(address=cluster.address)
    for number in range(nodes):
        add(cluster, number)
    for number, _ in enumerate(sys.stdin, nodes):
        add(cluster, number)
    cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
