"""Memory of a worker: when it is ready, and after 20,000 tasks."""

from __future__ import annotations

from typing import Any

from benchmarks import machine
from benchmarks.comparison.field import Field, worker_of
from environment.waiting import wait_until

NAME = "memory"
REPETITIONS = 2
QUICK_REPETITIONS = 1

TASKS = 20_000


def variants(field: Field) -> list[str]:
    """System."""
    return field.present(("ours", "redis", "stock"))


def run(field: Field, variant: str) -> dict[str, Any]:
    """Megabytes of an idle worker, and of the same worker after its tasks."""
    system = field.systems[variant]
    with system.fresh() as ground, worker_of(ground, system.concurrency, TASKS * 2, ready=True) as worker:
        idle = machine.memory(worker.pid)
        ground.fill(1, TASKS)
        done = worker.run_until(TASKS, 120)
        # The last acknowledgements are sent after the last task.
        wait_until(lambda: ground.waiting() in (None, 0), 10, "the queue to be empty")
        after = machine.memory(worker.pid)
    return {
        "tasks": done,
        "idle_rss_mb": idle["rss_mb"],
        "idle_uss_mb": idle["uss_mb"],
        "rss_mb": after["rss_mb"],
        "uss_mb": after["uss_mb"],
    }
