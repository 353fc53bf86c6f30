"""A connection of Django: `django.db.connection`, or one of `django.db.connections`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from django import db
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.connection import ConnectionProxy

from celery_postgres.database.callers import Adapter, Refusal, adapter_of, unsuitable
from celery_postgres.database.session import Row
from celery_postgres.database.statements import Statement

_Result = TypeVar("_Result")


class Django(Adapter):
    """The driver's connection below Django's, which logs the values of statements where DEBUG is set."""

    errors = (db.Error,)

    @property
    def closed(self) -> bool:
        return False  # Django opens it again, outside of `atomic`

    def fetch(self, statement: Statement, parameters: dict[str, Any]) -> list[Row]:
        return self._below(lambda adapted: adapted.fetch(statement, parameters))

    def execute(self, sql: str) -> None:
        self._below(lambda adapted: adapted.execute(sql))

    def autocommits(self) -> bool:
        return self._below(lambda adapted: adapted.autocommits())

    def _below(self, function: Callable[[Adapter], _Result]) -> _Result:
        connection = self._connection
        connection.validate_thread_sharing()
        connection.validate_no_broken_transaction()
        connection.ensure_connection()
        adapted = adapter_of(connection.connection)
        assert isinstance(adapted, Adapter)  # noqa: S101  # Django has no asynchronous connections
        self.errors = (db.Error, *adapted.errors)
        try:
            return function(adapted)
        except adapted.errors:
            connection.errors_occurred = True  # or Django would keep a connection that is lost
            # PostgreSQL would answer the COMMIT of a failed transaction with a ROLLBACK, and Django would not notice.
            if connection.in_atomic_block:
                connection.needs_rollback = True
            raise


def adapter(connection: Any) -> Django:
    if isinstance(connection, ConnectionProxy):
        connection = db.connections[connection.alias]
    if not isinstance(connection, BaseDatabaseWrapper):
        raise unsuitable(connection)
    if connection.vendor != "postgresql":
        raise TypeError(
            f"publishing_on takes a connection to the broker's PostgreSQL, and Django's {connection.alias!r} is "
            f"{connection.vendor}: pass connections[…] of the broker's database"
        )
    return Django(connection)


def refusal(error: Any) -> Refusal:
    if isinstance(error, db.transaction.TransactionManagementError):
        return Refusal("25P02", "a statement before it failed in this atomic block")
    return Refusal(None, f"Django cannot use the connection ({type(error).__name__})")
