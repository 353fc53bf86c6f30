"""Signing out ends a session on the server, in all processes: a copy of its cookie is then worth nothing."""

from __future__ import annotations

from hashlib import sha256

from celery_postgres.console.sessions import Session
from celery_postgres.readmodel import ReadModel

#: Sessions that a process remembers to be ended, so that it does not ask the database for them.
_MOST = 10_000


class SignOuts:
    """Knows which sessions were ended by signing out.

    Args:
        model: of the database that all processes of a console share.
    """

    def __init__(self, model: ReadModel) -> None:
        self._ended_sessions = model.ended_sessions
        self._known: dict[str, None] = {}

    def end(self, session: Session) -> None:
        """End a session: here at once, in other processes with their next question.

        Raises:
            SchemaError, psycopg2.Error: the other processes do not know of it.
        """
        digest = _digest(session)
        self._remember(digest)
        self._ended_sessions.end(digest)

    def has(self, session: Session) -> bool:
        """Whether a session was ended. Asks the database, by a primary key.

        Raises:
            SchemaError, psycopg2.Error: that cannot be read, so the session counts for nothing now.
        """
        digest = _digest(session)
        if digest in self._known:
            return True
        if self._ended_sessions.has(digest):
            self._remember(digest)
            return True
        return False

    def ended_here(self, session: Session) -> bool:
        """Whether this process knows that a session was ended, without asking."""
        return _digest(session) in self._known

    def _remember(self, digest: str) -> None:
        while len(self._known) >= _MOST:
            self._known.pop(next(iter(self._known)), None)
        self._known[digest] = None


def _digest(session: Session) -> str:
    return sha256(session.nonce.encode()).hexdigest()
