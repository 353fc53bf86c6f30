"""One, two and four worker processes on one queue; and Celery's prefork with two."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

from benchmarks.comparison.field import Field, worker_of
from benchmarks.journal import rate
from environment.waiting import wait_until

NAME = "workers"
REPETITIONS = 1
QUICK_REPETITIONS = 1

_PREFORK = ("ours", "redis", "stock", "rabbitmq", "pgmq")


def variants(field: Field) -> list[str]:
    """System, worker processes; or Celery's prefork pool."""
    counts = (1, 4) if field.quick else (1, 2, 4)
    found = [f"{name} {count}" for count in counts for name in field.peers()]
    return found + [f"{name} prefork" for name in field.present(_PREFORK)]


def run(field: Field, variant: str) -> dict[str, Any]:
    """All workers wait before the tasks come, so that none is late; from then on when all tasks are there."""
    name, how = variant.split()
    system = field.systems[name]
    known = field.known("drain", f"{name} 0ms plain", "rate", 2_000)
    processes = 1 if how == "prefork" else int(how)
    count = int(known * field.pick(2, 5) * min(processes, 2))
    with system.fresh() as ground, ExitStack() as stack:
        command = ground.prefork(2) if how == "prefork" else None  # type: ignore[attr-defined]
        workers = [
            stack.enter_context(worker_of(ground, system.concurrency, count * 2, command=command, ready=True))
            for _ in range(processes)
        ]
        ground.fill(1, count)
        filled = time.monotonic_ns()

        def done() -> bool:
            return sum(worker.journal.refresh() for worker in workers) >= count

        wait_until(done, field.pick(30, 60), "all tasks")
    for worker in workers:
        worker.journal.refresh()
    records = [record for worker in workers for record in worker.journal.records]
    numbers = [number for number, _, _ in records]
    return {
        "rate": rate([record for record in records if record[1] >= filled]),
        "tasks": len(numbers),
        "duplicates": len(numbers) - len(set(numbers)),
        "share": [len(worker.journal.records) for worker in workers],
    }
