"""Counting the tasks of this process by the minute, and writing the counts every ten seconds.

The rows of a minute are written again as they grow, so a repeated write changes nothing, and no two processes share a
row. What a killed process has counted since its last write is lost.
"""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from celery_postgres.database import driver
from celery_postgres.database.backoff import uniform
from celery_postgres.database.histogram import BOUNDS_S
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
#: Tasks that have ended are counted when they are so many, and before each write.
AT_ONCE = 256
#: What the main process hears of late counts for no earlier minute: the rows of that one are added up after
#: `MERGED_AFTER_S`, and a row that is written after that counts twice.
_LATE_MINUTES = 2


class Tally:
    """What this process counts. Any thread may call any method; a signal handler may interrupt one.

    Tasks leave their progress in two lists, and it is counted many at a time: 1.3 us a task, where counting each event
    when it happened took 3.3.

    Attributes:
        begun: the tasks that began and are not counted yet.
        over: those that ended.
    """

    def __init__(self) -> None:
        self.begun: deque[TaskProgress] = deque()
        self.over: deque[TaskProgress] = deque()
        self._lock = threading.RLock()
        self._counts = False
        #: The database's clock, less the monotonic one; this machine's until the database has been asked.
        self._ahead_s = time.time() - time.monotonic()
        self._minute = 0
        #: Of the newest minutes, by queue and name as they came; several share a row if they look alike.
        self._newest: dict[int, dict[tuple[str, str], MinuteRow]] = {}
        #: Of the latest minutes, as they are written.
        self._rows: dict[tuple[int, str, str], MinuteRow] = {}
        self._changed: set[tuple[int, str, str]] = set()

    def minute(self) -> int:
        """The current minute since 1970, by the database's clock."""
        return int((time.monotonic() + self._ahead_s) // 60)

    def count(self) -> None:
        """Count what has begun and ended until now."""
        with self._lock:
            if self._counts:  # a signal handler has interrupted it
                return
            self._counts = True
            try:
                self._count()
            finally:
                self._counts = False

    def _count(self) -> None:
        self._minute = self.minute()
        for minute in [minute for minute in self._newest if not 0 <= self._minute - minute <= _LATE_MINUTES]:
            del self._newest[minute]
        ahead_s, rows = self._ahead_s, _Rows(self._row)
        for _ in range(len(self.begun)):
            one = self.begun.popleft()
            at = one.began_at + ahead_s
            row = rows[one.queue, one.name, at // 60]
            row.started += 1
            since = one.since
            if since is not None:
                row.waited[bisect_left(BOUNDS_S, at - since)] += 1
        for _ in range(len(self.over)):
            one = self.over.popleft()
            ran_s = one.ran_s
            row = rows[one.queue, one.name, (one.began_at + ran_s + ahead_s) // 60]
            if one.how == "done":
                row.done += 1
            elif one.how == "failed":
                row.failed += 1
            else:
                row.retried += 1
            row.ran[bisect_left(BOUNDS_S, ran_s)] += 1

    def _row(self, queue: str, name: str, minute: float) -> MinuteRow:
        """The row of a minute, which will be written."""
        number = min(max(int(minute), self._minute - _LATE_MINUTES), self._minute)
        known = self._newest.setdefault(number, {})
        row = known.get((queue, name)) or self._new_row(known, number, queue, name)
        self._changed.add((number, row.queue, row.name))
        return row

    def _new_row(self, known: dict[tuple[str, str], MinuteRow], minute: int, queue: str, name: str) -> MinuteRow:
        key = minute, printable(queue), printable(name)
        if key not in self._rows and len(known) >= MOST_ROWS:
            key = minute, "", ""
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = MinuteRow(minute, 0, key[1], key[2])
        if len(known) < MOST_ROWS:
            known[queue, name] = row
        return row

    def changed(self, consumer: int) -> list[MinuteRow]:
        """Copies of the rows that have changed since they were written. Those that are new are this consumer's from now
        on, whatever its id is later."""
        with self._lock:
            self.count()
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


class _Rows(dict[tuple[str, str, float], MinuteRow]):
    """The rows that are counted in at once, each looked for when it is first asked for."""

    def __init__(self, find: Callable[[str, str, float], MinuteRow]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, key: tuple[str, str, float]) -> MinuteRow:
        row = self[key] = self._find(*key)
        return row


class TaskProgress:
    """The progress of one delivered message, told by the worker (`compat.task_progress`).

    Attributes:
        queue: it came from.
        since: from when on it could run, in seconds since 1970 by the database's clock, if that is known.
        name: of its task; empty before it begins.
        began_at: by the monotonic clock.
        how: it ended: `done`, `failed` or `retried`; empty before.
        ran_s: for so long.
    """

    __slots__ = ("_tally", "began_at", "how", "name", "queue", "ran_s", "since")

    def __init__(self, tally: Tally, queue: str, since: float | None) -> None:
        self._tally, self.queue, self.since = tally, queue, since
        self.name = self.how = ""

    def began(self, name: str, at: float) -> None:
        self.name, self.began_at = name, at
        self._tally.begun.append(self)

    def ended(self, how: str, ran_s: float | None = None) -> None:
        if self.how or not self.name:
            return
        self.how = how
        self.ran_s = time.monotonic() - self.began_at if type(ran_s) is not float else ran_s
        over = self._tally.over
        over.append(self)
        if len(over) >= AT_ONCE:
            self._tally.count()


def progress_of(tally: Tally, queue: str, properties: dict[str, Any]) -> TaskProgress:
    """What the worker tells of a message with these properties: they have when it was published, and due."""
    published_at, due_at = properties.get("published_at"), properties.get("due_at")
    since = published_at if type(published_at) is float else None
    if type(due_at) is float and (since is None or due_at > since):
        since = due_at
    return TaskProgress(tally, queue, since)


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
