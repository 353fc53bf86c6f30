"""Publishing many messages in few round trips."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery_postgres.broker.callers_transaction import Aside
from celery_postgres.broker.destinations import publish_declaring
from celery_postgres.broker.transaction import callers_transaction
from celery_postgres.database.envelope import Addressed, Envelope
from celery_postgres.database.publish_store import PublishStore
from celery_postgres.errors import DuplicateTaskError

#: Messages in one round trip.
BATCH = 500


class Bulk:
    """Messages that wait to be sent together. Those of one round trip are published all or none."""

    def __init__(self, client: Any, batch: int = BATCH, producer: Any = None) -> None:
        self.client = client
        self._batch = batch
        self._producer = producer
        self._waiting: list[Addressed] = []
        #: Kombu's retry policy, as `apply_async` has it; None to try once.
        self.retry_policy: dict[str, Any] | None = None
        #: The transaction that the messages are part of, however long they wait.
        self.transaction = callers_transaction(client.transport.sessions)

    def add(self, queue: str, envelope: Envelope) -> None:
        self._waiting.append((queue, envelope))
        if len(self._waiting) >= self._batch:
            self.flush()

    def discard(self) -> None:
        self._waiting = []

    def flush(self) -> None:
        """Send the waiting messages; they wait until they are sent.

        Raises:
            psycopg2.OperationalError: these may or may not have been published. Kombu's error, if Kombu tried again.
            NotPublishedError: these were not published.
        """
        if not self._waiting:
            return
        if self.transaction is not None:
            waiting, self._waiting = self._waiting, []
            self.transaction.publish(waiting, Aside(self.client.transport.sessions, self._declare))
        elif self.retry_policy is None:
            self._send()
        else:
            self.client.ensure(self, self._send, **self.retry_policy)()

    def _send(self) -> None:
        waiting, store = self._waiting, PublishStore(self.client.transport.sessions)
        try:
            publish_declaring(lambda: store.publish_many(waiting), self._declare)
        except DuplicateTaskError:
            self._waiting = []  # the others are published
            raise
        self._waiting = []

    def _declare(self, queue: str) -> None:
        self.client.default_channel._new_queue(queue)

    def revive(self, channel: Any) -> None:
        """Go on with the transport of a new connection, which Kombu has made."""
        channel.connection.bulk = self
        if self._producer is not None:
            self._producer.revive(channel)


class PublishBatch:
    """What Kombu 5.7's `Producer.batch()` asks a channel for. Messages to named exchanges are sent at once."""

    def __init__(self, channel: Any, max_size: int) -> None:
        self.channel = channel
        self._bulk = Bulk(channel.connection.client, max_size)

    def publish(self, message: dict[str, Any], **options: Any) -> None:
        transport = self.channel.connection
        outer, transport.bulk = transport.bulk, self._bulk
        try:
            self.channel.basic_publish(message, **options)
        finally:
            transport.bulk = outer

    def flush(self) -> None:
        self._bulk.flush()

    def discard(self) -> None:
        self._bulk.discard()

    def close(self) -> None:
        self._bulk.discard()


@contextmanager
def bulk(producer: Any) -> Iterator[Any]:
    """Send what is published through `producer` within the block together, up to 500 messages in a round trip.

    The messages are durable when the block ends, or, if it began within `publishing_on`, when that transaction commits.
    If the block ends with an error, messages that still wait are not sent.

    Savepoints of that transaction belong around the block and not into it: a message is written with the others that
    wait, and so not within the savepoint in which it was published.

    Raises:
        kombu.exceptions.OperationalError: the last 500 may or may not have been published, as with `apply_async`
            alone: Celery has tried again, and may have published some of them twice.

    Example::

        with app.producer_or_acquire() as producer, celery_postgres.bulk(producer):
            for number in range(1000):
                task.apply_async((number,), producer=producer)
    """
    transport = producer.channel.connection
    if transport.bulk is not None:
        yield producer  # inside another block, which sends the messages
        return
    client = transport.client
    transport.bulk = one = Bulk(client, producer=producer)
    try:
        with _quick(producer, one):
            yield producer
            one.flush()
    finally:
        client.transport.bulk = None


@contextmanager
def _quick(producer: Any, bulk: Bulk) -> Iterator[None]:
    """Publish through `producer` without what Kombu does for each message and a bulk needs once.

    Kombu makes a retrying wrapper for the publish and one for the declaration, and copies the queue and its exchange
    to find out that it has declared them: 34 of the 114 us of an `apply_async` in bulk. Here the flush is what is tried
    again, and only what was never declared is declared.
    """
    publish, declare = producer.publish, producer.maybe_declare

    def publish_quickly(*body: Any, retry: bool = False, retry_policy: Any = None, **options: Any) -> Any:
        bulk.retry_policy = dict(retry_policy or {}) if retry else None
        if options.get("exchange") or producer.exchange.name:  # sent at once
            return publish(*body, retry=retry, retry_policy=retry_policy, **options)
        return publish(*body, **options)

    def declare_once(entity: Any, retry: bool = False, **policy: Any) -> Any:
        if entity and entity.can_cache_declaration and hash(entity) in bulk.client.declared_entities:
            return False
        if bulk.retry_policy is None:
            return declare(entity)
        # Kombu binds it only from 5.6 on.
        bound = entity if not entity or entity.is_bound else entity.bind(producer.channel)
        return declare(bound, True, **bulk.retry_policy)

    producer.publish, producer.maybe_declare = publish_quickly, declare_once
    try:
        yield
    finally:
        del producer.publish, producer.maybe_declare
