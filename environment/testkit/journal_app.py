"""The Celery application of the benchmarks and of the fault suite: its tasks write a journal.

The environment configures it:

``BENCH_BROKER``     URL of the broker
``BENCH_BACKEND``    where results go; without it results are ignored
``BENCH_INSTALL``    whether ``celery_postgres`` takes PostgreSQL URLs
``BENCH_ACKS_LATE``  acknowledge late
``BENCH_PREFETCH``   ``worker_prefetch_multiplier``
``BENCH_TRANSPORT``  Kombu's transport options, as JSON
``BENCH_JOURNAL``    the folder of a worker's journal, with ``BENCH_CAPACITY`` records at most
``BENCH_BEAT``       the seconds between two runs of a beat's only task
``BENCH_READY``      the file that a worker creates when it takes tasks
"""

from __future__ import annotations

import importlib
import json
import os
import threading
import time
from pathlib import Path

from celery import Celery
from celery.signals import worker_ready

from environment.testkit.journal import Journal

QUEUE = "celery"
#: Where a beat sends its task.
TICKS = "ticks"


def _schedule(seconds: str | None) -> dict[str, dict[str, object]]:
    """A task every so many seconds, for a queue that no worker consumes."""
    if not seconds:
        return {}
    entry = {"task": "benchmarks.stamp", "schedule": float(seconds), "args": (0,), "options": {"queue": TICKS}}
    return {"tick": entry}


def _create_app() -> Celery:
    if os.environ.get("BENCH_INSTALL"):
        # The other systems are measured without it.
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
        # Celery's default, made explicit: no system starts with another worker to mingle with.
        worker_send_task_events=False,
        beat_schedule=_schedule(os.environ.get("BENCH_BEAT")),
    )
    return app


app = _create_app()
_journal = Journal(Path(os.environ.get("BENCH_JOURNAL", ".")), int(os.environ.get("BENCH_CAPACITY", "0")))


@app.task(name="benchmarks.work")
def work(number: int, seconds: float = 0.0, padding: str = "") -> int:
    """Take ``seconds``, and write the record (number, start, end)."""
    start = time.monotonic_ns()
    if seconds:
        time.sleep(seconds)
    _journal.write(number, start, time.monotonic_ns())
    return number


@app.task(name="benchmarks.nap")
def nap(number: int, seconds: float) -> None:
    """Take ``seconds``.  The start is a record with the negative number, the end one with the number."""
    start = time.monotonic_ns()
    _journal.write(-number, start, start)
    # Not time.sleep: under libfaketime 0.9.10 it is an OSError from Python 3.11 on (clock_nanosleep, EINVAL).
    threading.Event().wait(seconds)
    _journal.write(number, start, time.monotonic_ns())


@app.task(name="benchmarks.stamp")
def stamp(number: int, seconds: float = 0.0) -> float:
    """A part of a chord: takes ``seconds``, and returns when it ended, by the wall clock that all processes share."""
    threading.Event().wait(seconds)
    return time.time()


@app.task(name="benchmarks.gather")
def gather(stamps: list[float]) -> float:
    """The body of a chord: returns the seconds since the last part ended."""
    return time.time() - max(stamps)


@worker_ready.connect  # type: ignore[untyped-decorator, unused-ignore]
def _say_ready(**_: object) -> None:
    path = os.environ.get("BENCH_READY")
    if path:
        Path(path).touch()
