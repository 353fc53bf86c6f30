"""The thread that stores what becomes of tasks in a worker, many in one commit."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psycopg2
from celery import signals

from celery_postgres.compat.upstream import worker_state
from celery_postgres.database.backoff import Backoff
from celery_postgres.errors import SchemaError, loggable
from celery_postgres.results.result_store import Claim, Write, record

if TYPE_CHECKING:
    from celery_postgres.database.pool import Sessions

logger = logging.getLogger(__name__)


class Writer:
    """One per worker process and database, in pools that run tasks in the worker's own process.

    The first result after a quiet moment goes out at once; those that follow within `INTERVAL_S` go out together. So a
    lone task waits for nothing, a finished one never waits behind one that runs, and 3,000 tasks a second are 250
    commits.
    """

    INTERVAL_S = 0.004
    MOST = 500
    #: A statement has at most 1 GB, and a byte takes two there.
    MOST_BYTES = 32 << 20
    #: With so many waiting, whoever adds one waits too, as with any other backend: a disk that stalls for ten seconds
    #: would be 60,000 results that a kill loses, and an early ack does not bring back.
    MOST_WAITING = 2000
    #: How long the process' end waits for a database that is away. What is not stored by then runs again, if it was to
    #: be acknowledged with its result.
    PATIENCE_S = 10.0

    def __init__(
        self,
        sessions: Sessions,
        settled: Callable[[list[Claim]], None],
        due: Callable[[str], None],
        chores: Callable[[], float],
    ) -> None:
        """
        Parameters:
            settled: told which claims have been acknowledged with their results.
            due: sends the body of a chord.
            chores: called now and then; returns the seconds until it wants to be called again.
        """
        self._sessions = sessions
        self._settled = settled
        self._due = due
        self._chores = chores
        self._changed = threading.Condition()
        self._waiting: deque[Write] = deque()
        self._oldest = self._last = 0.0
        self._urgent = self._hurry = self._stopping = self._given_up = False
        self._patient_until: float | None = None
        self._added = self._written = 0
        self._thread = threading.Thread(target=self._run, name="celery_postgres results", daemon=True)
        self._thread.start()

    def add(self, write: Write) -> None:
        """Store it soon. Any thread may."""
        with self._changed:
            # Not the writer itself, which fails a body that is another chord's part.
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
        """`add` it, and with `wait` return only when it is stored; False if it is not, because the worker ends."""
        self.add(write)
        if not wait or threading.current_thread() is self._thread:
            return True
        with self._changed:
            if not write.stored:
                self._hurry = True
                self._changed.notify_all()
                self._wait_patiently(lambda: write.stored or self._given_up)
            return write.stored

    def _wait_patiently(self, done: Callable[[], bool]) -> None:
        """For ever, until the worker was told to stop, and for `PATIENCE_S` then. The condition is locked."""
        until: float | None = None
        while not self._changed.wait_for(done, 1.0):
            state = worker_state()
            if state is not None and (state.should_stop is not None or state.should_terminate is not None):
                until = until or time.monotonic() + self.PATIENCE_S
                if time.monotonic() >= until:
                    return

    def flush(self, seconds: float = 30.0) -> bool:
        """Wait until everything that was added is stored; whether it is."""
        if threading.current_thread() is self._thread:  # what an errback reads, whose chord we have just failed
            while self._waiting:
                self._store([self._waiting.popleft()])
            return True
        with self._changed:
            target = self._added
            self._hurry = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._written >= target, seconds)

    def stop(self) -> None:
        """Store what waits, and end."""
        with self._changed:
            self._stopping = True
            self._patient_until = time.monotonic() + self.PATIENCE_S
            self._changed.notify_all()
        self._thread.join(self.PATIENCE_S + 1)

    # -- the thread

    def _run(self) -> None:
        next_chores = time.monotonic() + self._chores_safely()
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._waiting or self._stopping, max(0.0, next_chores - time.monotonic())
                )
                self._wait_for_company()
                batch = self._batch()
                self._urgent = any(write.urgent for write in self._waiting)
                if not self._waiting:
                    self._hurry = False
                if not batch and self._stopping:
                    return
            if batch:
                self._store(batch)
            if time.monotonic() >= next_chores and not self._stopping:
                next_chores = time.monotonic() + self._chores_safely()

    def _batch(self) -> list[Write]:
        batch: list[Write] = []
        size = 0
        while self._waiting and len(batch) < self.MOST and size < self.MOST_BYTES:
            batch.append(self._waiting.popleft())
            size += batch[-1].size
        return batch

    def _wait_for_company(self) -> None:
        while self._waiting and not (self._stopping or self._hurry or len(self._waiting) >= self.MOST):
            ready = (self._last if self._urgent else self._oldest) + self.INTERVAL_S
            pause = ready - time.monotonic()
            if pause <= 0:
                return
            self._changed.wait(pause)

    def _store(self, batch: list[Write]) -> None:
        retry = Backoff()
        while True:
            try:
                due, stored = record(self._sessions, batch), True
                break
            except (psycopg2.Error, SchemaError) as error:
                if self._patient_until is not None and time.monotonic() > self._patient_until:
                    logger.error("%d results could not be stored: %s", len(batch), loggable(error))  # noqa: TRY400
                    due, stored = [], False
                    break
                pause = retry.failed()
                logger.warning("results cannot be stored (%s); next try in %.2f s", loggable(error), pause)
                with self._changed:
                    # The end of the process may ask for one more look, and no more.
                    self._changed.wait_for(_changes(lambda: self._stopping), pause)
        self._settled([write.claim for write in batch if write.claim is not None])
        with self._changed:
            for write in batch:
                write.stored = stored
            self._given_up = not stored
            self._last = self._oldest = time.monotonic()
            self._written += len(batch)
            self._changed.notify_all()
        for chord in due:
            self._due(chord)

    def _chores_safely(self) -> float:
        try:
            return self._chores()
        except (psycopg2.Error, SchemaError) as error:
            logger.warning("results were not tidied up: %s", loggable(error))
        except Exception:  # the thread must live: it stores results
            logger.exception("results were not tidied up")
        return Backoff.LONGEST_S


def _changes(value: Callable[[], bool]) -> Callable[[], bool]:
    before = value()
    return lambda: value() != before


#: Those of this process, by database.
writers: dict[tuple[str, ...], Writer] = {}
_lock = threading.Lock()


def new_writer(key: tuple[str, ...], *parts: Any) -> Writer:
    """The writer for a database, made of `parts` if there is none yet."""
    with _lock:
        if key not in writers:
            writers[key] = Writer(*parts)
        return writers[key]


def _stop_all() -> None:
    for writer in list(writers.values()):
        writer.stop()


def _flush_all(**_: Any) -> None:
    """HUP replaces the process before any function of atexit but its own."""
    for writer in list(writers.values()):
        writer.flush(Writer.PATIENCE_S)


def _forget_in_child() -> None:
    global _lock
    _lock = threading.Lock()
    writers.clear()


# Registered after the transport's own, so called before it: results are stored while their claims still live.
atexit.register(_stop_all)
signals.worker_shutdown.connect(_flush_all, weak=False)
os.register_at_fork(after_in_child=_forget_in_child)
