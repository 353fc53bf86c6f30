"""The thread that stores the results of a worker, many in one commit."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery import signals

from celery_postgres.compat.upstream import worker_state
from celery_postgres.consumer import registry  # noqa: F401  # its atexit function must be registered before ours
from celery_postgres.database import driver
from celery_postgres.database.backoff import Backoff
from celery_postgres.database.per_process import PerProcess
from celery_postgres.errors import SchemaError, loggable
from celery_postgres.results.write import Write, record

if TYPE_CHECKING:
    from celery_postgres.database.message_store import Claim
    from celery_postgres.database.result_store import ResultStore

logger = logging.getLogger(__name__)

#: As `address.database_of` names it.
Database = tuple[str, ...]


class BatchWriter:
    """One per worker process and database, in pools that run tasks in the worker's own process.

    The first result after a quiet moment is stored at once; those that follow within `INTERVAL_S` are stored together.
    So a lone task waits for nothing, a finished task never waits for a running one, and 3,000 tasks a second are 250
    commits. A batch of one that follows a batch of one is stored at once too: a client that sends one task after the
    other waits for each result, and would wait 4 ms longer.
    """

    INTERVAL_S = 0.004
    MOST = 500
    #: A statement has at most 1 GB, and a byte takes two there.
    MOST_BYTES = 32 << 20
    #: With this many waiting, `add` blocks, as any other backend would: while a disk stalls for ten seconds, 60,000
    #: results would gather that a kill loses, and tasks that are acknowledged early do not run again.
    MOST_WAITING = 2000
    #: How long shutdown waits for an unreachable database. Late-acknowledged tasks whose results are not stored by then
    #: run again.
    PATIENCE_S = 10.0

    def __init__(
        self,
        store: ResultStore,
        settled: Callable[[list[Claim]], None],
        send_body: Callable[[str], None],
        maintain: Callable[[], float],
    ) -> None:
        """
        Args:
            settled: called with the claims that were acknowledged together with their results.
            send_body: called with the id of each chord whose last part was stored.
            maintain: called now and then; returns the seconds until the next call.
        """
        self._store = store
        self._settled = settled
        self._send_body = send_body
        self._maintain = maintain
        self._changed = threading.Condition()
        self._waiting: deque[Write] = deque()
        self._oldest = self._last = 0.0
        self._last_size = 0
        self._urgent = self._flushing = self._stopping = self._given_up = False
        self._patient_until: float | None = None
        self._added = self._written = 0
        self._thread = threading.Thread(target=self._run, name="celery_postgres results", daemon=True)
        self._thread.start()

    def add(self, write: Write) -> None:
        """Store it soon. Any thread may call this."""
        with self._changed:
            # Not the writer's own thread, which fails a body that is a part of another chord.
            if len(self._waiting) >= self.MOST_WAITING and threading.current_thread() is not self._thread:
                self._wait_patiently(lambda: len(self._waiting) < self.MOST_WAITING or self._stopping)
            if not self._waiting:
                self._oldest = time.monotonic()
            self._waiting.append(write)
            self._added += 1
            if write.urgent and not self._urgent:
                self._urgent = True
                self._changed.notify_all()
            elif self._added - self._written == 1:
                self._changed.notify_all()

    def keep(self, write: Write, wait: bool) -> bool:
        """`add` it; with `wait`, return only when it is stored, and False if it is not, because the worker ends."""
        self.add(write)
        if not wait or threading.current_thread() is self._thread:
            return True
        with self._changed:
            if not write.stored:
                self._flushing = True
                self._changed.notify_all()
                self._wait_patiently(lambda: write.stored or self._given_up)
            return write.stored

    def _wait_patiently(self, done: Callable[[], bool]) -> None:
        """Wait without limit until the worker is told to stop, and then for `PATIENCE_S`. Needs the lock."""
        until: float | None = None
        while not self._changed.wait_for(done, 1.0):
            state = worker_state()
            if state is not None and (state.should_stop is not None or state.should_terminate is not None):
                until = until or time.monotonic() + self.PATIENCE_S
                if time.monotonic() >= until:
                    return

    def flush(self, seconds: float = 30.0) -> bool:
        """Wait until everything that was added is stored. Returns whether it is."""
        if threading.current_thread() is self._thread:  # an errback reads the result of the chord that has just failed
            while self._waiting:
                self._store_batch([self._waiting.popleft()])
            return True
        with self._changed:
            target = self._added
            self._flushing = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._written >= target, seconds)

    def stop(self) -> None:
        """Store what waits, and end the thread."""
        with self._changed:
            self._stopping = True
            self._patient_until = time.monotonic() + self.PATIENCE_S
            self._changed.notify_all()
        self._thread.join(self.PATIENCE_S + 1)

    # -- the thread

    def _run(self) -> None:
        next_maintenance = time.monotonic() + self._maintain_safely()
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._waiting or self._stopping, max(0.0, next_maintenance - time.monotonic())
                )
                self._wait_for_company()
                batch = self._take_batch()
                self._urgent = any(write.urgent for write in self._waiting)
                if not self._waiting:
                    self._flushing = False
                if not batch and self._stopping:
                    return
            if batch:
                self._store_batch(batch)
            if time.monotonic() >= next_maintenance and not self._stopping:
                next_maintenance = time.monotonic() + self._maintain_safely()

    def _take_batch(self) -> list[Write]:
        batch: list[Write] = []
        size = 0
        while self._waiting and len(batch) < self.MOST and size < self.MOST_BYTES:
            batch.append(self._waiting.popleft())
            size += batch[-1].size
        return batch

    def _wait_for_company(self) -> None:
        if self._urgent and len(self._waiting) == self._last_size == 1:
            return
        while self._waiting and not (self._stopping or self._flushing or len(self._waiting) >= self.MOST):
            ready = (self._last if self._urgent else self._oldest) + self.INTERVAL_S
            pause = ready - time.monotonic()
            if pause <= 0:
                return
            self._changed.wait(pause)

    def _store_batch(self, batch: list[Write]) -> None:
        retry = Backoff()
        while True:
            try:
                due, stored = record(self._store, batch), True
                break
            except (driver.Error, SchemaError) as error:
                if self._patient_until is not None and time.monotonic() > self._patient_until:
                    logger.error("Could not store %d results: %s", len(batch), loggable(error))  # noqa: TRY400
                    due, stored = [], False
                    break
                pause = retry.failed()
                logger.warning("Cannot store results (%s); next try in %.2f s", loggable(error), pause)
                with self._changed:
                    # Shutdown causes one more try, and no more.
                    self._changed.wait_for(_changes(lambda: self._stopping), pause)
        self._settled([write.claim for write in batch if write.claim is not None])
        with self._changed:
            for write in batch:
                write.stored = stored
            self._given_up = not stored
            self._last = self._oldest = time.monotonic()
            self._last_size = len(batch)
            self._written += len(batch)
            self._changed.notify_all()
        for chord_id in due:
            self._send_body(chord_id)

    def _maintain_safely(self) -> float:
        try:
            return self._maintain()
        except (driver.Error, SchemaError) as error:
            logger.warning("Maintenance of the results failed: %s", loggable(error))
        except Exception:  # the thread must live: it stores results
            logger.exception("Maintenance of the results failed")
        return Backoff.LONGEST_S


def _changes(value: Callable[[], bool]) -> Callable[[], bool]:
    before = value()
    return lambda: value() != before


# -- the writers of this process


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
