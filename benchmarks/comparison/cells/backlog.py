"""Throughput with a thousand to a million tasks waiting."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.comparison.field import Field, worker_of
from benchmarks.steady import Feeder, window

NAME = "backlog"
REPETITIONS = 1
QUICK_REPETITIONS = 1

_LENGTHS = (1_000, 10_000, 100_000, 1_000_000)
_FIRST = 1_000
#: Nobody waits longer than this for a queue to be filled.
_PATIENCE_S = 90


def variants(field: Field) -> list[str]:
    """System, length."""
    lengths = _LENGTHS[:2] if field.quick else _LENGTHS
    return [f"{name} {length}" for length in lengths for name in field.peers()]


def run(field: Field, variant: str) -> dict[str, Any]:
    """Tasks in a second while the queue keeps its length."""
    name, length = variant.split()
    system, backlog = field.systems[name], int(length)
    with system.fresh() as ground:
        feeder = Feeder(ground.fill, backlog)
        began = time.monotonic()
        feeder.fill(_FIRST)
        if backlog > _FIRST:
            feeder.fill(min(5 * _FIRST, backlog - _FIRST))
        needed = (time.monotonic() - began) / feeder.given * backlog
        if backlog >= 100_000 and needed > _PATIENCE_S:
            return {"rate": None, "reason": f"filling it would take {needed:.0f} s"}
        feeder.fill()
        filled = time.monotonic() - began
        with worker_of(ground, system.concurrency, 500_000) as worker:
            worker.run_until(1, 120)
            meter = field.meter(system, [worker])
            feeder.feed(worker, field.pick(3, 6))
            spent = meter.stop()
            return {**window(worker.journal.records, spent), "fill_s": filled}
