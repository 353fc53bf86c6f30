"""What a worker with nothing to do asks of its server, and what it costs."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import Any

from benchmarks.cells import Cell, number
from benchmarks.run import Run, worker_of
from benchmarks.systems import System
from benchmarks.systems.clusters import without_autovacuum
from environment.testkit.measuring import memory


def measure(run: Run, system: System, how: str) -> dict[str, Any]:
    """Transactions or commands a second, milliseconds of processor time a second, megabytes of the worker."""
    seconds = run.pick(5, 10)
    calm = without_autovacuum(system.cluster) if system.cluster else nullcontext()
    with calm, system.fresh() as broker, worker_of(broker, system.concurrency, 100, ready=True) as worker:
        # Some poll quickly for a moment before they sleep.
        time.sleep(run.pick(2, 3))
        meter, before = run.meter(system, worker), broker.operations()
        time.sleep(seconds)
        spent, after = meter.stop(), broker.operations()
        return {
            "operations_s": None if before is None or after is None else (after - before) / seconds,
            "worker_ms": spent["worker"] / seconds * 1000,
            "server_ms": spent["server"] / seconds * 1000,
            **memory(worker.pid),
        }


CELL = Cell(
    "idle",
    Run.peers,
    measure,
    page=lambda run: run.peers(once=True),
    tables={
        "idle": [
            ("server operations/s", number("", "operations_s")),
            ("worker ms/s", number("", "worker_ms")),
            ("server ms/s", number("", "server_ms")),
            ("worker RSS, MB", number("", "rss_mb")),
        ]
    },
)
