"""Named statements on a connection of the application, in the transaction that it has there."""

from __future__ import annotations

from typing import Any

import psycopg2

from celery_postgres.database.lexer import is_single
from celery_postgres.database.session import Row
from celery_postgres.database.statements import statements


class BorrowedConnection:
    """Executes statements on somebody else's connection. It begins, ends and retries nothing.

    Its errors are those of the connection. `CallersConnection` is for publishing, where Kombu must not take them for a
    lost connection of its own.

    Args:
        connection: a psycopg2 connection, or a synchronous SQLAlchemy `Connection` that psycopg2 drives.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._is_psycopg2 = isinstance(connection, psycopg2.extensions.connection)

    def run(self, name: str, **parameters: Any) -> list[Row]:
        """Execute the named statement.

        Raises:
            psycopg2.ProgrammingError: with these values it is not one statement; nothing was sent.
            Exception: what the connection raises for a statement that fails.
        """
        statement = statements()[name].direct
        driver = self._connection if self._is_psycopg2 else self._connection.connection.dbapi_connection
        with driver.cursor() as cursor:
            # Producers choose the names of queues. If quoting one of them ever went wrong, this still is one statement:
            # it cannot end the transaction, which may be read-only, and begin another that writes.
            if not is_single(cursor.mogrify(statement, parameters).decode()):
                raise psycopg2.ProgrammingError(f"{name} was not sent: with these values it is not one statement")
            if self._is_psycopg2:
                cursor.execute(statement, parameters)
                return list(cursor.fetchall())
        # Through SQLAlchemy, which has to know that a transaction has begun.
        return [tuple(row) for row in self._connection.exec_driver_sql(statement, parameters)]
