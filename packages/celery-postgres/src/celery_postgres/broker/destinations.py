"""Where a published message goes: out at once, into a caller's transaction, or to whatever collects messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from celery_postgres.broker.callers_transaction import Aside, Transaction
from celery_postgres.database.envelope import Envelope
from celery_postgres.database.publish_store import PublishStore
from celery_postgres.database.store import Runner
from celery_postgres.errors import NotPublishedError

Declare = Callable[[str], None]

#: How often a queue is declared for a message. One that is deleted at once, or that this database does not have, would
#: otherwise be declared without end.
DECLARATIONS = 3


def publish_declaring(publish: Callable[[], Sequence[str]], declare: Declare) -> None:
    """Publish, and declare the queues that do not exist.

    Args:
        publish: publishes all or nothing, and returns the queues that are missing.

    Raises:
        NotPublishedError: a queue is missing although it was declared. Nothing was published.
    """
    for _ in range(DECLARATIONS):
        missing = publish()
        if not missing:
            return
        for queue in missing:
            declare(queue)
    if missing := publish():
        raise NotPublishedError(
            f"not published: the queue {missing[0]!r} is missing although it was declared. It is deleted again and "
            "again, or the processes of this fleet have different Databases"
        )


class Destination(Protocol):
    """Takes the messages of a channel."""

    def to_queue(self, queue: str, envelope: Envelope) -> None:
        """Publish to the queue of that name, which is declared if it does not exist."""
        ...

    def to_exchange(self, exchange: str, routing_key: str, envelope: Envelope) -> bool:
        """Publish to the queues that the exchange routes the message to. Returns whether there are any."""
        ...


class AtOnce:
    """Each message is one statement and one commit."""

    __slots__ = ("_declare", "_store")

    def __init__(self, runner: Runner, declare: Declare) -> None:
        self._store = PublishStore(runner)
        self._declare = declare

    def to_queue(self, queue: str, envelope: Envelope) -> None:
        if self._store.publish(queue, envelope):
            return
        self._declare(queue)
        publish_declaring(lambda: [] if self._store.publish(queue, envelope) else [queue], self._declare)

    def to_exchange(self, exchange: str, routing_key: str, envelope: Envelope) -> bool:
        return self._store.publish_to_exchange(exchange, routing_key, envelope) > 0


class WithinTransaction:
    """Each message is part of a caller's transaction, which may be unable to tell at once whether a queue takes it:
    `fallback` is the queue of those that none takes."""

    __slots__ = ("_aside", "_fallback", "_transaction")

    def __init__(self, transaction: Transaction, aside: Aside, fallback: str | None) -> None:
        self._transaction = transaction
        self._aside = aside
        self._fallback = fallback

    def to_queue(self, queue: str, envelope: Envelope) -> None:
        self._transaction.publish([(queue, envelope)], self._aside)

    def to_exchange(self, exchange: str, routing_key: str, envelope: Envelope) -> bool:
        self._transaction.publish_to_exchange(exchange, routing_key, envelope, self._fallback, self._aside)
        return True


class Collector(Protocol):
    """Something that keeps messages, each with its queue."""

    def add(self, queue: str, envelope: Envelope) -> None: ...


class Collecting:
    """Messages are kept, to be sent together. `routes` returns the queues of an exchange and a routing key."""

    __slots__ = ("_collector", "_routes")

    def __init__(self, collector: Collector, routes: Callable[[str, str], Iterable[str]]) -> None:
        self._collector = collector
        self._routes = routes

    def to_queue(self, queue: str, envelope: Envelope) -> None:
        self._collector.add(queue, envelope)

    def to_exchange(self, exchange: str, routing_key: str, envelope: Envelope) -> bool:
        queues = list(self._routes(exchange, routing_key))
        for queue in queues:
            self._collector.add(queue, envelope)
        return bool(queues)
