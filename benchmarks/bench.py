"""What a cell is given: the servers of this run, and how much time there is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from benchmarks import servers
from benchmarks.machine import Meter
from benchmarks.peers import MemoryPeer, Peer, PostgresPeer, RedisPeer, our_transport_is_there
from environment.temporary import TemporaryCluster


@dataclass(frozen=True)
class Bench:
    """A run.

    :ivar quick: minutes instead of an hour.
    :ivar peers: by name; one whose server or package is missing is absent.
    :ivar cluster: the PostgreSQL.
    """

    quick: bool
    peers: dict[str, Peer]
    cluster: TemporaryCluster

    @property
    def postgres_peers(self) -> dict[str, PostgresPeer]:
        """Those that lie in PostgreSQL."""
        return {name: peer for name, peer in self.peers.items() if isinstance(peer, PostgresPeer)}

    def present(self, *names: str) -> list[str]:
        """Those of the named peers that are there."""
        return [name for name in names if name in self.peers]

    def pick(self, quick: float, full: float) -> float:
        """One of two amounts."""
        return quick if self.quick else full

    def meter(self, peer: Peer, worker: int | None = None) -> Meter:
        """CPU of a sample: the worker's, the server's, ours, everybody else's."""
        return Meter({"worker": [] if worker is None else [worker], "server": peer.pids(), "harness": [os.getpid()]})


@contextmanager
def open_bench(*, quick: bool, major: int, results: bool = False) -> Iterator[Bench]:
    """Start the servers; stop them afterwards.

    :param results: tasks have results, which lie where the messages do.
    """
    with ExitStack() as stack:
        cluster = stack.enter_context(servers.postgres(major))
        peers: dict[str, Peer] = {}
        if our_transport_is_there():
            peers["ours"] = PostgresPeer(cluster, ours=True, results=results)
        if servers.Redis.is_available():
            peers["redis"] = RedisPeer(stack.enter_context(servers.Redis()), results=results)
        peers["stock"] = PostgresPeer(cluster, ours=False, results=results)
        peers["memory"] = MemoryPeer()
        yield Bench(quick, peers, cluster)
