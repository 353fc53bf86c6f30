"""How fast one worker process empties a queue that was filled before it started."""

from __future__ import annotations

from typing import Any

from benchmarks.comparison.field import Field, distinct, operations_each, waiting, worker_of
from benchmarks.journal import rate

NAME = "drain"
REPETITIONS = 3
QUICK_REPETITIONS = 1

#: Systems that keep what a task returns, and whose worker may do it in this comparison.  Not pg-boss: 5,000 tasks begin
#: at once, and their results are stored one by one in the seconds after, so that starts say nothing.
WITH_RESULTS = (
    "ours",
    "redis",
    "redis-always",
    "stock",
    "rabbitmq",
    "rabbitmq-db",
    "dramatiq",
    "pgmq",
)

#: Whose acknowledgement can come before the task, as Celery's default has it, or after it.
EARLY_OR_LATE = ("ours", "redis", "rabbitmq")

#: Tasks a second, roughly, on two processors of 2026: so many are filled in that the fastest sample is not cut short,
#: and not more, since a long queue is a question of its own (``backlog``).
_ROUGH = {
    "ours": 11_000,
    "here": 11_000,
    "before": 11_000,
    "stock": 700,
    "redis": 2_000,
    "redis-always": 2_000,
    "rabbitmq": 3_000,
    "pgmq": 2_000,
    "procrastinate": 1_100,
    "pgqueuer": 35_000,
    "graphile": 60_000,
    # 40,000 where no more than 20,000 wait, which it has done in half a second: its page says what a long queue costs.
    "pgboss": 15_000,
    "dramatiq": 4_500,
    "memory": 15_000,
    "psycopg2-one": 6_000,
    "psycopg2-batch": 180_000,
}


def variants(field: Field) -> list[str]:
    """System, length of a task; whether results are stored, or tasks acknowledged late.  Long tasks one at a time,
    empty ones as the system is fastest."""
    lengths = (0,) if field.quick else (0, 1, 10)
    found = [f"{name} {ms}ms plain" for ms in lengths for name in field.peers(ceilings=ms == 0)]
    stored = ("ours", "redis", "stock") if field.quick else WITH_RESULTS
    found += [f"{name} 0ms results" for name in field.present(stored)]
    return found if field.quick else found + [f"{name} 0ms late" for name in field.present(EARLY_OR_LATE)]


def run(field: Field, variant: str) -> dict[str, Any]:
    """Tasks in a second by the worker's own clock, and who used the processors meanwhile."""
    name, length, kept, *pool = variant.split()
    system = field.systems[name]
    seconds = int(length.removesuffix("ms")) / 1000
    limit_s = field.pick(3, 4)
    concurrency = 1 if seconds else system.concurrency
    # One that is not emptied in that time is measured as well.
    count = int((1 / seconds if seconds else _ROUGH[name] * 1.2) * limit_s)
    with system.fresh(results="results" in kept) as ground:
        ground.fill(1, count, seconds)
        command = ground.prefork(2) if pool == ["prefork"] else None  # type: ignore[attr-defined]
        with worker_of(ground, concurrency, count + 1_000, late="late" in kept, command=command) as worker:
            worker.run_until(1, 60)
            meter, before, seen = field.meter(system, [worker]), ground.operations(), worker.journal.refresh()
            reached = worker.run_until(count, limit_s)
            spent, after = meter.stop(), ground.operations()
            measured = list(worker.journal.records)
        ended = distinct(worker)
        metered = max(1, reached - seen)
        return {
            "rate": rate(measured, skip_s=1.0),
            **ended,
            "waiting": waiting(ground),
            "filled": count,
            "worker_us": spent["worker"] / metered * 1e6,
            "server_us": spent["server"] / metered * 1e6,
            "operations": operations_each(before, after, metered),
            "concurrency": concurrency,
        }
