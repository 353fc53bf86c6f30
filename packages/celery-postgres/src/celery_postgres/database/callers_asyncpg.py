"""A caller's connection of asyncpg."""

from __future__ import annotations

from typing import Any

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from celery_postgres.database.callers import AsyncAdapter, Refusal, unsuitable
from celery_postgres.database.session import Row
from celery_postgres.database.statements import Statement


class Asyncpg(AsyncAdapter):
    """Parameters are `$1`, and PostgreSQL knows their types from the casts around them."""

    #: A lost connection is also an `OSError`.
    errors = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)

    @property
    def closed(self) -> bool:
        return bool(self._connection.is_closed())

    async def fetch(self, statement: Statement, parameters: dict[str, Any]) -> list[Row]:
        values = [parameters[name] for name in statement.parameters]
        return [tuple(row) for row in await self._connection.fetch(statement.numbered, *values)]

    async def execute(self, sql: str) -> None:
        await self._connection.execute(sql)

    def transaction(self) -> object:
        return True if self._connection.is_in_transaction() else None

    async def autocommits(self) -> bool:
        return self.transaction() is None


def adapter(connection: Any) -> Asyncpg:
    if not isinstance(connection, asyncpg.Connection | PoolConnectionProxy):
        raise unsuitable(connection)
    return Asyncpg(connection)


def refusal(error: Any) -> Refusal:
    if isinstance(error, OSError):
        return Refusal(None, type(error).__name__)  # its text may name an address
    if not isinstance(error, asyncpg.PostgresError) or error.message is None:
        # It is asyncpg's own, and one of a value quotes it.
        lasting = isinstance(error, asyncpg.DataError | ValueError)
        message = "the driver cannot send one of its values" if lasting else str(error).partition("\n")[0]
        return Refusal(None, message or type(error).__name__, lasting=lasting)
    return Refusal(error.sqlstate, error.message, error.table_name, error.constraint_name, error.server_source_function)
