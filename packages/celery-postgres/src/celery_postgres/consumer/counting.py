"""Counting the tasks of this process by the minute, and writing the counts every ten seconds.

The rows of a minute are written again as they grow, so a repeated write changes nothing, and no two processes share a
row. What a killed process has counted since its last write is lost.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from celery_postgres.database import driver
from celery_postgres.database.backoff import uniform
from celery_postgres.database.histogram import class_of
from celery_postgres.database.minute_store import MinuteRow, MinuteStore
from celery_postgres.database.names import printable
from celery_postgres.errors import SchemaError, loggable

if TYPE_CHECKING:
    from celery_postgres.database.session import Session

logger = logging.getLogger(__name__)

WRITE_S = 10.0
#: Rows of one minute. What is beyond them is counted without its queue and name.
MOST_ROWS = 500
#: Minutes that a process keeps, while the database does not take them or its clock goes back.
MOST_MINUTES = 15


class Tally:
    """What this process counts. Any thread may call any method; a signal handler may interrupt one."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        #: The database's clock, less the monotonic one; this machine's until the database has been asked.
        self._ahead_s = time.time() - time.monotonic()
        self._minute = 0
        #: Of the current minute, by queue and name as they came; several share a row if they look alike.
        self._current: dict[tuple[str, str], MinuteRow] = {}
        #: Of the latest minutes, as they are written.
        self._rows: dict[tuple[int, str, str], MinuteRow] = {}
        self._changed: set[tuple[int, str, str]] = set()

    def began(self, queue: str, name: str, at: float, since: float | None) -> None:
        """A task began.

        Args:
            at: by the monotonic clock.
            since: from when on it could run, in seconds since 1970 by the database's clock, if that is known.
        """
        with self._lock:
            row = self._row(queue, name)
            row.started += 1
            if since is not None:
                row.waited[class_of(at + self._ahead_s - since)] += 1

    def ended(self, queue: str, name: str, how: str, ran_s: float) -> None:
        """An attempt at a task ended: `done`, `failed` or `retried`."""
        with self._lock:
            row = self._row(queue, name)
            if how == "done":
                row.done += 1
            elif how == "failed":
                row.failed += 1
            else:
                row.retried += 1
            row.ran[class_of(ran_s)] += 1

    def minute(self) -> int:
        """The current minute since 1970, by the database's clock."""
        return int((time.monotonic() + self._ahead_s) // 60)

    def _row(self, queue: str, name: str) -> MinuteRow:
        minute = self.minute()
        if minute != self._minute:
            self._minute = minute
            self._current.clear()
        row = self._current.get((queue, name))
        if row is None:
            row = self._new_row(minute, queue, name)
        self._changed.add((minute, row.queue, row.name))
        return row

    def _new_row(self, minute: int, queue: str, name: str) -> MinuteRow:
        key = minute, printable(queue), printable(name)
        if key not in self._rows and len(self._current) >= MOST_ROWS:
            key = minute, "", ""
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = MinuteRow(minute, 0, key[1], key[2])
        if len(self._current) < MOST_ROWS:
            self._current[queue, name] = row
        return row

    def changed(self, consumer: int) -> list[MinuteRow]:
        """Copies of the rows that have changed since they were written. Those that are new are this consumer's from now
        on, whatever its id is later."""
        with self._lock:
            rows = [self._rows[key] for key in sorted(self._changed)]
            self._changed.clear()
            for row in rows:
                row.consumer = row.consumer or consumer
            return [replace(row, waited=list(row.waited), ran=list(row.ran)) for row in rows]

    def written(self, clock: float) -> None:
        """What `changed` has returned is written; the database's clock was this, a moment ago."""
        with self._lock:
            self._ahead_s = clock - time.monotonic()
            self._forget_old()

    def not_written(self, rows: list[MinuteRow]) -> None:
        """What `changed` has returned is to be written again."""
        with self._lock:
            self._changed.update((row.minute, row.queue, row.name) for row in rows)
            self._forget_old()

    def _forget_old(self) -> None:
        for key in [key for key in self._rows if key[0] < self._minute - MOST_MINUTES]:
            del self._rows[key]
            self._changed.discard(key)


class TaskProgress:
    """The progress of one delivered message, told by the worker (`compat.task_progress`)."""

    __slots__ = ("_began_at", "_name", "_queue", "_since", "_tally")

    def __init__(self, tally: Tally, queue: str, since: float | None) -> None:
        self._tally, self._queue, self._since = tally, queue, since
        self._name = ""
        self._began_at: float | None = None

    def began(self, name: str, at: float) -> None:
        self._name, self._began_at = name, at
        self._tally.began(self._queue, name, at, self._since)

    def ended(self, how: str, ran_s: float | None = None) -> None:
        began_at, self._began_at = self._began_at, None
        if began_at is not None:
            ran_s = time.monotonic() - began_at if ran_s is None else ran_s
            self._tally.ended(self._queue, self._name, how, ran_s)


def progress_of(tally: Tally, queue: str, properties: dict[str, Any]) -> TaskProgress:
    """What the worker tells of a message with these properties: they have when it was published, and due."""
    times = [at for at in (properties.get("published_at"), properties.get("due_at")) if type(at) is float]
    return TaskProgress(tally, queue, max(times, default=None))


class Counting:
    """Writes what is counted. For the heartbeat's thread.

    Attributes:
        tally: what is counted; None if nothing is.
    """

    def __init__(self, *, counts: bool) -> None:
        self.tally = Tally() if counts else None
        self._next = 0.0  # at once: until then the minutes are those of this machine's clock
        self._noted_depths_in = 0
        #: What could not be written the last time.
        self._failing: set[str] = set()

    def write_if_due(self, session: Session, consumer: int, queues: Callable[[], Sequence[int]]) -> None:
        """Write what has changed, if it is time; and once in a minute, how much waits in the queues.

        Args:
            queues: returns the ids of those that this process consumes.

        Raises:
            psycopg2.Error: the connection is lost.
        """
        now = time.monotonic()
        if self.tally is None or now < self._next:
            return
        first, self._next = self._next == 0.0, now + WRITE_S * uniform(0.8, 1.0)
        self._write(self.tally, session, consumer, also_nothing=first)
        minute = self.tally.minute()
        if minute != self._noted_depths_in and (ids := queues()):
            self._noted_depths_in = minute
            self._try("what waits in queues", session, lambda: MinuteStore(session).note_depths(ids))

    def write_all(self, session: Session, consumer: int) -> None:
        """Write what has changed, before this process ends."""
        if self.tally is not None:
            self._write(self.tally, session, consumer, also_nothing=False)

    def _write(self, tally: Tally, session: Session, consumer: int, *, also_nothing: bool) -> None:
        rows = tally.changed(consumer)
        if not rows and not also_nothing:
            return
        try:
            if self._try("how many tasks run", session, lambda: tally.written(MinuteStore(session).write(rows))):
                rows = []
        finally:
            tally.not_written(rows)

    def _try(self, what: str, session: Session, work: Callable[[], None]) -> bool:
        """Whether it was done. If not, that is logged once, unless the connection is lost."""
        try:
            work()
        except (driver.Error, SchemaError) as error:
            if session.closed:
                raise
            if what not in self._failing:
                logger.warning("This process cannot count %s (%s); tasks run on", what, loggable(error))
            self._failing.add(what)
            return False
        self._failing.discard(what)
        return True
