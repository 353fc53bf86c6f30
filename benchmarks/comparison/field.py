"""What a cell is given: the systems of this run, how much time there is, and what has been measured before."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psycopg2

from benchmarks.figures import middle, percentile
from benchmarks.machine import Meter
from benchmarks.samples import Samples
from benchmarks.systems import Ground, System
from benchmarks.worker import Worker

#: What Celery itself costs, and what psycopg2 and PostgreSQL allow: no task queues.
CEILINGS = ("memory", "psycopg2-one", "psycopg2-batch")

#: The systems in PostgreSQL that are watched over minutes.
OVER_TIME = ("ours", "stock", "pgqueuer", "procrastinate")


@dataclass(frozen=True)
class Field:
    """A run.

    :ivar quick: minutes instead of an hour and a half.
    :ivar systems: by name; one that lacks something is absent.
    :ivar samples: what was measured so far.
    """

    quick: bool
    systems: dict[str, System]
    samples: Samples

    def present(self, names: Sequence[str]) -> list[str]:
        """Those of the named systems that are there."""
        return [name for name in names if name in self.systems]

    def peers(self, *, ceilings: bool = False) -> list[str]:
        """All systems, each once: RabbitMQ with another result store or with confirms is RabbitMQ again.

        :param ceilings: the loops too that do less than a task queue must.
        """
        again = ("rabbitmq-db", "rabbitmq-confirm")
        return [name for name in self.systems if name not in again and (ceilings or name not in CEILINGS)]

    def pick(self, quick: float, full: float) -> float:
        """One of two amounts."""
        return quick if self.quick else full

    def known(self, cell: str, variant: str, key: str, otherwise: float) -> float:
        """The median of what an earlier cell of this run measured."""
        return middle(self.samples.of(cell), variant, key) or otherwise

    def meter(self, system: System, workers: Sequence[Worker] = ()) -> Meter:
        """CPU of the workers, of the system's server, of this process and of everybody else."""
        pids = [worker.pid for worker in workers]
        return Meter({"worker": pids, "server": system.pids(), "harness": [os.getpid()]})


def worker_of(
    ground: Ground,
    concurrency: int,
    capacity: int,
    *,
    ready: bool = False,
    late: bool = False,
    command: list[str] | None = None,
) -> Worker:
    """A worker process of a system.

    :param ready: whether to wait until it takes tasks.
    :param late: of Celery: acknowledge a task when it has ended.
    """
    words = command or ground.worker(concurrency)
    return Worker(ground, command=words, concurrency=concurrency, capacity=capacity, ready=ready, late=late)


def connect(ground: Ground) -> Any:
    """A connection to the database of a ground in PostgreSQL, in autocommit."""
    connection = psycopg2.connect(ground.libpq, application_name="benchmarks")  # type: ignore[attr-defined]
    connection.autocommit = True
    return connection


def operations_each(before: int | None, after: int | None, tasks: int) -> float | None:
    """Transactions or commands a task, of two readings of ``Ground.operations``."""
    return None if before is None or after is None or not tasks else (after - before) / tasks


def distinct(worker: Worker) -> dict[str, int]:
    """Of a worker that has ended: how many tasks it ran, and how many of them again."""
    worker.journal.refresh()
    numbers = [number for number, _, _ in worker.journal.records]
    return {"tasks": len(numbers), "duplicates": len(numbers) - len(set(numbers))}


def waiting(ground: Ground) -> int | None:
    """``Ground.waiting``, or None if the server does not answer any more."""
    with suppress(Exception):
        return ground.waiting()
    return None


def summary(numbers: Sequence[float]) -> dict[str, Any]:
    """Percentiles of milliseconds; ``quantiles`` for a plot, in steps of 2 %."""
    if not numbers:
        return {"count": 0, "p50": None, "p99": None, "worst": None, "quantiles": []}
    ordered = sorted(numbers)
    return {
        "count": len(ordered),
        "p50": round(percentile(ordered, 0.5), 3),
        "p99": round(percentile(ordered, 0.99), 3),
        "worst": round(ordered[-1], 3),
        "quantiles": [round(percentile(ordered, step / 50), 3) for step in range(51)],
    }
