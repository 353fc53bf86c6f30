"""Sessions of the console that were ended by signing out, for all of its processes."""

from __future__ import annotations

from celery_postgres.database.reader import STATEMENT_TIMEOUT, Reader
from celery_postgres.database.session import Session


class EndedSessionStore:
    """Ends sessions, and knows which were ended.

    Both methods raise `SchemaError` if the table or the right to it is missing, and `psycopg2.Error` if the database
    cannot be reached.

    Args:
        reader: reads, by one index. What it cannot do is done on a connection of its own, which is closed again: people
            sign out seldom.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def has(self, digest: str) -> bool:
        """Whether a session was ended."""
        return bool(self._reader.run("view_ended_session", digest=digest))

    def end(self, digest: str) -> None:
        """End a session."""
        settings = {"application_name": "celery_postgres console", "statement_timeout": STATEMENT_TIMEOUT}
        session = Session(self._reader.dsn, settings)
        try:
            session.run("end_session", digest=digest)
        finally:
            session.close()
