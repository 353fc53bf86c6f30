"""Connections to PostgreSQL of each worker process and of a publishing program."""

from __future__ import annotations

import os
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import Row, values
from benchmarks.machine import tree
from benchmarks.processes import answer, call, start
from benchmarks.samples import Results
from benchmarks.worker import Worker

NAME = "connections"
REPETITIONS = 1
QUICK_REPETITIONS = 1

_THREADS = (1, 4, 8)


def variants(bench: Bench) -> list[str]:
    """Each pool; each number of publishing threads."""
    peers = list(bench.postgres_peers)
    pools = [f"{peer} {pool}" for peer in peers for pool in ("solo", "prefork", "threads")]
    return pools + [f"{peer} publish {number}" for peer in peers for number in _THREADS]


def run(bench: Bench, variant: str) -> dict[str, Any]:
    """The most that were open at once."""
    peer, what, *number = variant.split()
    with bench.postgres_peers[peer].fresh() as broker:
        if what == "publish":
            return _publisher(broker, int(number[0]))
        concurrency = 1 if what == "solo" else 2
        with Worker(broker, late=True, pool=what, concurrency=concurrency) as worker:
            broker.fill(1, 300 if peer == "stock" else 3_000)
            most: dict[int, int] = {}
            total = 0
            end = time.monotonic() + 4
            while time.monotonic() < end:
                counts = {pid: sockets(pid, bench.cluster.port) for pid in tree([worker.pid])}
                most = {pid: max(count, most.get(pid, 0)) for pid, count in counts.items()}
                total = max(total, _count(broker))
                time.sleep(0.05)
            # Remote control, too, wants a connection.
            with suppress(Exception):
                call("benchmarks.producer", "ping", variables=broker.variables, timeout_s=30)
            main = most.pop(worker.pid, 0)
            return {
                "main": main,
                "child": max(most.values(), default=0),
                "total": total,
                "tasks": worker.run_until(0, 0),
            }


def _publisher(broker: Any, threads: int) -> dict[str, Any]:
    process = start(["-m", "benchmarks.producer", "threads", str(threads), "3"], broker.variables, stdout=-1, stderr=-1)
    total = 0
    while process.poll() is None:
        total = max(total, _count(broker))
        time.sleep(0.05)
    return {"total": total, **answer(process, 30)}


def _count(broker: Any) -> int:
    with closing(broker.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND backend_type = 'client backend' AND application_name <> 'benchmarks'"
        )
        return int(cursor.fetchone()[0])


def sockets(pid: int, port: int) -> int:
    """Open sockets of a process whose other end is this port: an inherited one counts as well."""
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if int(words[2].split(":")[1], 16) == port:
            inodes.add(f"socket:[{words[9]}]")
    found = 0
    with suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                found += os.readlink(entry.path) in inodes
    return found


def rows(results: Results) -> list[Row]:
    """The budget."""
    found = []
    for peer in ("ours", "stock"):
        mine = peer == "ours"
        for pool in ("solo", "prefork", "threads"):
            who = f"{peer} {pool}"
            if who in results:
                main, child, total = (max(values(results, who, key)) for key in ("main", "child", "total"))
                shown = f"main {main:.0f}, child {child:.0f}, together {total:.0f}"
                found.append(Row(f"connections of a worker, {pool}, {peer}", "4 a process" if mine else "", shown))
        for number in _THREADS:
            who = f"{peer} publish {number}"
            if who in results:
                failed = sum(len(sample["failed"]) for sample in results[who])
                shown = f"{max(values(results, who, 'total')):.0f}" + (f", {failed} threads failed" if failed else "")
                found.append(
                    Row(f"connections of {number} publishing threads, {peer}", str(number) if mine else "", shown)
                )
    return found
