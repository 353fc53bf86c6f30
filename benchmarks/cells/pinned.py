"""Throughput while somebody's forgotten transaction keeps PostgreSQL from removing dead rows."""

from __future__ import annotations

from contextlib import closing
from statistics import mean
from typing import Any

from benchmarks.cells import Cell, number
from benchmarks.figures import curve, middle, shown, window
from benchmarks.run import OVER_TIME, Feeder, Run, worker_of
from benchmarks.samples import Results
from benchmarks.systems import System
from benchmarks.systems.clusters import connect, pin, sizes

_BACKLOG = 3_000
#: How long the transaction lasts on the page.
PINNED_S = 45


def measure(run: Run, system: System, how: str) -> dict[str, Any]:
    """Tasks started in each second, and the sizes of the tables afterwards."""
    seconds = run.pick(8, PINNED_S if how == "pinned" else 10)
    with system.fresh() as broker, closing(connect(broker.url)) as holder, closing(connect(broker.url)) as watcher:  # type: ignore[attr-defined]
        if how == "pinned":
            pin(holder)
        feeder = Feeder(broker, _BACKLOG)
        feeder.fill()
        with worker_of(broker, system.concurrency, 2_000_000) as worker:
            worker.run_until(1, 60)
            meter = run.meter(system, worker)
            feeder.feed(worker, seconds)
            spent = meter.stop()
            records = list(worker.journal.records)
        over_time = curve(records)
        quarter = over_time[-max(1, len(over_time) // 4) :]
        return {
            **window(records, spent),
            "last_quarter": mean(quarter) if quarter else 0.0,
            "curve": over_time,
            **sizes(watcher, broker.tables()),
        }


def _megabytes(results: Results, name: str) -> str:
    table_bytes, index_bytes = (middle(results, f"{name} pinned", key) for key in ("table_bytes", "index_bytes"))
    return shown(None if table_bytes is None or index_bytes is None else (table_bytes + index_bytes) / 1e6)


def _page(run: Run) -> list[str]:
    """Without what is slow enough to leave few dead rows."""
    return [name for name in run.present(*OVER_TIME) if name != "stock"]


CELL = Cell(
    "pinned",
    lambda run: [f"{name} {state}" for name in run.present(*OVER_TIME) for state in ("clean", "pinned")],
    measure,
    page=lambda run: [f"{name} {how}" for name in _page(run) for how in ("clean", "pinned")],
    tables={
        "pinned": [
            ("clean, tasks/s", number("clean", "rate")),
            ("pinned", number("pinned", "rate")),
            ("its last quarter", number("pinned", "last_quarter")),
            ("dead rows", number("pinned", "dead_tuples")),
            ("tables and indexes, MB", _megabytes),
        ]
    },
)
