"""One, two and four worker processes on one queue; and Celery's prefork with two."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import Any

from benchmarks.cells import Cell, number
from benchmarks.figures import rate
from benchmarks.run import Run, worker_of
from benchmarks.systems import System
from environment.waiting import wait_until


def variants(run: Run) -> list[str]:
    """Worker processes; or Celery's prefork pool."""
    found = [f"{name} {count}" for count in ((1, 4) if run.quick else (1, 2, 4)) for name in run.peers()]
    return found + [f"{name} prefork" for name in run.that("prefork")]


def measure(run: Run, system: System, how: str) -> dict[str, Any]:
    """The queue is filled before the workers start; tasks count from the time when the last worker has begun."""
    known = run.known("drain", f"{system.name} 0ms plain", "rate", 2_000)
    processes, children = (1, 2) if how == "prefork" else (int(how), 1)
    pool = {"pool": "prefork"} if how == "prefork" else {}
    # For so many seconds, and for what the first workers have done when the last begins.
    count = int(known * (run.pick(2, 5) * min(processes, 2) + run.pick(2, 4)))
    with system.fresh() as broker, ExitStack() as stack:
        broker.fill(1, count)
        concurrency = children if pool else system.concurrency
        workers = [stack.enter_context(worker_of(broker, concurrency, count * 2, **pool)) for _ in range(processes)]

        def done() -> bool:
            return sum(worker.journal.refresh() for worker in workers) >= count

        # On a slow day those that were done count.
        with suppress(TimeoutError):
            wait_until(done, run.pick(10, 20), "all tasks")
    for worker in workers:
        worker.journal.refresh()
    records = [record for worker in workers for record in worker.journal.records]
    firsts = [own[0][1] for worker in workers for own in worker.journal.by_process.values() if own]
    together = [record for record in records if record[1] >= max(firsts)]
    if len(firsts) < processes * children or len(together) < len(records) / 5:
        raise RuntimeError(f"of {len(records)} tasks {len(together)} were left when all had begun: {len(firsts)} have")
    numbers = [number for number, _, _ in records]
    return {
        "rate": rate(together),
        "tasks": len(numbers),
        "duplicates": len(numbers) - len(set(numbers)),
        "share": [len(worker.journal.records) for worker in workers],
    }


CELL = Cell(
    "workers",
    variants,
    measure,
    tables={
        "workers": [
            ("1 process", number("1", "rate")),
            ("2", number("2", "rate")),
            ("4", number("4", "rate")),
            ("prefork, 2 children", number("prefork", "rate")),
        ]
    },
)
