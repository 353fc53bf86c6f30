"""A caller's connection of psycopg2."""

from __future__ import annotations

from typing import Any

import psycopg2
import psycopg2.extensions

from celery_postgres.database.callers import Adapter, Refusal, unsuitable
from celery_postgres.database.session import Row
from celery_postgres.database.statements import Statement
from celery_postgres.errors import is_lasting, primary


class Psycopg2(Adapter):
    """The client fills in the values. The cursor is psycopg2's own, whatever `cursor_factory` the caller has set."""

    errors = (psycopg2.Error,)

    def fetch(self, statement: Statement, parameters: dict[str, Any]) -> list[Row]:
        with self._connection.cursor(cursor_factory=psycopg2.extensions.cursor) as cursor:
            cursor.execute(statement.direct, parameters)
            return list(cursor.fetchall())

    def execute(self, sql: str) -> None:
        with self._connection.cursor(cursor_factory=psycopg2.extensions.cursor) as cursor:
            cursor.execute(sql)

    def autocommits(self) -> bool:
        is_idle = self._connection.get_transaction_status() == psycopg2.extensions.TRANSACTION_STATUS_IDLE
        return bool(self._connection.autocommit) and is_idle


def adapter(connection: Any) -> Psycopg2:
    if not isinstance(connection, psycopg2.extensions.connection):
        raise unsuitable(connection)
    if getattr(connection, "async_", 0):
        raise TypeError(
            "publishing_on cannot wait for an asynchronous connection of psycopg2: use psycopg 3 or asyncpg"
        )
    return Psycopg2(connection)


def refusal(error: Any) -> Refusal:
    diagnosis = error.diag
    return Refusal(
        error.pgcode,
        str(primary(error)),
        diagnosis.table_name,
        diagnosis.constraint_name,
        diagnosis.source_function,
        lasting=is_lasting(error),
    )
