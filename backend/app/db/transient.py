"""Which database failures pass by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, OperationalError

from app.core.errors import LoggableError

#: serialization_failure, deadlock_detected, lock_not_available: PostgreSQL rolled the transaction back, and another
#: attempt may succeed.
_CONFLICTS = frozenset({"40001", "40P01", "55P03"})
#: admin_shutdown, crash_shutdown, cannot_connect_now: the server is stopping or starting.
_RESTARTS = frozenset({"57P01", "57P02", "57P03"})
#: read_only_sql_transaction: a standby, or a database that was set read-only; only a new session can write.
READ_ONLY = "25006"
_CONNECTION_CLASS = "08"


class TransientDatabaseError(LoggableError):
    """The database could not finish this now; another attempt may. Tasks retry with back-off."""


@contextmanager
def transient_errors() -> Iterator[None]:
    """Raise conflicts between transactions and lost connections within the block as `TransientDatabaseError`.

    All other errors (a wrong statement, a missing privilege) pass unchanged.
    """
    try:
        yield
    except DBAPIError as error:
        if is_transient(error):
            raise TransientDatabaseError(_what(error)) from error
        raise


def is_transient(error: DBAPIError) -> bool:
    """Whether another attempt at the same statement may succeed: 40001, 40P01, 55P03, 25006, or a connection that broke
    or was never made.
    """
    code = getattr(error.orig, "pgcode", None)
    if error.connection_invalidated or code in _CONFLICTS | _RESTARTS | {READ_ONLY}:
        return True
    # libpq's own errors, such as a refused connection, have no SQLSTATE.
    return code.startswith(_CONNECTION_CLASS) if code else isinstance(error, OperationalError)


def _what(error: DBAPIError) -> str:
    """The error in our own words: the driver's may quote a row."""
    code = getattr(error.orig, "pgcode", None)
    if code in _CONFLICTS:
        return f"a conflict with another transaction (SQLSTATE {code})"
    if code == READ_ONLY:
        return f"the database takes no writes (SQLSTATE {code})"
    return "the connection to the database was lost" + (f" (SQLSTATE {code})" if code else "")
