"""A caller's SQLAlchemy `Connection` or `Session`, asynchronous or not, over psycopg2, psycopg 3 or asyncpg.

All statements go through SQLAlchemy and not through its driver's cursor: SQLAlchemy must record that a transaction has
begun, or its `commit()` would commit nothing. Only what SQLAlchemy 1.4, 2.0 and 2.1 have in common is used.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from sqlalchemy import bindparam, exc, text
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session, scoped_session
from sqlalchemy.types import NULLTYPE

from celery_postgres.database.callers import Adapter, AsyncAdapter, Refusal, refusal_of, unsuitable
from celery_postgres.database.session import Row
from celery_postgres.database.statements import Statement

#: Of psycopg2 and psycopg 3, as libpq has it.
_IDLE = 0
_DRIVERS = ("psycopg2", "psycopg", "psycopg_async", "asyncpg")


class Sqlalchemy(Adapter):
    """A connection or a session, and, within `run_sync`, those that are below asynchronous ones."""

    errors = (exc.SQLAlchemyError,)

    @property
    def closed(self) -> bool:
        return bool(getattr(self._connection, "closed", False))  # a session is never

    def fetch(self, statement: Statement, parameters: dict[str, Any]) -> list[Row]:
        return _fetch(_connection_of(self._connection), statement, parameters)

    def execute(self, sql: str) -> None:
        _connection_of(self._connection).exec_driver_sql(sql)

    def autocommits(self) -> bool:
        return _autocommits(_connection_of(self._connection))


class AsyncSqlalchemy(AsyncAdapter):
    """An asynchronous connection or session."""

    errors = (exc.SQLAlchemyError,)

    @property
    def closed(self) -> bool:
        return bool(getattr(self._connection, "closed", False))  # a session is never

    async def fetch(self, statement: Statement, parameters: dict[str, Any]) -> list[Row]:
        rows: list[Row] = await self._run(lambda connection: _fetch(connection, statement, parameters))
        return rows

    async def execute(self, sql: str) -> None:
        await self._run(lambda connection: connection.exec_driver_sql(sql))

    def transaction(self) -> object:
        one = self._connection
        below = one.sync_session if hasattr(one, "sync_session") else one.sync_connection
        transaction: object = below.get_transaction()
        return transaction

    async def autocommits(self) -> bool:
        return bool(await self._run(_autocommits))

    async def _run(self, function: Callable[[Any], Any]) -> Any:
        return await self._connection.run_sync(lambda one: function(_connection_of(one)))


def _autocommits(connection: Connection) -> bool:
    """Whether the driver commits each statement, and the caller has not begun a transaction by hand."""
    pooled: Any = connection.connection
    if not pooled.dbapi_connection.autocommit:
        return False
    driver = pooled.driver_connection
    info = getattr(driver, "info", None)  # asyncpg has none
    return not driver.is_in_transaction() if info is None else info.transaction_status == _IDLE


def adapter(connection: Any) -> Sqlalchemy | AsyncSqlalchemy:
    asynchronous = _asynchronous(connection)
    if asynchronous is not None:
        _check(asynchronous)
        return AsyncSqlalchemy(asynchronous)
    if not isinstance(connection, Connection | Session | scoped_session):
        raise unsuitable(connection)
    _check(connection)
    return Sqlalchemy(connection)


def _asynchronous(connection: Any) -> Any:
    """The asynchronous connection or session that it is, or stands for; None if it is neither."""
    if not type(connection).__module__.startswith("sqlalchemy.ext.asyncio") and not hasattr(connection, "run_sync"):
        return None
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

    if isinstance(connection, async_scoped_session):
        connection = connection()
    return connection if isinstance(connection, AsyncConnection | AsyncSession) else None


def _check(connection: Any) -> None:
    """
    Raises:
        TypeError: it is not connected to a PostgreSQL, or not by a driver that is known.
    """
    try:
        dialect = connection.get_bind().dialect if hasattr(connection, "get_bind") else connection.dialect
    except exc.SQLAlchemyError as error:
        raise TypeError(
            f"publishing_on cannot use this {type(connection).__name__} ({type(error).__name__}): give it a bind, or "
            "pass the connection of one, in a block that has begun"
        ) from None
    if dialect.name != "postgresql" or dialect.driver not in _DRIVERS:
        raise TypeError(
            "publishing_on takes a connection to PostgreSQL by psycopg2, psycopg or asyncpg, and this one is "
            f"{dialect.name}+{dialect.driver}: open the transaction on an engine for postgresql+psycopg2"
        )


def _connection_of(connection: Any) -> Any:
    """The connection itself, or that of a session, which may be another after each commit."""
    return connection if isinstance(connection, Connection) else connection.connection()


def _fetch(connection: Any, statement: Statement, parameters: dict[str, Any]) -> list[Row]:
    if connection.dialect.driver == "asyncpg":
        return [tuple(row) for row in connection.execute(_clause(statement.direct, statement.parameters), parameters)]
    return [tuple(row) for row in connection.exec_driver_sql(statement.direct, parameters)]


@lru_cache(maxsize=16)
def _clause(direct: str, parameters: tuple[str, ...]) -> Any:
    """The statement with SQLAlchemy's own parameters, to which it adds no types: the statement casts each."""
    named = direct % {name: f":{name}" for name in parameters}
    return text(named).bindparams(*[bindparam(name, type_=NULLTYPE) for name in parameters])


def refusal(error: Any) -> Refusal:
    """The driver's reason. The text of SQLAlchemy's own error quotes the parameters."""
    if not isinstance(error, exc.DBAPIError) or error.orig is None:
        return Refusal(None, f"SQLAlchemy cannot use the connection ({type(error).__name__})")
    orig = error.orig
    # SQLAlchemy has errors of its own for asyncpg's, which are their cause.
    if type(orig).__module__.startswith("sqlalchemy."):
        return refusal_of(orig.__cause__) if orig.__cause__ is not None else Refusal(None, type(orig).__name__)
    return refusal_of(orig)
