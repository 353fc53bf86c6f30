"""Sessions that only read: a few of their own, so that no worker and no publisher waits for who looks."""

from __future__ import annotations

import os
import threading
from typing import Any

import psycopg2

from celery_postgres.database import watchdog
from celery_postgres.database.session import Row, Session

#: Sessions at the same moment.
SESSIONS = 2
#: The longest time of one statement.
STATEMENT_TIMEOUT = "2s"
#: How long a statement waits for a free session before it fails.
PATIENCE_S = 4.0
_SETTINGS = {
    "application_name": "celery_postgres console",
    "statement_timeout": STATEMENT_TIMEOUT,
    # The first is for sessions, the second for a transaction pooler's, where each statement brings its settings along.
    "default_transaction_read_only": "on",
    "transaction_read_only": "on",
}


class Reader:
    """Executes named statements in read-only transactions. For any number of threads.

    Args:
        dsn: a libpq connection string.
    """

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._idle: list[Session] = []
        self._free = threading.BoundedSemaphore(SESSIONS)

    def run(self, name: str, **parameters: Any) -> list[Row]:
        """Execute the named statement. A connection that was lost is replaced, and the statement sent once more.

        Raises:
            SchemaError: the tables or the rights are missing.
            psycopg2.Error: the database cannot be reached, or did not answer within `STATEMENT_TIMEOUT`.
        """
        if self._pid != os.getpid():
            self._begin()  # the sessions are the parent's
        if not self._free.acquire(timeout=PATIENCE_S):
            raise psycopg2.OperationalError(f"the {SESSIONS} connections that may read for views are busy: try again")
        try:
            return self._run(name, parameters)
        finally:
            self._free.release()

    def _run(self, name: str, parameters: dict[str, Any]) -> list[Row]:
        session = self._borrow()
        if session is not None:
            try:
                return session.run(name, **parameters)
            except psycopg2.Error:
                if not session.closed:
                    raise
            finally:
                self._give_back(session)
        # A server that stands still cancels no statement: without it two looks would take both sessions for good.
        watchdog.start()
        session = Session(self.dsn, _SETTINGS)
        try:
            return session.run(name, **parameters)
        finally:
            self._give_back(session)

    def _borrow(self) -> Session | None:
        while self._idle:
            session = self._idle.pop()
            if session.usable:
                return session
            session.close()
        return None

    def _give_back(self, session: Session) -> None:
        if session.closed:
            session.close()
        else:
            self._idle.append(session)

    def close(self) -> None:
        """Close the idle sessions."""
        if self._pid == os.getpid():
            while self._idle:
                self._idle.pop().close()
