"""Advisory locks by name: one holder at a time, over all processes that share the database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

LOCK_NOT_AVAILABLE = "55P03"

_TRY_IN_TRANSACTION = text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0))")
_LOCK_SESSION = text("SELECT pg_advisory_lock(hashtextextended(:name, 0))")
_UNLOCK_SESSION = text("SELECT pg_advisory_unlock(hashtextextended(:name, 0))")
_LOCK_TIMEOUT = text("SELECT set_config('lock_timeout', :timeout, true)")


def set_lock_timeout(connection: Connection, milliseconds: int) -> None:
    """Limit how long each statement waits for a lock, until the transaction ends."""
    connection.execute(_LOCK_TIMEOUT, {"timeout": f"{milliseconds}ms"})


def try_transaction_lock(connection: Connection, name: str) -> bool:
    """Take the lock until the transaction ends. Return False at once if another session has it."""
    return bool(connection.execute(_TRY_IN_TRANSACTION, {"name": name}).scalar_one())


@contextmanager
def session_lock(connection: Connection, name: str, *, wait_ms: int) -> Iterator[bool]:
    """Hold the lock over the transactions within the block; yield False if another session kept it for `wait_ms`.

    The lock belongs to the server's session: it ends with this process, and `connection` must be the same session
    throughout, so no transaction pooler may be in between. If the lock cannot be released, the connection is closed
    instead of returning to its pool with the lock.
    """
    if not _lock_session(connection, name, wait_ms):
        yield False
        return
    try:
        yield True
    finally:
        if not connection.invalidated:
            try:
                with connection.begin():
                    connection.execute(_UNLOCK_SESSION, {"name": name})
            except DBAPIError:
                connection.invalidate()


def _lock_session(connection: Connection, name: str, wait_ms: int) -> bool:
    try:
        with connection.begin():
            set_lock_timeout(connection, wait_ms)
            connection.execute(_LOCK_SESSION, {"name": name})
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) == LOCK_NOT_AVAILABLE:
            return False
        raise
    return True
