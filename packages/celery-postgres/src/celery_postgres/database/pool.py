"""The sessions of a process: `Sessions` lends them, and every user of one database shares them."""

from __future__ import annotations

import os
import threading
from typing import Any

import psycopg2

from celery_postgres.database import watchdog
from celery_postgres.database.session import Row, Session, leave_all_to_parent
from celery_postgres.database.statements import statements


class Sessions:
    """The sessions of this process with one database: as many as threads use at the same moment.

    The last one given back is the first one lent, so a process that publishes from one thread has one.
    """

    def __init__(self, dsn: str, settings: dict[str, str] | None = None, *, connect_timeout: int = 5) -> None:
        self.dsn = dsn
        self._settings = settings
        self._connect_timeout = connect_timeout
        self._idle: list[Session] = []
        #: Whoever takes it for its statements uses one connection with all the others that do.
        self.taking_turns = threading.Lock()

    def connect(self) -> Session:
        """A new session, which is the caller's."""
        if watchdog.hopeless(self.dsn):
            raise psycopg2.OperationalError("the server does not answer, and this process is to stop")
        return Session(self.dsn, self._settings, connect_timeout=self._connect_timeout)

    def _borrow(self) -> Session:
        """An idle session, or a new one. One that was closed while it was idle costs nobody an attempt."""
        while True:
            try:
                session = self._idle.pop()
            except IndexError:
                return self.connect()
            if session.usable:
                return session
            session.close()

    def run(self, name: str, **parameters: Any) -> list[Row]:
        """Execute the named statement on some session.

        A connection that proves dead is replaced, and the statement sent once more, if the server certainly did not
        execute it or if it is repeatable.
        """
        session = self._borrow()
        try:
            rows = session.run(name, **parameters)
        except psycopg2.Error as error:
            if not session.closed:
                self._idle.append(session)
                raise
            session.close()
            self.discard_dead()
            if not (statements()[name].repeatable or getattr(error, "safe", False)):
                raise
        except BaseException:
            if session.closed:
                session.close()
            else:
                self._idle.append(session)
            raise
        else:
            self._idle.append(session)
            return rows
        session = self.connect()
        try:
            return session.run(name, **parameters)
        finally:
            if session.closed:
                session.close()
            else:
                self._idle.append(session)

    def discard_dead(self) -> None:
        """After one connection broke: the idle ones are likely to be broken too, and are made anew when needed."""
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:
                return

    close = discard_dead


_lock = threading.Lock()
_shared: dict[tuple[str, Any, int], tuple[Sessions, int]] = {}


def acquire(dsn: str, settings: dict[str, str], connect_timeout: int) -> Sessions:
    """The sessions that all Kombu connections of this process to `dsn` share. `give_back` when done."""
    key = (dsn, tuple(sorted(settings.items())), connect_timeout)
    with _lock:
        sessions, users = _shared.get(key) or (Sessions(dsn, settings, connect_timeout=connect_timeout), 0)
        _shared[key] = sessions, users + 1
    return sessions


def give_back(sessions: Sessions) -> None:
    """The last user closes them."""
    with _lock:
        for key, (known, users) in list(_shared.items()):
            if known is sessions:
                if users > 1:
                    _shared[key] = known, users - 1
                    return
                del _shared[key]
    sessions.close()


def _leave_everything_to_parent() -> None:
    global _lock
    _lock = threading.Lock()
    leave_all_to_parent()
    for sessions, _ in _shared.values():
        sessions._idle = []  # the parent's; a user in this child connects anew
    _shared.clear()


os.register_at_fork(after_in_child=_leave_everything_to_parent)
