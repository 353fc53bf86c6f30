"""Publishing many messages in few round trips."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery_postgres.message import Envelope

MOST = 500

_thread = threading.local()


class Bulk:
    """Publishes that wait to go out together. All of one round trip, or none."""

    def __init__(self, transport: Any, most: int = MOST) -> None:
        self._transport = transport
        self._most = most
        self._waiting: list[tuple[str, Envelope]] = []

    def add(self, queue: str, envelope: Envelope) -> None:
        self._waiting.append((queue, envelope))
        if len(self._waiting) >= self._most:
            self.flush()

    def discard(self) -> None:
        self._waiting = []

    def flush(self) -> None:
        """Send what waits.

        Raises:
            psycopg2.OperationalError: these may or may not have been published.
        """
        waiting, self._waiting = self._waiting, []
        while waiting:
            ((missing, _),) = self._transport.sessions.run(
                "publish_many",
                queues=[queue for queue, _ in waiting],
                payloads=[one.payload for _, one in waiting],
                priorities=[one.priority for _, one in waiting],
                task_ids=[one.task_id for _, one in waiting],
                tenant_ids=[one.tenant_id for _, one in waiting],
                etas=[one.eta for _, one in waiting],
                ttls_ms=[one.ttl_ms for _, one in waiting],
            )
            if not missing:
                return
            channel = self._transport.client.default_channel
            for queue in {waiting[number - 1][0] for number in missing}:
                channel._new_queue(queue)


class PublishBatch:
    """What Kombu 5.7's `Producer.batch()` asks a channel for. Publishes to named exchanges go out at once."""

    def __init__(self, channel: Any, max_size: int) -> None:
        self.channel = channel
        self._bulk = Bulk(channel.connection, max_size)

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
    """Publishes through `producer` within the block go out together, up to 500 in a round trip.

    They are durable when the block ends. If it ends with an error, those that still wait are not sent.

    Example::

        with app.producer_or_acquire() as producer, celery_postgres.bulk(producer):
            for number in range(1000):
                task.apply_async((number,), producer=producer)
    """
    transport = producer.channel.connection
    if transport.bulk is not None:
        yield producer  # inside another block, which sends them
        return
    transport.bulk = one = Bulk(transport)
    try:
        yield producer
        one.flush()
    finally:
        transport.bulk = None


class Collected:
    """What a thread has published, by queue, for a statement that does more than publish."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, Envelope]] = []

    def add(self, queue: str, envelope: Envelope) -> None:
        self.messages.append((queue, envelope))


@contextmanager
def collected() -> Iterator[Collected]:
    """Nothing that this thread publishes in the block is sent: it is the caller's to send. Except for broadcasts to
    workers, which go out at once.
    """
    outer = collecting()
    _thread.collected = mine = Collected()
    try:
        yield mine
    finally:
        _thread.collected = outer


def collecting() -> Collected | None:
    """What this thread's publishes go into, if anything."""
    return getattr(_thread, "collected", None)
