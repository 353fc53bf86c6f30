"""How many connections one server bears: idle ones beside a load, active ones, and the memory of each."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from statistics import mean
from typing import Any

import psycopg2

from benchmarks.cells import Cell, ceiling
from benchmarks.cells.scale_parts import ours
from benchmarks.cells.scale_publishers import STATEMENTS
from benchmarks.run import Run
from benchmarks.systems.databases import PgBench
from environment.testkit import measuring

COUNTS = (10, 50, 100, 250, 500)
#: Of the server: so many beside a load.
MAX_CONNECTIONS = 700
#: Clients that work beside the idle connections.
_BESIDE = 4
#: Connections whose time is taken before pgbench opens its own.
_TRIED = 5
#: Connections whose memory is read.
_READ = 20


def variants(run: Run) -> list[str]:
    """Idle or active connections."""
    if ceiling.program(ours(run).cluster) is None:
        return []
    return [f"{how} {count}" for count in ((10, 500) if run.quick else COUNTS) for how in ("idle", "active")]


def measure(run: Run, variant: str) -> dict[str, Any]:
    """Durable inserts a second: of so many clients, or of four beside so many idle connections; for these also the
    milliseconds that a new one takes, and the private memory of its server process in MB."""
    how, number = variant.split()
    clients = _BESIDE if how == "idle" else int(number)
    cluster = ours(run).cluster
    program = ceiling.program(cluster)
    with PgBench(cluster).fresh() as broker, ExitStack() as stack:
        found = _idle(stack, broker.url, int(number) if how == "idle" else _TRIED)
        # pgbench connects one client after the other, within its time.
        seconds = round(run.pick(2, 5) + 1.5 * clients * found["connect_ms"] / 1000)
        tps = ceiling.pgbench(program, broker.url, STATEMENTS["plain"], seconds, clients)
        return {**(found if how == "idle" else {}), "tps": tps}


def _idle(stack: ExitStack, url: str, count: int) -> dict[str, float]:
    """Open connections that have each looked at a table, as a worker's have."""
    took, pids = [], []
    for _ in range(count):
        begin = time.perf_counter()
        connection = stack.enter_context(closing(psycopg2.connect(url)))
        took.append((time.perf_counter() - begin) * 1000)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM kombu_message JOIN kombu_queue ON kombu_queue.id = queue_id")
        pids.append(connection.info.backend_pid)
    return {
        "connect_ms": mean(took),
        "connection_mb": mean(measuring.memory(pid)["uss_mb"] for pid in pids[-_READ:]),
    }


CELL = Cell("connections", variants, measure, per_system=False, repetitions=1)
