"""Waiting for results: one thread and one connection of a process, whoever waits in it and for however many tasks."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from celery import states

from celery_postgres.database import watchdog
from celery_postgres.database.backoff import Backoff
from celery_postgres.database.notification_probe import hears
from celery_postgres.database.notifications import FloodError
from celery_postgres.database.session import Row, Session
from celery_postgres.database.wake import Wake
from celery_postgres.errors import loggable

if TYPE_CHECKING:
    from celery_postgres.database.pool import Sessions

logger = logging.getLogger(__name__)

#: Called by the listener's thread with a row of `results`; must not block.
Sink = Callable[[Row], None]


@dataclass(slots=True)
class _Awaited:
    slot: int
    sinks: list[Sink] = field(default_factory=list)


class Listener:
    """Says who waits for what, is notified, and looks by itself where a notification may be missing.

    A writer that looked for waiters just before this one was noted does not notify it, and commits milliseconds later:
    so what is new is looked at again after each step of `LOOKS_S`. After that, and where notifications do not arrive
    (a transaction pooler), everything is looked at from time to time.
    """

    LOOKS_S = (0.002, 0.010, 0.050, 0.250, 1.0)
    REST_S = 5.0
    POLL_S = 0.25
    IDLE_S = 10.0
    #: With more notifications at once it listens elsewhere, and looks at everything.
    MOST_HEARD = 10_000

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._lock = threading.Lock()
        self._wake = Wake()
        self._awaited: dict[str, _Awaited] = {}
        self._tasks: dict[int, str] = {}
        self._slots = itertools.count(1)
        self._new: list[str] = []
        self._left: list[str] = []
        self._looks: list[tuple[float, int, list[str]]] = []
        self._thread: threading.Thread | None = None
        self._session: Session | None = None
        self._deaf = False
        self._number = 0
        self._next_rest = 0.0

    # -- for those who wait

    def watch(self, task_ids: Iterable[str], sink: Sink) -> None:
        """Give `sink` the row of each task, once, as soon as it has ended."""
        with self._lock:
            for task_id in task_ids:
                awaited = self._awaited.get(task_id)
                if awaited is None:
                    awaited = self._awaited[task_id] = _Awaited(next(self._slots))
                    self._tasks[awaited.slot] = task_id
                    self._new.append(task_id)
                awaited.sinks.append(sink)
            if self._thread is None:
                watchdog.start()
                self._thread = threading.Thread(target=self._run, name="celery_postgres listener", daemon=True)
                self._thread.start()
        self._wake.set()

    def unwatch(self, task_ids: Iterable[str], sink: Sink) -> None:
        """Nobody waits there any more."""
        with self._lock:
            for task_id in task_ids:
                awaited = self._awaited.get(task_id)
                if awaited is None:
                    continue
                awaited.sinks = [one for one in awaited.sinks if one is not sink]
                if not awaited.sinks:
                    del self._awaited[task_id], self._tasks[awaited.slot]
                    self._left.append(task_id)
        self._wake.set()

    # -- the thread

    def _run(self) -> None:
        retry, idle_since = Backoff(), time.monotonic()
        while True:
            try:
                if self._session is None:
                    self._connect()
                self._turn()
                retry.succeeded()
            except Exception as error:  # whatever it is: everybody in this process waits for this thread
                self._disconnect()
                if self._awaited:
                    pause = retry.failed()
                    logger.warning("results cannot be waited for (%s); next try in %.2f s", loggable(error), pause)
                    while retry.left and self._awaited:
                        self._wake.wait(retry.left)  # who begins to wait, or ends, ends it too
                        self._wake.clear()
            with self._lock:
                if self._awaited:
                    idle_since = time.monotonic()
                elif self._session is None or time.monotonic() - idle_since >= self.IDLE_S:
                    self._disconnect()
                    self._thread = None
                    return

    def _connect(self) -> None:
        session = self._session = self._sessions.connect()
        # Nobody can guess the channel who may not read it, and a flood does not follow us to the next one.
        self._number = secrets.randbits(62)
        self._deaf = not hears(session, self._sessions.dsn, self._sessions.connect)
        if not self._deaf:
            session.listen(f"celery_result_{self._number}")
        self._looks.clear()
        with self._lock:
            self._new = list(self._awaited)
            self._left.clear()

    def _disconnect(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _turn(self) -> None:
        session = self._session
        assert session is not None  # noqa: S101
        with self._lock:
            new, self._new = [task_id for task_id in self._new if task_id in self._awaited], []
            left, self._left = self._left, []
        if left:
            session.run("give_up_waiting", listener=self._number, task_ids=left)
        now = time.monotonic()
        if new:
            # Whoever waits has just looked; a look of our own before the note would be a statement more for each.
            with self._lock:
                slots = [self._awaited[task_id].slot if task_id in self._awaited else 0 for task_id in new]
            session.run("await_results", listener=self._number, task_ids=new, slots=slots)
            self._look(new)
            for number, pause in enumerate(self.LOOKS_S):
                heapq.heappush(self._looks, (now + pause, number, new))
            self._next_rest = now + self._rest_s
        while self._looks and self._looks[0][0] <= time.monotonic():
            self._look(heapq.heappop(self._looks)[2])
        if time.monotonic() >= self._next_rest:
            self._look(list(self._awaited))
            self._next_rest = time.monotonic() + self._rest_s
        # A notification that came along with a statement's answer makes nothing readable.
        if self._hear(session):
            return
        until = min(self._next_rest, self._looks[0][0] if self._looks else self._next_rest)
        readable = self._wake.wait(until - time.monotonic(), session.fileno())
        self._wake.clear()
        if session.fileno() in readable:
            self._hear(session)

    def _hear(self, session: Session) -> bool:
        """Look at what the database has notified us of; whether there was something."""
        # Anybody may notify, with any payload.
        heard = session.notifications()
        if len(heard) > self.MOST_HEARD:
            raise FloodError(f"{len(heard)} notifications at once")
        told = [slot for payload in heard for slot in payload.split()]
        with self._lock:
            ended = [self._tasks[int(slot)] for slot in told if slot.isdecimal() and int(slot) in self._tasks]
        self._look(ended, noted=False)
        return bool(told)

    @property
    def _rest_s(self) -> float:
        return self.POLL_S if self._deaf else self.REST_S

    def _look(self, task_ids: list[str], *, noted: bool = True) -> list[str]:
        """Deliver those that have ended; the others. `noted`: the database may still say that we wait for them."""
        task_ids = [task_id for task_id in task_ids if task_id in self._awaited]
        if not task_ids or self._session is None:
            return []
        ended = [row for row in self._session.run("results", task_ids=task_ids) if row[1] in states.READY_STATES]
        for row in ended:
            with self._lock:
                awaited = self._awaited.pop(row[0], None)
                if awaited is not None:
                    del self._tasks[awaited.slot]
                    if noted:
                        self._left.append(row[0])
            for sink in awaited.sinks if awaited is not None else ():
                sink(row)
        return [task_id for task_id in task_ids if task_id in self._awaited]


_lock = threading.Lock()
_listeners: dict[Sessions, Listener] = {}


def listener(sessions: Sessions) -> Listener:
    """The listener of this process for a database."""
    with _lock:
        if sessions not in _listeners:
            _listeners[sessions] = Listener(sessions)
        return _listeners[sessions]


def _forget_in_child() -> None:
    global _lock
    _lock = threading.Lock()
    _listeners.clear()


os.register_at_fork(after_in_child=_forget_in_child)
