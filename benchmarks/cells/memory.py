"""Memory of a worker: when it is ready, and after 20,000 tasks."""

from __future__ import annotations

from typing import Any

from benchmarks.cells import Cell, spread
from benchmarks.run import Run, worker_of
from benchmarks.systems import System
from environment.testkit import measuring
from environment.waiting import wait_until

TASKS = 20_000


def measure(run: Run, system: System, how: str) -> dict[str, Any]:
    """Megabytes of an idle worker, and of the same worker after its tasks."""
    with system.fresh() as broker, worker_of(broker, system.concurrency, TASKS * 2, ready=True) as worker:
        idle = measuring.memory(worker.pid)
        broker.fill(1, TASKS)
        done = worker.run_until(TASKS, 120)
        # The last acknowledgements are sent after the last task.
        wait_until(lambda: broker.waiting() in (None, 0), 10, "the queue to be empty")
        after = measuring.memory(worker.pid)
    return {"tasks": done, **{f"idle_{key}": value for key, value in idle.items()}, **after}


CELL = Cell(
    "memory",
    lambda run: run.present("ours", "redis"),
    measure,
    repetitions=2,
    tables={
        "memory": [
            ("idle, RSS MB", spread("", "idle_rss_mb")),
            ("USS", spread("", "idle_uss_mb")),
            (f"after {TASKS:,} tasks, RSS MB", spread("", "rss_mb")),
            ("USS", spread("", "uss_mb")),
        ]
    },
)
