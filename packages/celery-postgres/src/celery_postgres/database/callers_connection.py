"""A caller's own connection, on which statements are executed as part of the caller's transaction."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import psycopg2
import psycopg2.extensions
from psycopg2 import errorcodes

from celery_postgres.database.session import Row
from celery_postgres.database.statements import statements
from celery_postgres.errors import NotPublishedError, is_lasting, lagging, primary, translate


class CallersConnection:
    """Executes statements on a connection that the caller begins, commits and closes. Used by one thread."""

    def __init__(self, connection: Any) -> None:
        """
        Args:
            connection: a synchronous SQLAlchemy `Connection` driven by psycopg2, or a psycopg2 connection.

        Raises:
            TypeError: it is something else; the text says what to do instead.
        """
        self._execute = _executor(connection)

    def run(self, name: str, **parameters: Any) -> list[Row]:
        """Execute the named statement in the caller's transaction.

        Raises:
            NotPublishedError: PostgreSQL refused it, and the caller's transaction can only be rolled back. It is not a
                `psycopg2.Error`: Kombu would take that for a lost connection of its own, and publish again.
            SchemaError: the tables or the rights are missing.
        """
        try:
            return self._execute(statements()[name].direct, parameters)
        except psycopg2.Error as error:
            table = lagging(error)
            if table is not None:
                raise NotPublishedError(
                    f"the sequence of {table} lags behind its ids and is advanced now: roll back and try again",
                    errorcodes.SERIALIZATION_FAILURE,
                    lagging=table,
                ) from None
            translated = translate(error)
            if not isinstance(translated, psycopg2.Error):
                raise translated from None
            raise NotPublishedError(
                f"not published in the caller's transaction, which can only be rolled back now: {primary(error)}",
                error.pgcode,
                lasting=is_lasting(error),
            ) from None


def _executor(connection: Any) -> Callable[[str, dict[str, Any]], list[Row]]:
    """The function that executes a statement on this kind of connection.

    Raises:
        TypeError: there is none; the text says what to do instead.
    """
    if isinstance(connection, psycopg2.extensions.connection):
        return lambda statement, parameters: _on_psycopg2(connection, statement, parameters)
    # An object of SQLAlchemy comes from a loaded module: it need not be loaded here.
    if _is(connection, "sqlalchemy.ext.asyncio", "AsyncConnection", "AsyncSession", "async_scoped_session"):
        raise TypeError(
            f"publishing_on takes a synchronous connection, and this is an {type(connection).__name__}, whose driver "
            "is not psycopg2 (nor is it within run_sync): put the transaction into a function that opens "
            "`with engine.begin() as connection, publishing_on(connection)` on an engine for postgresql+psycopg2, "
            "and `await asyncio.to_thread(function)`"
        )
    if _is(connection, "sqlalchemy.orm", "Session", "scoped_session"):
        raise TypeError("publishing_on takes a connection, and this is a Session: pass session.connection()")
    if not _is(connection, "sqlalchemy", "Connection"):
        raise TypeError(
            "publishing_on takes an SQLAlchemy Connection or a psycopg2 connection, not "
            f"{type(connection).__module__}.{type(connection).__qualname__}"
        )
    driver = f"{connection.dialect.name}+{connection.dialect.driver}"
    if driver != "postgresql+psycopg2":
        raise TypeError(
            f"publishing_on takes a connection that psycopg2 drives, and this one is {driver}: open the transaction "
            "on an engine for postgresql+psycopg2"
        )
    return lambda statement, parameters: _on_sqlalchemy(connection, statement, parameters)


def _is(value: Any, module: str, *names: str) -> bool:
    loaded = sys.modules.get(module)
    classes = tuple(getattr(loaded, name) for name in names if hasattr(loaded, name))
    return isinstance(value, classes)


def _on_psycopg2(connection: Any, statement: str, parameters: dict[str, Any]) -> list[Row]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return list(cursor.fetchall())


def _on_sqlalchemy(connection: Any, statement: str, parameters: dict[str, Any]) -> list[Row]:
    from sqlalchemy.exc import DBAPIError

    try:
        # Through SQLAlchemy and not through its driver's cursor: it must record that a transaction has begun, or its
        # commit() would commit nothing.
        return [tuple(row) for row in connection.exec_driver_sql(statement, parameters)]
    except DBAPIError as error:
        # Its text quotes the parameters.
        if isinstance(error.orig, psycopg2.Error):
            raise error.orig from None
        raise
