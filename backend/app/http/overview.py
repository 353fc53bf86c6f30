"""The current queues and workers, read at most once a second however many clients ask."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import datetime

import psycopg2

from app.celery_app import celery_app
from app.core.settings import get_settings
from app.http.problems import unavailable
from app.observability import probe
from app.observability.queue_depth import CAP, read_queues

FRESH_S = 1.0


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue of the application; a count of `CAP` means that many or more."""

    name: str
    ready: int
    scheduled: int
    claimed: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class Worker:
    """A consuming process."""

    hostname: str
    pid: int
    started_at: datetime | None
    queues: tuple[str, ...]
    claimed: int


@dataclass(frozen=True, slots=True)
class Overview:
    """All queues and workers."""

    queues: tuple[Queue, ...]
    workers: tuple[Worker, ...]
    dead_letters: int


_lock = threading.Lock()
_latest: tuple[float, Overview] | None = None


def overview() -> Overview:
    """The current overview, at most `FRESH_S` old.

    Raises:
        Problem: 503; the database does not answer.
    """
    global _latest
    with _lock:
        if _latest is None or time.monotonic() - _latest[0] >= FRESH_S:
            try:
                _latest = time.monotonic(), _read()
            except psycopg2.Error:
                raise unavailable("the queues cannot be read at the moment") from None
        return _latest[1]


def _read() -> Overview:
    names = list(celery_app.amqp.queues)
    depths = read_queues(first=names)
    known = {row.queue: Queue(row.queue, row.ready, row.scheduled, row.claimed, row.oldest_s) for row in depths.queues}
    with probe.reading(get_settings()) as monitor:
        consumers = monitor.consumers()
    workers = [
        # Only the application's own queues: each worker also consumes one for its remote control.
        Worker(
            consumer.hostname or "",
            consumer.pid or 0,
            consumer.started_at,
            tuple(queue for queue in consumer.queues or () if queue in names),
            consumer.claimed,
        )
        for consumer in consumers
    ]
    return Overview(
        tuple(known.get(name, Queue(name, 0, 0, 0, 0.0)) for name in names),
        tuple(worker for worker in workers if worker.queues),
        sum(depths.dead.values()),
    )


__all__ = ["CAP", "Overview", "Queue", "Worker", "overview"]
