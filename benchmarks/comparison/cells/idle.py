"""What a worker with nothing to do asks of its server, and what it costs."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import Any

from benchmarks.clusters import without_autovacuum
from benchmarks.comparison.field import Field, worker_of
from benchmarks.machine import memory

NAME = "idle"
REPETITIONS = 1
QUICK_REPETITIONS = 1


def variants(field: Field) -> list[str]:
    """All systems with a server."""
    return field.peers()


def run(field: Field, variant: str) -> dict[str, Any]:
    """Transactions or commands a second, milliseconds of processor time a second, megabytes of the worker."""
    system = field.systems[variant]
    seconds = field.pick(5, 30)
    calm = without_autovacuum(system.cluster) if system.cluster else nullcontext()
    with calm, system.fresh() as ground, worker_of(ground, system.concurrency, 100, ready=True) as worker:
        # Some look again quickly before they sleep deeply.
        time.sleep(field.pick(2, 5))
        meter, before = field.meter(system, [worker]), ground.operations()
        time.sleep(seconds)
        spent, after = meter.stop(), ground.operations()
        return {
            "operations_s": None if before is None or after is None else (after - before) / seconds,
            "worker_ms": spent["worker"] / seconds * 1000,
            "server_ms": spent["server"] / seconds * 1000,
            **memory(worker.pid),
        }
