"""Queues and workers as they are now: read at most once a second, however many people look."""

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
    """A queue of the application; counts of `CAP` mean as many or more."""

    name: str
    ready: int
    delayed: int
    held: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that consumes."""

    hostname: str
    pid: int
    started_at: datetime
    queues: tuple[str, ...]
    held: int


@dataclass(frozen=True, slots=True)
class Overview:
    """All of it."""

    queues: tuple[Queue, ...]
    workers: tuple[Worker, ...]
    dead_letters: int


_lock = threading.Lock()
_latest: tuple[float, Overview] | None = None


def overview() -> Overview:
    """What there is, not older than `FRESH_S`.

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
    known = {row.name: Queue(*row[:5]) for row in depths.queues}
    with probe.reading(get_settings()) as read:
        consumers = read("consumers_overview")
    workers = [
        # Of the queues of a worker those that are the application's: each also has one for its remote control.
        Worker(hostname, pid, started_at, tuple(one for one in queues or () if one in names), held)
        for _, hostname, pid, started_at, queues, held in consumers
    ]
    return Overview(
        tuple(known.get(name, Queue(name, 0, 0, 0, 0.0)) for name in names),
        tuple(worker for worker in workers if worker.queues),
        sum(depths.dead.values()),
    )


__all__ = ["CAP", "Overview", "Queue", "Worker", "overview"]
