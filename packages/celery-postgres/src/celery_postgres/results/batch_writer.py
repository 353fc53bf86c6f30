"""The thread that stores the results of a worker, many in one commit."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from celery_postgres.compat.upstream import worker_state
from celery_postgres.consumer.heartbeat import Heartbeat
from celery_postgres.database import driver
from celery_postgres.database.backoff import Backoff
from celery_postgres.errors import SchemaError, loggable
from celery_postgres.results.lone import LoneResults
from celery_postgres.results.unfinished import includes_all
from celery_postgres.results.write import Write, record

if TYPE_CHECKING:
    from celery_postgres.database.result_store import ResultStore
    from celery_postgres.results.inlet import Inlet

logger = logging.getLogger(__name__)


class BatchWriter:
    """One per worker process and database.

    The first result after a quiet moment is stored at once; those that follow within `INTERVAL_S` are stored together.
    So a lone task waits for nothing, a finished task never waits for a running one, and 3,000 tasks a second are 250
    commits. A batch of one that follows a batch of one is stored at once too: a client that sends one task after the
    other waits for each result, and would wait 4 ms longer, in prefork 8. So is a batch that includes the result of
    each task that this worker has: the last part of a chord, or of a group that a client waits for.

    A result that is alone in all of that is stored by the thread that adds it (`LoneResults`).
    """

    INTERVAL_S = 0.004
    #: So many intervals for what prefork children pass on, which they remember until it is stored. A commit costs
    #: server and writer 500 us, and 10 results share it otherwise.
    CHILDREN_INTERVALS = 2
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
        settled: Callable[..., None],
        send_body: Callable[[str], None],
        maintain: Callable[[], float],
        heartbeat: Callable[[], Heartbeat | None] = lambda: None,
    ) -> None:
        """
        Args:
            settled: called with the claims that were acknowledged together with their results; with `early` before
                their tasks have ended for Celery.
            send_body: called with the id of each chord whose last part was stored.
            maintain: called now and then; returns the seconds until the next call.
            heartbeat: returns that of this process in the database of the results, if it consumes there.
        """
        self._store = store
        self._settled = settled
        self._send_body = send_body
        self._maintain = maintain
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        #: For those that wait until something is stored. The writer's thread is not woken by what others have stored.
        self._done = threading.Condition(lock)
        self._waiting: deque[Write] = deque()
        self._oldest = self._last = 0.0
        self._last_size = 0
        self._lone = LoneResults(store, settled, heartbeat)
        self._urgent = self._complete = self._flushing = self._stopping = self._given_up = self._failing = False
        self._patient_until: float | None = None
        self._added = self._written = 0
        self._inlet: Inlet | None = None
        self._next_maintenance = 0.0
        self._thread = threading.Thread(target=self._run, name="celery_postgres results", daemon=True)
        self._thread.start()

    def read_from(self, inlet: Inlet) -> None:
        """Also store what prefork children have finished."""
        with self._changed:
            if self._inlet is None:
                self._inlet = inlet
                self._changed.notify_all()

    def take_in(self) -> None:
        """Add what children have finished. Any thread may call this."""
        if self._inlet is not None:
            with self._changed:
                self._append(*self._inlet.read())
                self._accept_if_keeping_up(self._inlet)

    def _accept_if_keeping_up(self, inlet: Inlet) -> None:
        inlet.accept(not self._failing and len(self._waiting) < self.MOST_WAITING)

    def _append(self, *writes: Write) -> None:
        if not writes:
            return
        if not self._waiting:
            self._oldest = time.monotonic()
        self._waiting.extend(writes)
        self._added += len(writes)
        complete, self._complete = self._complete, includes_all(self._waiting)
        if (self._complete > complete or not self._urgent) and any(write.urgent for write in writes):
            self._urgent = True
            self._notify()
        elif self._added - self._written == len(writes):
            self._notify()

    def _notify(self) -> None:
        self._changed.notify_all()
        # The writer's own thread looks by itself at what it has read.
        if self._inlet is not None and threading.current_thread() is not self._thread:
            self._inlet.wake()

    def add(self, write: Write) -> None:
        """Store it soon, after what children have finished. Any thread may call this."""
        with self._changed:
            self.take_in()
            # Not the writer's own thread, which fails a body that is a part of another chord.
            if len(self._waiting) >= self.MOST_WAITING and threading.current_thread() is not self._thread:
                self._wait_patiently(lambda: len(self._waiting) < self.MOST_WAITING or self._stopping)
            alone = self._is_alone(write)
            if alone:
                self._added += 1
            else:
                self._append(write)
        if alone:
            self._store_alone(write)

    def _is_alone(self, write: Write) -> bool:
        """Whether the thread of its task stores this result: no other is there, and none will come soon."""
        return (
            self._inlet is None
            and self._added == self._written
            and not (self._failing or self._stopping)
            and self._lone.includes(write)
        )

    def _store_alone(self, write: Write) -> None:
        stored = False
        try:
            stored = self._lone.record(write)
        finally:  # also where a signal's handler has raised
            with self._changed:
                if stored:
                    self._note([write], stored=True)
                    if self._waiting:
                        self._changed.notify_all()
                else:
                    self._added -= 1
                    self._append(write)

    def _note(self, batch: list[Write], *, stored: bool) -> None:
        for write in batch:
            write.stored = stored
        self._given_up = not stored
        self._last = self._oldest = time.monotonic()
        self._last_size = len(batch)
        self._written += len(batch)
        self._done.notify_all()

    def keep(self, write: Write, wait: bool) -> bool:
        """`add` it; with `wait`, return only when it is stored, and False if it is not, because the worker ends."""
        self.add(write)
        if not wait or threading.current_thread() is self._thread:
            return True
        with self._changed:
            if not write.stored:
                self._flushing = True
                self._notify()
                self._wait_patiently(lambda: write.stored or self._given_up)
            return write.stored

    def _wait_patiently(self, done: Callable[[], bool]) -> None:
        """Wait without limit until the worker is told to stop, and then for `PATIENCE_S`. Needs the lock."""
        until: float | None = None
        while not self._done.wait_for(done, 1.0):
            state = worker_state()
            if state is not None and (state.should_stop is not None or state.should_terminate is not None):
                until = until or time.monotonic() + self.PATIENCE_S
                if time.monotonic() >= until:
                    return

    def flush(self, seconds: float = 30.0) -> bool:
        """Wait until everything that was added is stored. Returns whether it is."""
        if threading.current_thread() is self._thread:  # an errback reads the result of the chord that has just failed
            self.take_in()
            while self._waiting:
                self._store_batch([self._waiting.popleft()])
            return True
        with self._changed:
            self.take_in()
            target = self._added
            self._flushing = True
            self._notify()
            return self._done.wait_for(lambda: self._written >= target, seconds)

    def stop(self) -> None:
        """Store what waits, and end the thread."""
        with self._changed:
            self._stopping = True
            self._patient_until = time.monotonic() + self.PATIENCE_S
            self._notify()
            self._done.notify_all()
        self._thread.join(self.PATIENCE_S + 1)

    # -- the thread

    def _run(self) -> None:
        self._next_maintenance = time.monotonic() + self._maintain_safely()
        goes_on = True
        while goes_on:
            try:
                goes_on = self._turn()
            except Exception:  # the thread must live: all results of this worker go through it
                logger.exception("The thread that stores results goes on after an error")

    def _turn(self) -> bool:
        """Store one batch. Returns False when it has stopped."""
        with self._changed:
            self._wait_for_work(self._next_maintenance)
            self._wait_for_company()
            batch = self._take_batch()
            self._urgent = any(write.urgent for write in self._waiting)
            self._complete = False
            if not self._waiting:
                self._flushing = False
            if not batch and self._stopping:
                return False
        if batch:
            self._store_batch(batch)
        if time.monotonic() >= self._next_maintenance and not self._stopping:
            self._next_maintenance = time.monotonic() + self._maintain_safely()
        return True

    def _take_batch(self) -> list[Write]:
        batch: list[Write] = []
        size = 0
        while self._waiting and len(batch) < self.MOST and size < self.MOST_BYTES:
            batch.append(self._waiting.popleft())
            size += batch[-1].size
        return batch

    def _wait_for_work(self, until: float) -> None:
        while True:
            self.take_in()
            pause = until - time.monotonic()
            if self._waiting or self._stopping or pause <= 0:
                return
            self._pause(pause, for_records=True)

    def _wait_for_company(self) -> None:
        if self._urgent and len(self._waiting) == self._last_size == 1:
            return
        interval_s = self.INTERVAL_S * (1 if self._inlet is None else self.CHILDREN_INTERVALS)
        while self._waiting and not (self._stopping or self._flushing or len(self._waiting) >= self.MOST):
            if self._urgent and self._complete:
                return
            ready = (self._last if self._urgent else self._oldest) + interval_s
            pause = ready - time.monotonic()
            if pause <= 0:
                return
            # Not for records of children: those are the company.
            self._pause(pause, for_records=False)
            self.take_in()

    def _pause(self, seconds: float, *, for_records: bool) -> None:
        """Wait until something changes. Needs the lock, and releases it meanwhile."""
        inlet = self._inlet
        if inlet is None:
            self._changed.wait(seconds)
            return
        self._changed.release()
        try:
            inlet.wait(seconds, for_records=for_records)
        finally:
            self._changed.acquire()

    def _store_batch(self, batch: list[Write]) -> None:
        retry = Backoff()
        while True:
            begun = time.monotonic()
            try:
                due, stored = record(self._store, batch), True
                self._lone.took_s = time.monotonic() - begun
                break
            except (driver.Error, SchemaError) as error:
                if self._patient_until is not None and time.monotonic() > self._patient_until:
                    logger.error("Could not store %d results: %s", len(batch), loggable(error))  # noqa: TRY400
                    due, stored = [], False
                    break
                self._failing = True
                self.take_in()  # and tell the children
                pause = retry.failed()
                logger.warning("Cannot store results (%s); next try in %.2f s", loggable(error), pause)
                with self._changed:
                    # Shutdown causes one more try, and no more.
                    self._changed.wait_for(_changes(lambda: self._stopping), pause)
        if stored and self._inlet is not None:
            self._inlet.confirm(batch)
        self._settled([write.claim for write in batch if write.claim is not None])
        with self._changed:
            self._failing = not stored
            if self._inlet is not None:
                self._accept_if_keeping_up(self._inlet)
            self._note(batch, stored=stored)
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
