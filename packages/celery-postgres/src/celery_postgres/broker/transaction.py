"""Publishing in somebody's own transaction: `publishing_on(connection)`."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg2
import psycopg2.extensions
from psycopg2 import errorcodes

from celery_postgres.database.envelope import columns
from celery_postgres.database.statements import statements
from celery_postgres.errors import NotPublishedError, is_lasting, lagging, primary, translate

if TYPE_CHECKING:
    from celery_postgres.database.envelope import Envelope
    from celery_postgres.database.pool import Sessions
    from celery_postgres.database.session import Row

_thread = threading.local()


class CallersTransaction:
    """Somebody's connection, on which messages go out until the block ends. Only its own thread uses it."""

    def __init__(self, connection: Any) -> None:
        self._execute = _executor(connection)
        self.ended = False

    def publish(self, messages: list[tuple[str, Envelope]]) -> list[str]:
        """Publish to queues by name, all of them or, if this transaction sees not all of the queues, none.

        Returns the names of the queues that it does not see.
        """
        if len(messages) == 1:
            ((queue, one),) = messages
            return [] if self._run("publish_within", queue=queue, **_columns(one)) else [queue]
        ((missing, _),) = self._run(
            "publish_many_within",
            queues=[queue for queue, _ in messages],
            **columns([one for _, one in messages]),
        )
        return list(dict.fromkeys(messages[number - 1][0] for number in missing or ()))

    def publish_to_exchange(self, exchange: str, routing_key: str, envelope: Envelope) -> int:
        """How many queues took it."""
        ((taken, _),) = self._run(
            "publish_to_exchange_within",
            exchange=exchange,
            routing_key=routing_key,
            **_columns(envelope),
        )
        return int(taken)

    def publish_surely(self, messages: list[tuple[str, Envelope]], declare: Callable[[str], None]) -> None:
        """Publish to queues by name; `declare` makes those that are missing, in a transaction of its own.

        Raises:
            NotPublishedError: nothing was published, and the caller's transaction can only be rolled back, or, under
                REPEATABLE READ, is older than the queue.
        """
        missing = self.publish(messages)
        for queue in missing:
            declare(queue)
        if missing and self.publish(messages):
            raise NotPublishedError(
                "the queue was made just now, and the snapshot of this transaction (REPEATABLE READ or SERIALIZABLE) "
                "is older: roll back and do it again, or declare the queue beforehand",
                errorcodes.SERIALIZATION_FAILURE,
            )

    def _run(self, name: str, **parameters: Any) -> list[Row]:
        if self.ended:
            raise NotPublishedError("the block of publishing_on has ended, and with it where this was to go")
        try:
            return self._execute(statements()[name].direct, parameters)
        except psycopg2.Error as error:
            # Not as a psycopg2.Error: Kombu would take it for a lost connection of its own, and publish again.
            table = lagging(error)
            if table is not None:
                raise NotPublishedError(
                    f"the sequence of {table} lags behind its ids; it is moved on now: roll back and do it again",
                    errorcodes.SERIALIZATION_FAILURE,
                    lagging=table,
                ) from None
            told = translate(error)
            if not isinstance(told, psycopg2.Error):
                raise told from None
            raise NotPublishedError(
                f"not published in the caller's transaction, which can only be rolled back now: {primary(error)}",
                error.pgcode,
                lasting=is_lasting(error),
            ) from None


@contextmanager
def publishing_on(connection: Any) -> Iterator[None]:
    """What this thread publishes within the block is part of the transaction on `connection`.

    Messages are visible when the caller commits, and gone when he rolls back. The caller's transaction stays his: it
    is neither begun nor ended here, except that SQLAlchemy begins one with the first statement, as with any other.
    Remote control (`app.control`) is not part of it and goes out at once. Blocks may be nested; the innermost counts.

    Parameters:
        connection: a synchronous SQLAlchemy `Connection` driven by psycopg2, or a psycopg2 connection; to the broker's
            database, with the broker's schema in its search_path, and a role that may publish. In autocommit each
            message is visible at once.

    Raises:
        TypeError: it is something else; at once, before anything is published.
        NotPublishedError (from `apply_async` within the block): roll back.

    Example::

        with engine.begin() as connection, celery_postgres.publishing_on(connection):
            connection.execute(insert(order).values(number=7))
            ship.delay(7)
    """
    mine = CallersTransaction(connection)
    outer = callers_transaction()
    _thread.transaction = mine
    try:
        yield
    finally:
        mine.ended = True
        _thread.transaction = outer


@contextmanager
def catching_up(sessions: Sessions) -> Iterator[None]:
    """Mend for the next attempt what has failed the caller's transaction, which nobody but he can do again."""
    try:
        yield
    except NotPublishedError as error:
        if error.lagging is not None:
            sessions.run("catch_up", relation=error.lagging)
        raise


@contextmanager
def at_once() -> Iterator[None]:
    """What this thread publishes within the block goes out by itself, whatever block is around."""
    outer = callers_transaction()
    _thread.transaction = None
    try:
        yield
    finally:
        _thread.transaction = outer


def callers_transaction() -> CallersTransaction | None:
    """Where this thread's publishes go, if not out by themselves."""
    return getattr(_thread, "transaction", None)


def _columns(envelope: Envelope) -> dict[str, Any]:
    return {
        "payload": envelope.payload,
        "priority": envelope.priority,
        "task_id": envelope.task_id,
        "tenant_id": envelope.tenant_id,
        "eta": envelope.eta,
        "ttl_ms": envelope.ttl_ms,
    }


def _executor(connection: Any) -> Callable[[str, dict[str, Any]], list[Row]]:
    """How a statement is executed on whatever a caller may have.

    Raises:
        TypeError: on this it is not; the text says what to do instead.
    """
    if isinstance(connection, psycopg2.extensions.connection):
        return lambda statement, parameters: _on_psycopg2(connection, statement, parameters)
    # Whoever has an object of SQLAlchemy has loaded the module: it need not be loaded here.
    if _is(connection, "sqlalchemy.ext.asyncio", "AsyncConnection", "AsyncSession", "async_scoped_session"):
        raise TypeError(
            f"publishing_on takes a synchronous connection, and this is an {type(connection).__name__}, whose driver "
            "is not psycopg2 (nor is it within run_sync): put the transaction into a function that opens "
            "`with engine.begin() as connection, publishing_on(connection)` on an engine for postgresql+psycopg2, "
            "and `await asyncio.to_thread(function)`"
        )
    if _is(connection, "sqlalchemy.orm", "Session", "scoped_session"):
        raise TypeError("publishing_on takes a connection, and this is a Session: give it session.connection()")
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
        # By SQLAlchemy and not by its driver's cursor: it must know that a transaction has begun, or its commit()
        # would commit nothing.
        return [tuple(row) for row in connection.exec_driver_sql(statement, parameters)]
    except DBAPIError as error:
        # Its text has the parameters in it.
        if isinstance(error.orig, psycopg2.Error):
            raise error.orig from None
        raise
