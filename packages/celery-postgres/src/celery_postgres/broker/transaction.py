"""Publishing in a caller's own transaction: `publishing_on(connection)`."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from celery_postgres.broker.callers_transaction import Transaction, WrittenAtOnce, WrittenAtTheEnd
from celery_postgres.database.callers import Adapter, AsyncAdapter
from celery_postgres.database.callers_connection import AsyncCallersConnection, CallersConnection, connection_for
from celery_postgres.database.pool import Sessions
from celery_postgres.errors import NotPublishedError

#: Returns a connection that `publishing_on` takes with `with`, in a transaction in the database of a libpq connection
#: string; None if there is none.
Provider = Callable[[str], Any]


class _Block:
    """A block that messages are part of, or, without a transaction, one in which they are published at once."""

    def __init__(self, transaction: Transaction | None) -> None:
        self.transaction = transaction
        self._outer = _block.get()
        self._thread: int | None = threading.get_ident()
        self._task = _task()
        _block.set(self)

    @property
    def is_here(self) -> bool:
        """A task or a thread that was begun within a block inherits the variable, and not the block. But an event loop
        that runs within the block, from its beginning to its end, is part of it with all its tasks."""
        return self._thread == threading.get_ident() and (self._task is None or self._task is _task())

    def end(self) -> None:
        if self.transaction is not None:
            self.transaction.end()
        self._thread = self._task = None
        _block.set(self._outer)  # not by a token: a generator's end may be in another context than its beginning


_block: ContextVar[_Block | None] = ContextVar("celery_postgres_block", default=None)
_ambient: Provider | None = None


class PublishingOn:
    """What `publishing_on` returns: a block for `with` or for `async with`, which may be entered again."""

    def __init__(self, connection: Any, *, notify: bool) -> None:
        self._connection = connection_for(connection)
        self._notify = notify
        self._blocks: list[_Block] = []
        self._kind = type(connection).__qualname__

    def __enter__(self) -> None:
        if not isinstance(self._connection, Adapter):
            raise TypeError(f"an asynchronous connection ({self._kind}) needs `async with publishing_on(connection)`")
        self._blocks.append(_Block(WrittenAtOnce(CallersConnection(self._connection, notify=self._notify))))

    def __exit__(self, *_: object) -> None:
        self._leave().end()

    async def __aenter__(self) -> None:
        if not isinstance(self._connection, AsyncAdapter):
            raise TypeError(f"a synchronous connection ({self._kind}) needs `with publishing_on(connection)`")
        self._blocks.append(_Block(WrittenAtTheEnd(AsyncCallersConnection(self._connection, notify=self._notify))))

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        block = self._leave()
        block.end()
        if kind is None and isinstance(block.transaction, WrittenAtTheEnd):
            await block.transaction.write()

    def _leave(self) -> _Block:
        """The block that ends: the innermost of this asyncio task, as several may use one object. A generator may be
        ended by another task than began it, and then it is the innermost of all."""
        mine = [block for block in self._blocks if block.is_here]
        block = (mine or self._blocks)[-1]
        self._blocks.remove(block)
        return block


def publishing_on(connection: Any, *, notify: bool = True) -> PublishingOn:
    """Publish within the block as part of the transaction on `connection`.

    The messages are visible when the caller commits, and gone after a rollback. The transaction is neither begun nor
    ended here, except that drivers begin one with the first statement, as with any other. Remote control
    (`app.control`) is not part of it and is published at once. Blocks may be nested; the innermost counts. What other
    threads and other asyncio tasks publish is not part of the block, also if they were started within it.

    With `with` each message is written as it is published. With `async with` the messages are collected, and written
    together when the block ends without an error; then they are part of the transaction.

    Args:
        connection: for `with`: a connection of psycopg2 or of psycopg 3, `django.db.connection`, or an SQLAlchemy
            `Connection` or `Session` over one of these drivers. For `async with`: an `AsyncConnection` of psycopg 3, a
            connection of asyncpg, or an SQLAlchemy `AsyncConnection` or `AsyncSession` over one of these. To the
            broker's database, with the broker's schema in its search_path, and a role that may publish. In autocommit
            each message, or what `async with` has collected, is visible at once.
        notify: whether the commit notifies consumers. A commit that notifies waits for all others that do. Without it
            consumers find the messages when they poll.

    Raises:
        TypeError: it is something else; at once, before anything is published.
        NotPublishedError: it is closed; from `apply_async` within `with`: roll back, at least to a savepoint of your
            own; from the end of `async with`: nothing was published, and the transaction remains usable.

    Example::

        with engine.begin() as connection, celery_postgres.publishing_on(connection):
            connection.execute(insert(order).values(number=7))
            ship.delay(7)
    """
    return PublishingOn(connection, notify=notify)


def set_ambient(provider: Provider | None) -> None:
    """Ask `provider` for a transaction whenever something is published outside of a block of `publishing_on`.

    Args:
        provider: called with the libpq connection string of the broker, in the thread that publishes. None to ask
            nothing any more.
    """
    global _ambient
    _ambient = provider


@contextmanager
def at_once() -> Iterator[None]:
    """Publish within the block at once, whatever transaction is around it."""
    block = _Block(None)
    try:
        yield
    finally:
        block.end()


def callers_transaction(sessions: Sessions) -> Transaction | None:
    """The transaction to publish in here, on the broker of `sessions`; None to publish at once."""
    block = _block.get()
    if block is not None and block.is_here:
        return block.transaction
    if _ambient is None:
        return None
    connection = _ambient(sessions.dsn)
    return None if connection is None else _Ambient(connection, sessions.dsn)


def is_within_block() -> bool:
    """Whether what is published here is part of the transaction of a `publishing_on`."""
    block = _block.get()
    return block is not None and block.is_here and block.transaction is not None


class _Ambient(WrittenAtOnce):
    """A transaction that an ambient provider has found. Two of the same connection are equal."""

    def __init__(self, connection: Any, dsn: str) -> None:
        adapted = connection_for(connection)
        if not isinstance(adapted, Adapter):
            raise TypeError("the provider of set_ambient has returned an asynchronous connection")
        super().__init__(CallersConnection(adapted))
        self._connection, self._dsn = connection, dsn

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Ambient) and other._connection is self._connection

    def __hash__(self) -> int:
        return id(self._connection)

    def check(self) -> None:
        if _ambient is None or _ambient(self._dsn) is not self._connection:
            raise NotPublishedError("the transaction that these messages were part of has ended")


def _task() -> Any:
    """The asyncio task that runs here; None if none does."""
    asyncio: Any = sys.modules.get("asyncio")
    try:
        return asyncio and asyncio.current_task()
    except RuntimeError:  # no event loop runs here
        return None
