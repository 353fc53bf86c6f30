"""Waiting for results: all waiting threads of a process share one thread and one connection."""

from __future__ import annotations

import heapq
import itertools
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from celery_postgres.database import driver, watchdog
from celery_postgres.database.notification_probe import hears
from celery_postgres.database.notifications import FloodError
from celery_postgres.database.per_process import PerProcess
from celery_postgres.database.result_store import Outcome, ResultStore
from celery_postgres.database.service import Service
from celery_postgres.database.session import Session
from celery_postgres.errors import loggable, name_database

if TYPE_CHECKING:
    from celery_postgres.database.pool import Sessions

logger = logging.getLogger(__name__)

#: Called by the listener's thread with the outcome of a task that has ended; must not block.
Sink = Callable[[Outcome], None]


@dataclass(slots=True)
class _Awaited:
    slot: int
    sinks: list[Sink] = field(default_factory=list)


class Listener(Service):
    """Registers waiters, listens for notifications, and polls in case one was missed.

    A writer that read the waiters just before this one was registered does not notify it, and commits milliseconds
    later: so new tasks are polled again after each step of `POLLS_S`. After that, all tasks are polled every
    `REST_S` seconds, or every `POLL_S` where notifications do not arrive (a transaction pooler).
    """

    POLLS_S = (0.002, 0.010, 0.050, 0.250, 1.0)
    REST_S = 5.0
    POLL_S = 0.25
    IDLE_S = 10.0
    #: With more notifications at once the listener moves to another channel and polls everything.
    MOST_NOTIFICATIONS = 10_000

    def __init__(self, sessions: Sessions, listening: Sessions | None = None) -> None:
        """
        Args:
            listening: connections that notifications reach, if those of `sessions` go through a pooler.
        """
        super().__init__("listener")
        self._sessions, self._listening = sessions, listening
        self._lock = threading.Lock()
        self._awaited: dict[str, _Awaited] = {}
        self._tasks: dict[int, str] = {}
        self._slots = itertools.count(1)
        self._new: list[str] = []
        self._dropped: list[str] = []
        self._polls: list[tuple[float, int, list[str]]] = []
        self._idle_since = 0.0
        self._session: Session | None = None
        self._no_notifications = False
        self._number = 0
        self._next_full_poll = 0.0

    # -- for the waiting threads

    def watch(self, task_ids: Iterable[str], sink: Sink) -> None:
        """Call `sink` once for each task, as soon as it has ended."""
        with self._lock:
            for task_id in task_ids:
                awaited = self._awaited.get(task_id)
                if awaited is None:
                    awaited = self._awaited[task_id] = _Awaited(next(self._slots))
                    self._tasks[awaited.slot] = task_id
                    self._new.append(task_id)
                awaited.sinks.append(sink)
            watchdog.start()
            self.start()
        self.wake.set()

    def unwatch(self, task_ids: Iterable[str], sink: Sink) -> None:
        """Do not call `sink` for these tasks any more."""
        with self._lock:
            for task_id in task_ids:
                awaited = self._awaited.get(task_id)
                if awaited is None:
                    continue
                awaited.sinks = [one for one in awaited.sinks if one is not sink]
                if not awaited.sinks:
                    del self._awaited[task_id], self._tasks[awaited.slot]
                    self._dropped.append(task_id)
        self.wake.set()

    # -- the thread

    @property
    def connected(self) -> bool:
        return self._session is not None

    def connect(self) -> None:
        session, sessions = self._connect()
        self._session = session
        # Who may not read the number cannot guess the channel, and a flood does not follow us to the next one.
        self._number = secrets.randbits(62)
        self._no_notifications = not hears(session, sessions.dsn, sessions.connect)
        if not self._no_notifications:
            session.listen(f"celery_result_{self._number}")
        self._polls.clear()
        with self._lock:
            self._new = list(self._awaited)
            self._dropped.clear()

    def _connect(self) -> tuple[Session, Sessions]:
        if self._listening is not None:
            try:
                return self._listening.connect(), self._listening
            except driver.Error as error:
                logger.warning("Waiting for results without listen_dsn (%s)", loggable(error))
        return self._sessions.connect(), self._sessions

    def disconnect(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def log_failure(self, error: Exception, pause: float, *, first: bool) -> None:
        if self._awaited:
            name_database(error, self._sessions.name)
            logger.warning("Cannot wait for results (%s); next try in %.2f s", loggable(error), pause)

    def is_needed(self) -> bool:
        """The thread ends `IDLE_S` seconds after the last result; `watch` starts another one."""
        with self._lock:
            if threading.current_thread() is not self._thread:
                return False  # it was not needed before, and by now another one is
            if self._awaited:
                self._idle_since = time.monotonic()
            elif self._session is None or time.monotonic() - self._idle_since >= self.IDLE_S:
                self.disconnect()
                self._thread = None
                return False
            return True

    def finish(self) -> None:
        """`is_needed` has disconnected; the session may be another thread's by now."""

    def turn(self) -> None:
        session = self._session
        assert session is not None  # noqa: S101
        self._register(ResultStore(session))
        while self._polls and self._polls[0][0] <= time.monotonic():
            self._poll(heapq.heappop(self._polls)[2])
        if time.monotonic() >= self._next_full_poll:
            self._poll(list(self._awaited))
            self._next_full_poll = time.monotonic() + self._full_poll_s
        # A notification that arrived together with the answer of a statement makes nothing readable.
        if self._read_notifications(session):
            return
        until = min(self._next_full_poll, self._polls[0][0] if self._polls else self._next_full_poll)
        readable = self.wake.wait(until - time.monotonic(), session.fileno())
        self.wake.clear()
        if session.fileno() in readable:
            self._read_notifications(session)

    def _register(self, store: ResultStore) -> None:
        """Tell the database what is awaited since the last turn, and what is not awaited any more."""
        with self._lock:
            # A waiting thread has just read the results; reading them again before the registration would be one
            # statement more for each.
            slots = {task_id: self._awaited[task_id].slot for task_id in self._new if task_id in self._awaited}
            self._new = []
            dropped, self._dropped = self._dropped, []
        if dropped:
            store.stop_waiting(self._number, dropped)
        if slots:
            now, new = time.monotonic(), list(slots)
            store.await_results(self._number, slots)
            self._poll(new)
            for number, pause in enumerate(self.POLLS_S):
                heapq.heappush(self._polls, (now + pause, number, new))
            self._next_full_poll = now + self._full_poll_s

    def _read_notifications(self, session: Session) -> bool:
        """Poll the tasks that notifications name. Returns whether there was one."""
        # Anybody may notify, with any payload.
        payloads = session.notifications()
        if len(payloads) > self.MOST_NOTIFICATIONS:
            raise FloodError(f"{len(payloads)} notifications at once")
        slots = [slot for payload in payloads for slot in payload.split()]
        with self._lock:
            ended = [self._tasks[int(slot)] for slot in slots if slot.isdecimal() and int(slot) in self._tasks]
        self._poll(ended, registered=False)
        return bool(slots)

    @property
    def _full_poll_s(self) -> float:
        return self.POLL_S if self._no_notifications else self.REST_S

    def _poll(self, task_ids: list[str], *, registered: bool = True) -> None:
        """Deliver the outcomes of those tasks that have ended.

        Args:
            registered: the database may still have our registration for them.
        """
        task_ids = [task_id for task_id in task_ids if task_id in self._awaited]
        if not task_ids or self._session is None:
            return
        for outcome in ResultStore(self._session).results(task_ids):
            if not outcome.final:
                continue
            with self._lock:
                awaited = self._awaited.pop(outcome.task_id, None)
                if awaited is not None:
                    del self._tasks[awaited.slot]
                    if registered:
                        self._dropped.append(outcome.task_id)
            for sink in awaited.sinks if awaited is not None else ():
                try:
                    sink(outcome)
                except BaseException as error:  # everybody else in this process waits for this thread
                    logger.error(  # noqa: TRY400  # its text is the program's, and may quote the result
                        "A callback that waits for task %s has raised %s", outcome.task_id, type(error).__name__
                    )


class _Listeners:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.known: dict[Sessions, Listener] = {}


_listeners = PerProcess(_Listeners)


def listener(sessions: Sessions, listening: Sessions | None = None) -> Listener:
    """The listener of this process for a database; `listening` as for `Listener`, if there is none yet."""
    listeners = _listeners.value
    with listeners.lock:
        if sessions not in listeners.known:
            listeners.known[sessions] = Listener(sessions, listening)
        return listeners.known[sessions]
