"""A caller's connection of psycopg 3, asynchronous or not."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from celery_postgres.database.callers import Adapter, AsyncAdapter, Refusal, unsuitable
from celery_postgres.database.session import Row
from celery_postgres.database.statements import Statement


class Psycopg(Adapter):
    """PostgreSQL fills in the values. The cursor and its rows are psycopg's own, whatever factories the caller has set.

    In pipeline mode the statement waits for its answer, and with it for those before it.
    """

    errors = (psycopg.Error,)

    def fetch(self, statement: Statement, parameters: dict[str, Any]) -> list[Row]:
        with psycopg.Cursor(self._connection, row_factory=tuple_row) as cursor:
            cursor.execute(statement.direct, parameters)
            return cursor.fetchall()

    def execute(self, sql: str) -> None:
        with psycopg.Cursor(self._connection) as cursor:
            cursor.execute(sql)

    def autocommits(self) -> bool:
        is_idle = self._connection.info.transaction_status == TransactionStatus.IDLE
        return bool(self._connection.autocommit) and is_idle


class AsyncPsycopg(AsyncAdapter):
    """The same, asynchronous."""

    errors = (psycopg.Error,)

    async def fetch(self, statement: Statement, parameters: dict[str, Any]) -> list[Row]:
        async with psycopg.AsyncCursor(self._connection, row_factory=tuple_row) as cursor:
            await cursor.execute(statement.direct, parameters)
            return await cursor.fetchall()

    async def execute(self, sql: str) -> None:
        async with psycopg.AsyncCursor(self._connection) as cursor:
            await cursor.execute(sql)

    def transaction(self) -> object:
        return None if self._connection.info.transaction_status == TransactionStatus.IDLE else True

    async def autocommits(self) -> bool:
        return bool(self._connection.autocommit) and self.transaction() is None


def adapter(connection: Any) -> Psycopg | AsyncPsycopg:
    if isinstance(connection, psycopg.AsyncConnection):
        return AsyncPsycopg(connection)
    if isinstance(connection, psycopg.Connection):
        return Psycopg(connection)
    raise unsuitable(connection)


def refusal(error: Any) -> Refusal:
    if error.sqlstate is None or error.diag.sqlstate is None:
        # It is psycopg's own, and one of a value may quote it.
        lasting = isinstance(error, psycopg.DataError | psycopg.ProgrammingError | psycopg.NotSupportedError)
        lines = str(error).strip().splitlines()
        message = "the driver cannot send one of its values" if lasting else lines[0] if lines else type(error).__name__
        return Refusal(error.sqlstate, message, lasting=lasting)
    diagnosis = error.diag
    return Refusal(
        error.sqlstate,
        diagnosis.message_primary or type(error).__name__,
        diagnosis.table_name,
        diagnosis.constraint_name,
        diagnosis.source_function,
    )
