"""The batch writers of this process, by the database that they store in."""

from __future__ import annotations

import atexit
import threading
from typing import Any

from celery import signals

from celery_postgres.consumer import registry  # noqa: F401  # its atexit function must be registered before ours
from celery_postgres.database.per_process import PerProcess
from celery_postgres.results.batch_writer import BatchWriter

#: As `address.database_of` names it.
Database = tuple[str, ...]


class _Writers:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.known: dict[tuple[str, Database], BatchWriter] = {}


_writers = PerProcess(_Writers)


def batch_writer(database: Database) -> BatchWriter | None:
    """The writer of this process for a database from which it also consumes."""
    return _writers.value.known.get(("batches", database))


def fallback_writer(database: Database) -> BatchWriter | None:
    """The writer of a worker whose broker is elsewhere: for maintenance, and for results that cannot be stored now."""
    return _writers.value.known.get(("fallback", database))


def start_batch_writer(database: Database, *arguments: Any) -> BatchWriter:
    """The same as `batch_writer`, made of the arguments of `BatchWriter` if there is none yet."""
    return _start(("batches", database), *arguments)


def start_fallback_writer(database: Database, *arguments: Any) -> BatchWriter:
    """The same as `fallback_writer`, made of the arguments of `BatchWriter` if there is none yet."""
    return _start(("fallback", database), *arguments)


def _start(key: tuple[str, Database], *arguments: Any) -> BatchWriter:
    writers = _writers.value
    with writers.lock:
        if key not in writers.known:
            writers.known[key] = BatchWriter(*arguments)
        return writers.known[key]


def stop_all() -> None:
    for writer in list(_writers.value.known.values()):
        writer.stop()


def flush_all(**_: Any) -> None:
    """HUP replaces the process before any function of atexit but Celery's own."""
    for writer in list(_writers.value.known.values()):
        writer.flush(BatchWriter.PATIENCE_S)


# Registered after the registry's function, so called before it: results are stored while their claims still live.
atexit.register(stop_all)
signals.worker_shutdown.connect(flush_all, weak=False)
