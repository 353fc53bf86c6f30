"""Throughput with a thousand to a million tasks waiting."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.cells import Cell, number
from benchmarks.figures import window
from benchmarks.run import Feeder, Run, worker_of
from benchmarks.systems import System

LENGTHS = (1_000, 10_000, 100_000, 1_000_000)
_FIRST = 1_000
#: Seconds that filling a queue may take.
_PATIENCE_S = 60


def measure(run: Run, system: System, how: str) -> dict[str, Any]:
    """Tasks a second while the queue keeps its length."""
    backlog = int(how)
    with system.fresh() as broker:
        feeder = Feeder(broker, backlog)
        began = time.monotonic()
        feeder.fill(_FIRST)
        if backlog > _FIRST:
            feeder.fill(min(5 * _FIRST, backlog - _FIRST))
        needed = (time.monotonic() - began) / feeder.given * backlog
        if backlog >= 100_000 and needed > _PATIENCE_S:
            return {"rate": None, "reason": f"filling it would take {needed:.0f} s"}
        feeder.fill()
        filled = time.monotonic() - began
        with worker_of(broker, system.concurrency, 500_000) as worker:
            worker.run_until(1, 120)
            meter = run.meter(system, worker)
            feeder.feed(worker, run.pick(3, 4))
            spent = meter.stop()
            return {**window(worker.journal.records, spent), "fill_s": filled}


#: A million takes long to fill: for ours, and one of each kind.
_LONG = ("ours", "redis", "pgqueuer")


def _page(run: Run) -> list[str]:
    return [
        *(f"{name} {LENGTHS[2]}" for name in run.peers(once=True)),
        *(f"{name} {length}" for length in (LENGTHS[0], LENGTHS[3]) for name in run.present(*_LONG)),
    ]


CELL = Cell(
    "backlog",
    lambda run: [f"{name} {length}" for length in LENGTHS[: 2 if run.quick else 4] for name in run.peers()],
    measure,
    page=_page,
    tables={"backlog": [(f"{length:,}", number(str(length), "rate")) for length in LENGTHS]},
)
