"""How fast one worker process empties a queue that was filled before it started."""

from __future__ import annotations

from typing import Any

from benchmarks.comparison.field import Field, distinct, operations_each, waiting
from benchmarks.journal import rate

NAME = "drain"
REPETITIONS = 3
QUICK_REPETITIONS = 1

#: Systems that keep what a task returns, and whose worker may do it in this comparison.
WITH_RESULTS = (
    "ours",
    "redis",
    "redis-always",
    "stock",
    "rabbitmq",
    "rabbitmq-db",
    "dramatiq",
    "pgmq",
    "pgboss",
)


def variants(field: Field) -> list[str]:
    """System, length of a task, whether results are stored.  Long tasks one at a time, empty ones as the system is
    fastest."""
    lengths = (0,) if field.quick else (0, 1, 10)
    found = [f"{name} {ms}ms plain" for ms in lengths for name in field.peers(ceilings=ms == 0)]
    return found + [f"{name} 0ms results" for name in field.present(WITH_RESULTS)]


def run(field: Field, variant: str) -> dict[str, Any]:
    """Tasks in a second by the worker's own clock, and who used the processors meanwhile."""
    name, length, kept = variant.split()
    system = field.systems[name]
    seconds = int(length.removesuffix("ms")) / 1000
    limit_s = field.pick(3, 8)
    concurrency = 1 if seconds else system.concurrency
    # More than the fastest takes in that time; one that is not emptied is measured as well.
    ceiling = 1 / seconds if seconds else field.pick(5_000, _guess(field, name))
    count = int(ceiling * limit_s)
    with system.fresh(results=kept == "results") as ground:
        ground.fill(1, count, seconds)
        with field.worker(ground, concurrency, count + 1_000) as worker:
            worker.run_until(1, 60)
            meter, before, seen = field.meter(system, [worker]), ground.operations(), worker.journal.refresh()
            reached = worker.run_until(count, limit_s)
            spent, after = meter.stop(), ground.operations()
            measured = list(worker.journal.records)
        ended = distinct(worker)
        metered = max(1, reached - seen)
        return {
            "rate": rate(measured),
            **ended,
            "waiting": waiting(ground),
            "filled": count,
            "worker_us": spent["worker"] / metered * 1e6,
            "server_us": spent["server"] / metered * 1e6,
            "operations": operations_each(before, after, metered),
            "concurrency": concurrency,
        }


def _guess(field: Field, name: str) -> float:
    """Tasks a second that it will not exceed: what it did before, and half as much again."""
    return field.known(NAME, f"{name} 0ms plain", "rate", 10_000) * 1.5
