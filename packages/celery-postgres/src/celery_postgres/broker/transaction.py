"""Publishing in a caller's own transaction: `publishing_on(connection)`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from celery_postgres.database.callers_connection import CallersConnection
from celery_postgres.database.driver import SERIALIZATION_FAILURE
from celery_postgres.database.envelope import Envelope
from celery_postgres.database.publish_store import Addressed, CallersPublishStore, PublishStore
from celery_postgres.database.store import Runner
from celery_postgres.errors import NotPublishedError

_thread = threading.local()


class CallersTransaction:
    """The transaction that a thread publishes in until the block of `publishing_on` ends. Used by that thread only."""

    def __init__(self, connection: Any) -> None:
        self._store = CallersPublishStore(CallersConnection(connection))
        self._ended = False

    def end(self) -> None:
        """Refuse every later publish: the block has ended."""
        self._ended = True

    def publish(self, messages: Sequence[Addressed], declare: Callable[[str], None]) -> None:
        """Publish to queues by name, all messages or none.

        Args:
            declare: declares a queue that this transaction does not see, in a transaction of its own.

        Raises:
            NotPublishedError: nothing was published, and the caller's transaction can only be rolled back, or, under
                REPEATABLE READ, is older than the queue.
        """
        self._check()
        missing = self._store.publish_many(messages)
        for queue in missing:
            declare(queue)
        if missing and self._store.publish_many(messages):
            raise NotPublishedError(
                "the queue was declared just now, and the snapshot of this transaction (REPEATABLE READ or "
                "SERIALIZABLE) is older: roll back and try again, or declare the queue beforehand",
                SERIALIZATION_FAILURE,
            )

    def publish_to_exchange(self, exchange: str, routing_key: str, envelope: Envelope) -> int:
        """Publish to the queues that the exchange routes the message to. Returns the number of queues."""
        self._check()
        return self._store.publish_to_exchange(exchange, routing_key, envelope)

    def _check(self) -> None:
        if self._ended:
            raise NotPublishedError("the block of publishing_on has ended, and with it its use of the transaction")


@contextmanager
def publishing_on(connection: Any) -> Iterator[None]:
    """Publish within the block as part of the transaction on `connection`.

    The messages of this thread are visible when the caller commits, and gone after a rollback. The transaction is
    neither begun nor ended here, except that SQLAlchemy begins one with the first statement, as with any other. Remote
    control (`app.control`) is not part of it and is published at once. Blocks may be nested; the innermost counts.

    Args:
        connection: a synchronous SQLAlchemy `Connection` driven by psycopg2, or a psycopg2 connection; to the broker's
            database, with the broker's schema in its search_path, and a role that may publish. In autocommit each
            message is visible at once.

    Raises:
        TypeError: it is something else; at once, before anything is published.
        NotPublishedError: from `apply_async` within the block: roll back.

    Example::

        with engine.begin() as connection, celery_postgres.publishing_on(connection):
            connection.execute(insert(order).values(number=7))
            ship.delay(7)
    """
    transaction = CallersTransaction(connection)
    outer = callers_transaction()
    _thread.transaction = transaction
    try:
        yield
    finally:
        transaction.end()
        _thread.transaction = outer


@contextmanager
def catching_up(runner: Runner) -> Iterator[None]:
    """Advance a sequence whose lag has failed the caller's transaction, so that the caller's next attempt succeeds."""
    try:
        yield
    except NotPublishedError as error:
        if error.lagging is not None:
            PublishStore(runner).catch_up(error.lagging)
        raise


@contextmanager
def at_once() -> Iterator[None]:
    """Publish within the block at once, whatever transaction is around it."""
    outer = callers_transaction()
    _thread.transaction = None
    try:
        yield
    finally:
        _thread.transaction = outer


def callers_transaction() -> CallersTransaction | None:
    """The transaction that this thread publishes in; None if it publishes at once."""
    return getattr(_thread, "transaction", None)
