"""The sessions of a process, which all users of one database share."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import psycopg2

from celery_postgres.database import watchdog
from celery_postgres.database.opened import opened
from celery_postgres.database.per_process import PerProcess
from celery_postgres.database.session import Row, Session
from celery_postgres.database.statements import statements
from celery_postgres.errors import SchemaError, name_database


class Sessions:
    """The sessions of this process with one database: as many as threads use at the same moment.

    The session that was returned last is lent first, so a process that publishes from one thread has one.
    """

    def __init__(self, dsn: str, settings: dict[str, str] | None = None, *, connect_timeout: int = 5) -> None:
        self.dsn = dsn
        #: What the fleet calls the database; None if that has one alone. Errors about its connections quote it.
        self.name: str | None = None
        self._settings = settings
        self._connect_timeout = connect_timeout
        self._idle: list[Session] = []
        #: Users that hold it while they run their statements share one connection.
        self.taking_turns = threading.Lock()

    def connect(self) -> Session:
        """A new session, which belongs to the caller."""
        if watchdog.hopeless(self.dsn):
            raise psycopg2.OperationalError("the server does not answer, and this process is to stop")
        try:
            return Session(self.dsn, self._settings, connect_timeout=self._connect_timeout)
        except (psycopg2.Error, SchemaError) as error:
            name_database(error, self.name)
            raise

    def _borrow(self) -> Session:
        """An idle session, or a new one. A session that was closed while it was idle costs no attempt."""
        while True:
            try:
                session = self._idle.pop()
            except IndexError:
                return self.connect()
            if session.usable:
                return session
            session.close()

    @contextlib.contextmanager
    def lent(self) -> Iterator[Session]:
        """Some session, for the block. A lost connection is not replaced."""
        session = self._borrow()
        try:
            yield session
        except psycopg2.Error as error:
            name_database(error, self.name)
            raise
        finally:
            if session.closed:
                session.close()
                self.discard_dead()
            else:
                self._idle.append(session)

    def run(self, name: str, **parameters: Any) -> list[Row]:
        """Execute the named statement on some session.

        A lost connection is replaced, and the statement sent once more, if the server certainly did not execute it or
        if the statement is repeatable.
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
                name_database(error, self.name)
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
        """Close the idle sessions: after one connection broke they are probably broken too."""
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:
                return

    close = discard_dead


class _Shared:
    """The sessions of this process, and how many connections of Kombu use them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users: dict[tuple[str, Any, int], tuple[Sessions, int]] = {}

    def leave_to_parent(self) -> None:
        for sessions, _ in self.users.values():
            sessions._idle = []  # the parent's; a user in this child connects anew


_shared = PerProcess(_Shared, _Shared.leave_to_parent)


def acquire(dsn: str, settings: dict[str, str], connect_timeout: int, name: str | None = None) -> Sessions:
    """The sessions that all Kombu connections of this process to `dsn` share. Call `give_back` when done.

    Args:
        name: what the fleet calls the database.
    """
    key = (dsn, tuple(sorted(settings.items())), connect_timeout)
    shared = _shared.value
    with shared.lock:
        sessions, users = shared.users.get(key) or (Sessions(dsn, settings, connect_timeout=connect_timeout), 0)
        shared.users[key] = sessions, users + 1
        sessions.name = name or sessions.name
    return sessions


def give_back(sessions: Sessions) -> None:
    """Sessions are closed when their last user gives them back."""
    shared = _shared.value
    with shared.lock:
        for key, (known, users) in list(shared.users.items()):
            if known is sessions:
                if users > 1:
                    shared.users[key] = known, users - 1
                    return
                del shared.users[key]
    sessions.close()


def close_all() -> None:
    """Close all sessions of this process, so that a database can be dropped. A thread that needs one connects anew."""
    for session in opened():
        session.close()
