"""One, two and four worker processes on one queue; and Celery's prefork with two."""

from __future__ import annotations

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
    """The queue is filled before the workers start; they are counted from then on when the last of them has begun."""
    name, how = variant.split()
    system = field.systems[name]
    known = field.known("drain", f"{name} 0ms plain", "rate", 2_000)
    processes, children = (1, 2) if how == "prefork" else (int(how), 1)
    # For so many seconds, and for what the first have done when the last begins.
    count = int(known * (field.pick(2, 5) * min(processes, 2) + field.pick(2, 4)))
    with system.fresh() as ground, ExitStack() as stack:
        ground.fill(1, count)
        command = ground.prefork(children) if how == "prefork" else None  # type: ignore[attr-defined]
        workers = [
            stack.enter_context(worker_of(ground, system.concurrency, count * 2, command=command))
            for _ in range(processes)
        ]

        def done() -> bool:
            return sum(worker.journal.refresh() for worker in workers) >= count

        wait_until(done, field.pick(30, 60), "all tasks")
    for worker in workers:
        worker.journal.refresh()
    records = [record for worker in workers for record in worker.journal.records]
    firsts = [own[0][1] for worker in workers for own in worker.journal.by_process.values() if own]
    together = [record for record in records if record[1] >= max(firsts)]
    if len(firsts) < processes * children or len(together) < count / 5:
        raise RuntimeError(f"of {count} tasks {len(together)} were left when all had begun: {len(firsts)} have")
    numbers = [number for number, _, _ in records]
    return {
        "rate": rate(together),
        "tasks": len(numbers),
        "duplicates": len(numbers) - len(set(numbers)),
        "share": [len(worker.journal.records) for worker in workers],
    }
