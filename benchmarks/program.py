"""The Celery program of every peer: the same tasks and settings, the broker from the environment.

``BENCH_BROKER``: its URL.  ``BENCH_BACKEND``: where results go; without it they are ignored.
``BENCH_INSTALL``: whether ``celery_postgres`` takes PostgreSQL URLs.  ``BENCH_ACKS_LATE``,
``BENCH_PREFETCH``: the mode.  ``BENCH_TRANSPORT``: Kombu's transport options, as JSON.  ``BENCH_JOURNAL``,
``BENCH_CAPACITY``: where a worker writes what it did.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from pathlib import Path

from celery import Celery
from celery.signals import worker_ready

from benchmarks.journal import Journal

QUEUE = "celery"


def _create_app() -> Celery:
    if os.environ.get("BENCH_INSTALL"):
        # Only where it is what is measured.
        importlib.import_module("celery_postgres").install()
    app = Celery("benchmarks", broker=os.environ.get("BENCH_BROKER", "memory://"), set_as_current=True)
    late = bool(os.environ.get("BENCH_ACKS_LATE"))
    backend = os.environ.get("BENCH_BACKEND")
    app.conf.update(
        task_default_queue=QUEUE,
        task_ignore_result=backend is None,
        result_backend=backend,
        task_acks_late=late,
        task_reject_on_worker_lost=late,
        broker_transport_options=json.loads(os.environ.get("BENCH_TRANSPORT", "{}")),
        worker_prefetch_multiplier=int(os.environ.get("BENCH_PREFETCH", "4")),
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        # Celery's default, said aloud: each peer starts with nobody to mingle with.
        worker_send_task_events=False,
    )
    return app


app = _create_app()
_journal = Journal(Path(os.environ.get("BENCH_JOURNAL", ".")), int(os.environ.get("BENCH_CAPACITY", "0")))


@app.task(name="benchmarks.noop")
def noop(number: int) -> int:
    """Say that it ran, and nothing else."""
    now = time.monotonic_ns()
    _journal.write(number, now, now)
    return number


@app.task(name="benchmarks.work")
def work(number: int, seconds: float, padding: str) -> int:
    """The task of the comparison (``benchmarks.systems``)."""
    start = time.monotonic_ns()
    if seconds:
        time.sleep(seconds)
    _journal.write(number, start, time.monotonic_ns())
    return number


@app.task(name="benchmarks.stamp")
def stamp(number: int) -> float:
    """A part of a chord: when it ended, by the clock that all processes share."""
    return time.time()


@app.task(name="benchmarks.gather")
def gather(stamps: list[float]) -> float:
    """A chord's body: seconds since the last part ended."""
    return time.time() - max(stamps)


@app.task(name="benchmarks.nap")
def nap(number: int, seconds: float) -> None:
    """Take this long.  Its start is a record with the negative number, its end one with the number."""
    start = time.monotonic_ns()
    _journal.write(-number, start, start)
    # Not time.sleep: under libfaketime 0.9.10 it is an OSError from Python 3.11 on (clock_nanosleep, EINVAL).
    threading.Event().wait(seconds)
    _journal.write(number, start, time.monotonic_ns())


@app.task(name="benchmarks.describe")
def describe(path: str) -> None:
    """Write which modules this worker has imported."""
    half = Path(path + ".half")
    half.write_text(json.dumps(sorted(sys.modules)))
    half.rename(path)


@worker_ready.connect  # type: ignore[untyped-decorator, unused-ignore]
def _say_ready(**_: object) -> None:
    path = os.environ.get("BENCH_READY")
    if path:
        Path(path).touch()
