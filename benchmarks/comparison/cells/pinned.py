"""Throughput while somebody's forgotten transaction keeps PostgreSQL from removing dead rows."""

from __future__ import annotations

from contextlib import closing
from statistics import mean
from typing import Any

from benchmarks.comparison.field import OVER_TIME, Field, connect, worker_of
from benchmarks.journal import curve
from benchmarks.relations import pin, sizes
from benchmarks.steady import Feeder, window

NAME = "pinned"
REPETITIONS = 1
QUICK_REPETITIONS = 1

_BACKLOG = 3_000


def variants(field: Field) -> list[str]:
    """System, state: clean and pinned, one after the other."""
    return [f"{name} {state}" for name in field.present(OVER_TIME) for state in ("clean", "pinned")]


def run(field: Field, variant: str) -> dict[str, Any]:
    """Tasks started in each second, and what the tables have become."""
    name, state = variant.split()
    system = field.systems[name]
    seconds = field.pick(8, 180 if state == "pinned" else 20)
    with system.fresh() as ground, closing(connect(ground)) as holder, closing(connect(ground)) as looking:
        if state == "pinned":
            pin(holder)
        feeder = Feeder(ground.fill, _BACKLOG)
        feeder.fill()
        with worker_of(ground, system.concurrency, 2_000_000) as worker:
            worker.run_until(1, 60)
            meter = field.meter(system, [worker])
            feeder.feed(worker, seconds)
            spent = meter.stop()
            records = list(worker.journal.records)
        over_time = curve(records)
        quarter = over_time[-max(1, len(over_time) // 4) :]
        return {
            **window(records, spent),
            "last_quarter": mean(quarter) if quarter else 0.0,
            "curve": over_time,
            **sizes(looking, ground.tables()),
        }
