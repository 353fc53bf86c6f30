"""Connections to the server: of a worker's processes, and of a program in which a thousand threads wait for results."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.cells import Cell, number
from benchmarks.run import Run, worker_of
from benchmarks.systems import System
from benchmarks.systems.celery_systems import PROGRAM
from environment.testkit.children import answer, start
from environment.testkit.measuring import tree

_THREADS = 1000
_POOLS = {"solo": 1, "threads": 2, "prefork": 2}


def measure(run: Run, system: System, how: str) -> dict[str, Any]:
    """The most that were open at once, by their sockets: an inherited one counts as well."""
    if how == "waiters":
        return _waiters(system)
    with system.fresh() as broker:
        port = urlsplit(broker.variables["BENCH_BROKER"]).port or 0
        with worker_of(broker, _POOLS[how], 10_000, ready=True, late=True, pool=how) as worker:
            broker.fill(1, 3_000 if system.name == "ours" else 300)
            most: dict[int, int] = {}
            end = time.monotonic() + 4
            while time.monotonic() < end:
                counts = {pid: sockets(pid, port) for pid in tree([worker.pid])}
                most |= {pid: max(count, most.get(pid, 0)) for pid, count in counts.items()}
                time.sleep(0.05)
            main = most.pop(worker.pid)
            return {"main": main, "child": max(most.values(), default=0), "tasks": worker.run_until(0, 0)}


def _waiters(system: System) -> dict[str, Any]:
    with system.fresh(results=True) as broker, worker_of(broker, 1, 10_000, ready=True, late=True):
        port = urlsplit(broker.variables["BENCH_BROKER"]).port or 0
        process = start(["-m", PROGRAM, "waiters", _THREADS, 1], broker.variables)
        most = 0
        while process.poll() is None:
            most = max(most, sockets(process.pid, port))
            time.sleep(0.1)
        return {"most": most, **answer(process)}


def sockets(pid: int, port: int) -> int:
    """Return how many open sockets of a process have this port at their other end."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {f"socket:[{words[9]}]" for words in lines if int(words[2].split(":")[1], 16) == port}
    found = 0
    with suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                found += os.readlink(entry.path) in inodes
    return found


CELL = Cell(
    "connections",
    lambda run: [
        *(f"{name} {pool}" for name in run.present("ours", "stock") for pool in _POOLS),
        *(f"{name} waiters" for name in run.present("ours", "redis")),
    ],
    measure,
    tables={
        "connections": [
            *((f"{pool}: main, a child", number(pool, "main", "child", mark=", ")) for pool in _POOLS),
            (f"{_THREADS:,} threads that wait", number("waiters", "most")),
        ]
    },
)
