"""A caller's own connection, on which statements are executed as part of the caller's transaction."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

from psycopg2 import errorcodes

from celery_postgres.database.callers import Adapter, AsyncAdapter, Refusal, adapter_of, refusal_of
from celery_postgres.database.session import Row
from celery_postgres.database.statements import Statement, statements
from celery_postgres.database.translating import schema_error
from celery_postgres.errors import NotPublishedError, lagging_table, refuses_value

#: How what is written together begins, ends and is undone: within a transaction, and in autocommit.
_WITHIN = ("SAVEPOINT celery_postgres", "RELEASE SAVEPOINT celery_postgres", "ROLLBACK TO SAVEPOINT celery_postgres")
_ALONE = ("BEGIN", "COMMIT", "ROLLBACK")


class CallersConnection:
    """Executes statements on a connection that the caller begins, commits and closes. Used by one thread.

    Args:
        notify: whether the commit notifies consumers.
    """

    def __init__(self, connection: Adapter, *, notify: bool = True) -> None:
        self._connection = connection
        self._notify = notify

    def run(self, name: str, **parameters: Any) -> list[Row]:
        """Execute the named statement in the caller's transaction.

        Raises:
            NotPublishedError: PostgreSQL refused it, and the caller's transaction can only be rolled back. It is no
                error of a driver: Kombu would take that for a lost connection of its own, and publish again.
            SchemaError: the tables or the rights are missing.
        """
        try:
            return self._connection.fetch(_statement(name, self._notify), parameters)
        except Exception as error:
            # A Django connection has only now chosen its driver.
            if not isinstance(error, self._connection.errors):
                raise
            raise _refused(refusal_of(error), usable=False) from None

    @contextlib.contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """What is executed within the block is undone if the block ends with an error: it is a savepoint, or in
        autocommit a transaction."""
        one = self._connection
        try:
            begin, end, undo = _ALONE if one.autocommits() else _WITHIN
            one.execute(begin)
            try:
                yield
                one.execute(end)
            except BaseException:
                with contextlib.suppress(*one.errors):
                    one.execute(undo)
                raise
        except Exception as error:
            if not isinstance(error, one.errors):
                raise
            raise _refused(refusal_of(error), usable=False) from None


class AsyncCallersConnection:
    """The same for an asynchronous connection. Used by one task."""

    def __init__(self, connection: AsyncAdapter, *, notify: bool = True) -> None:
        self._connection = connection
        self._notify = notify

    async def run(self, name: str, **parameters: Any) -> list[Row]:
        """Execute the named statement in the caller's transaction.

        Raises:
            NotPublishedError, SchemaError: as above; within `all_or_nothing` the transaction remains usable.
        """
        try:
            return await self._connection.fetch(_statement(name, self._notify), parameters)
        except self._connection.errors as error:
            raise _refused(refusal_of(error), usable=True) from None

    def transaction(self) -> object:
        """What tells the transaction that is open from another; None if none is open."""
        return self._connection.transaction()

    async def check_transaction(self, earlier: object) -> None:
        """
        Args:
            earlier: what `transaction` has returned before.

        Raises:
            NotPublishedError: that transaction has ended, or none is open that the caller would end.
        """
        now = self._connection.transaction()
        if earlier is not None and now is not earlier:
            raise NotPublishedError(
                "not published: the transaction has ended within the block of publishing_on; commit after the block"
            )
        try:
            if now is None and not await self._connection.autocommits():
                raise NotPublishedError(
                    "not published: no transaction is open where the block of publishing_on ends; begin one before "
                    "the block, or in it, and commit after the block"
                )
        except self._connection.errors as error:
            raise _refused(refusal_of(error), usable=False) from None

    @contextlib.asynccontextmanager
    async def all_or_nothing(self) -> AsyncIterator[None]:
        """What is executed within the block is undone if the block ends with an error: it is a savepoint, or in
        autocommit a transaction."""
        try:
            begin, end, undo = _ALONE if await self._connection.autocommits() else _WITHIN
            await self._connection.execute(begin)
            try:
                yield
                await self._connection.execute(end)
            except BaseException:
                with contextlib.suppress(*self._connection.errors):
                    await self._connection.execute(undo)
                raise
        except self._connection.errors as error:
            raise _refused(refusal_of(error), usable=False) from None


def connection_for(connection: Any) -> Adapter | AsyncAdapter:
    """What executes statements on this kind of connection.

    Raises:
        TypeError: nothing does; the text says what to do instead.
        NotPublishedError: it is closed.
    """
    adapted = adapter_of(connection)
    if adapted.closed:
        raise NotPublishedError("the connection given to publishing_on is closed: give it an open one")
    return adapted


def _statement(name: str, notify: bool) -> Statement:
    statement = statements()[name]
    return statement if notify else statement.quietly or statement


def _refused(refusal: Refusal, *, usable: bool) -> Exception:
    """
    Args:
        usable: whether a savepoint keeps the caller's transaction usable, if the connection is not lost.
    """
    code = refusal.sqlstate
    table = lagging_table(code, refusal.table, refusal.constraint)
    if table is not None:
        return NotPublishedError(
            f"the sequence of {table} lags behind its ids and is advanced now: "
            + ("publish again" if usable else "roll back and try again"),
            errorcodes.SERIALIZATION_FAILURE,
            lagging=table,
        )
    lasting = refuses_value(code, refusal.source_function) if code else refusal.lasting
    what = "goes on without it" if usable and (code or lasting) else "can only be rolled back now"
    return schema_error(code, refusal.message) or NotPublishedError(
        f"not published in the caller's transaction, which {what}: {refusal.message}", code, lasting=lasting
    )
