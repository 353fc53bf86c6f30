"""What can go wrong, in words that may be logged: never a DSN, never a payload."""

from __future__ import annotations

import psycopg2
from kombu.exceptions import EncodeError


class SchemaError(Exception):
    """The database lacks tables, columns or rights that the broker needs; waiting does not bring them."""


class LeaseLost(psycopg2.OperationalError):
    """Other workers have taken over what this process had claimed, because it was silent for too long.

    An `OperationalError`, so that Kombu and Celery treat it as a lost connection and connect anew.
    """


class UnstorableResultError(EncodeError):
    """A result, a state or an id that cannot be stored. Its text names types and lengths, and quotes nothing.

    An `EncodeError`, so that Celery makes it the failure of its task.
    """


class NotPublishedError(Exception):
    """A message was not published in the caller's transaction (`publishing_on`). Its text quotes nothing.

    Attributes:
        sqlstate: PostgreSQL's code, if it was PostgreSQL that refused: 40001 and 40P01 may be done again from the
            beginning of the transaction.
    """

    def __init__(self, text: str, sqlstate: str | None = None) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate


#: SQLSTATE of what a migration mends: undefined table, column, function.
_SCHEMA_CODES = frozenset({"42P01", "42703", "42883"})
_NO_RIGHT = "42501"
#: What libpq (15 to 17) says of a certificate that has expired, and of one whose CA is another, alike.
_UNVERIFIED = "certificate verify failed"


def primary(error: BaseException) -> str:
    """The driver's message without the statement: `str()` of a psycopg2 error quotes the line that failed, with its
    values."""
    diagnosis = getattr(error, "diag", None)
    message = getattr(diagnosis, "message_primary", None)
    if message:
        return str(message)
    lines = str(error).strip().splitlines()
    return explained(lines[0].strip()) if lines else type(error).__name__


def explained(line: str) -> str:
    """What libpq says, and what it does not say of it."""
    if line.endswith(_UNVERIFIED):
        return f"{line}: the server's has expired or is not yet valid, or no CA in sslrootcert has signed it"
    return line


def loggable(error: BaseException) -> BaseException | str:
    """What a log line says of it. A `SchemaError` is said whole: its text quotes nothing, and names what to do."""
    return error if isinstance(error, SchemaError) else primary(error)


def translate(error: psycopg2.Error, role: str = "", statement: str = "") -> Exception:
    """The same error in words that help and do not tell.

    Parameters:
        role: who connected, if that is known.
        statement: the name of what was to be executed, if it has one.
    """
    if error.pgcode in _SCHEMA_CODES:
        return SchemaError(
            f"the broker's tables are missing or older than this release ({primary(error)}): run "
            "`alembic upgrade head` where the project has migrations, else celery_postgres.create_schema(engine)"
        )
    if error.pgcode == _NO_RIGHT:
        who, what = f"the role {role}".rstrip(), f" what the statement {statement} needs" if statement else " this"
        return SchemaError(
            f"{who} may not do{what} ({primary(error)}): as the owner of the tables, grant it that, or the role of "
            "ops/postgres/roles.sql that is made for its work"
        )
    plain = type(error)(primary(error))
    return plain
