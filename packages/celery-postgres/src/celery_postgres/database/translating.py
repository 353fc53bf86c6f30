"""The driver's errors with a text that says what to do."""

from __future__ import annotations

import psycopg2
from psycopg2 import errorcodes

from celery_postgres.errors import ReadOnlyError, SchemaError, is_lasting, primary

#: The SQLSTATEs that a migration repairs: undefined table, column, function, unique index.
_SCHEMA_CODES = frozenset({"42P01", "42703", "42883", "42P10"})
_NO_RIGHT = "42501"


def translate(error: psycopg2.Error, role: str = "", statement: str = "") -> Exception:
    """The same error with a text that says what to do and quotes no statement.

    Args:
        role: the role that connected, if known.
        statement: the name of the statement that failed, if it has one.
    """
    found = schema_error(error.pgcode, primary(error), role, statement)
    if found is not None:
        return found
    return restated(error, ReadOnlyError if error.pgcode == errorcodes.READ_ONLY_SQL_TRANSACTION else type(error))


def schema_error(sqlstate: str | None, reason: str, role: str = "", statement: str = "") -> SchemaError | None:
    """What to do about missing tables or rights; None if the SQLSTATE has another meaning.

    Args:
        reason: PostgreSQL's own message, without the statement.
    """
    if sqlstate in _SCHEMA_CODES:
        missing = SchemaError(
            f"the broker's tables are missing, older than this release or not on the search_path ({reason}): "
            "run `python -m celery_postgres migrate` as the role that owns the tables, or your project's own migrations"
        )
        missing.outdated = True
        return missing
    if sqlstate == _NO_RIGHT:
        who = f"the role {role}".rstrip()
        what = f"what the statement {statement} needs" if statement else "this"
        return SchemaError(
            f"{who} may not do {what} ({reason}): as the owner of what is named there, grant {who} USAGE on a "
            "schema or a sequence, EXECUTE on a function, SELECT, INSERT, UPDATE or DELETE on a table"
        )
    return None


def restated(error: psycopg2.Error, kind: type[psycopg2.Error]) -> psycopg2.Error:
    """The same error as an instance of `kind`, without the statement and with its SQLSTATE."""
    text = str(primary(error))
    if kind is ReadOnlyError:
        text += ": connect to the primary (several hosts and target_session_attrs=read-write find it)"
    plain = kind(text)
    # `pgcode` can be set in no other way; this is how psycopg2 itself unpickles it.
    plain.__setstate__({"pgcode": error.pgcode})  # type: ignore[no-untyped-call]
    plain.lasting = is_lasting(error)  # type: ignore[attr-defined]  # known from the diagnosis, which is not copied
    return plain
