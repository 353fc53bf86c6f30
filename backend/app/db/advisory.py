"""Advisory locks by name: one at a time, over all processes that share the database."""

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
    """Until the transaction ends, no statement waits longer than this for a lock."""
    connection.execute(_LOCK_TIMEOUT, {"timeout": f"{milliseconds}ms"})


def try_transaction_lock(connection: Connection, name: str) -> bool:
    """Take the lock until the transaction ends. False, at once, if somebody has it."""
    return bool(connection.execute(_TRY_IN_TRANSACTION, {"name": name}).scalar_one())


@contextmanager
def session_lock(connection: Connection, name: str, *, wait_ms: int) -> Iterator[bool]:
    """Hold the lock over the transactions within the block; yields False if somebody kept it for `wait_ms`.

    The lock belongs to the server's session: it is gone when this process is, and `connection` must be the same
    session throughout, so no transaction pooler may stand between. If the lock cannot be given back, the
    connection is closed rather than returned to its pool with it.
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
