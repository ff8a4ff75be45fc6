"""A Redis Cluster for tests."""

from __future__ import annotations

import time

from simulations.chaos.servers import HOST, START_TIMEOUT_S, NotStartedError, RedisServer, start_new


class RedisCluster:
    """Three Redis servers that share the slots of one cluster."""

    def __init__(self) -> None:
        self.nodes: list[RedisServer] = []

    @property
    def url(self) -> str:
        """Where its first node answers; that one names the others."""
        return self.nodes[0].url

    def start(self) -> None:
        """Start the nodes and make them one cluster."""
        for epoch in (1, 2, 3):
            node = start_new(RedisServer, "--cluster-enabled", "yes", "--cluster-node-timeout", "5000")
            self.nodes.append(node)
            slots = range((epoch - 1) * 16384 // 3, epoch * 16384 // 3)
            with node.client() as client:
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", epoch)
                client.execute_command("CLUSTER", "ADDSLOTS", *slots)
                for other in self.nodes[:-1]:
                    client.execute_command("CLUSTER", "MEET", HOST, other.port)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not all(map(_is_whole, self.nodes)):
            if time.monotonic() > deadline:
                raise NotStartedError("the nodes of the cluster do not find each other")
            time.sleep(0.02)

    def flush(self) -> None:
        """Empty every node."""
        for node in self.nodes:
            with node.client() as client:
                client.flushall()

    def remove(self) -> None:
        """Stop the nodes and forget their data."""
        for node in self.nodes:
            node.remove()


def _is_whole(node: RedisServer) -> bool:
    with node.client() as client:
        told = client.execute_command("CLUSTER INFO")
    return (told["cluster_state"], told["cluster_slots_ok"], told["cluster_size"]) == (
        "ok",
        "16384",
        "3",
    )
