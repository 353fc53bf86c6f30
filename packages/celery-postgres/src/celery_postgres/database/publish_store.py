"""Publishing: messages that enter queues, by themselves or in a caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence

from celery_postgres.database.callers_connection import AsyncCallersConnection
from celery_postgres.database.envelope import Envelope, columns
from celery_postgres.database.store import Store

#: A message, and the queue that it goes to.
Addressed = tuple[str, Envelope]


class PublishStore(Store):
    """Publish messages. Each call is one statement and one commit."""

    def publish(self, queue: str, envelope: Envelope) -> bool:
        """Publish one message. Returns whether the queue exists; if not, nothing was published."""
        return bool(
            self._run(
                "publish",
                queue=queue,
                payload=envelope.payload,
                priority=envelope.priority,
                task_id=envelope.task_id,
                tenant_id=envelope.tenant_id,
                eta=envelope.eta,
                ttl_ms=envelope.ttl_ms,
                durable=envelope.durable,
            )
        )

    def publish_to_exchange(self, exchange: str, routing_key: str, envelope: Envelope) -> int:
        """Publish one message to all queues that the exchange routes it to. Returns the number of queues."""
        return len(
            self._run(
                "publish_to_exchange",
                exchange=exchange,
                routing_key=routing_key,
                payload=envelope.payload,
                priority=envelope.priority,
                task_id=envelope.task_id,
                tenant_id=envelope.tenant_id,
                eta=envelope.eta,
                ttl_ms=envelope.ttl_ms,
                durable=envelope.durable,
            )
        )

    def publish_many(self, messages: Sequence[Addressed]) -> list[str]:
        """Publish all messages, in their order, or none. Returns the queues that do not exist; with one it was none."""
        ((missing, _),) = self._run(
            "publish_many",
            queues=[queue for queue, _ in messages],
            **columns([envelope for _, envelope in messages]),
        )
        return _queues(messages, missing)

    def catch_up(self, table: str) -> None:
        """Advance the sequence of a table's ids beyond the greatest id."""
        self._run("catch_up", relation=table)


class CallersPublishStore(Store):
    """Publish messages in the transaction of a caller. Made over a `CallersConnection`."""

    def publish(self, queue: str, envelope: Envelope) -> bool:
        """Publish one message. Returns whether this transaction sees the queue; if not, nothing was published."""
        return bool(
            self._run(
                "publish_within",
                queue=queue,
                payload=envelope.payload,
                priority=envelope.priority,
                task_id=envelope.task_id,
                tenant_id=envelope.tenant_id,
                eta=envelope.eta,
                ttl_ms=envelope.ttl_ms,
            )
        )

    def publish_to_exchange(self, exchange: str, routing_key: str, envelope: Envelope) -> int:
        """Publish one message to all queues that the exchange routes it to. Returns the number of queues."""
        ((taken, _),) = self._run(
            "publish_to_exchange_within",
            exchange=exchange,
            routing_key=routing_key,
            payload=envelope.payload,
            priority=envelope.priority,
            task_id=envelope.task_id,
            tenant_id=envelope.tenant_id,
            eta=envelope.eta,
            ttl_ms=envelope.ttl_ms,
        )
        return int(taken)

    def publish_many(self, messages: Sequence[Addressed]) -> list[str]:
        """The same. Returns the queues that this transaction does not see."""
        if len(messages) == 1:
            ((queue, envelope),) = messages
            return [] if self.publish(queue, envelope) else [queue]
        ((missing, _),) = self._run(
            "publish_many_within",
            queues=[queue for queue, _ in messages],
            **columns([envelope for _, envelope in messages]),
        )
        return _queues(messages, missing)


class AsyncCallersPublishStore:
    """Publish messages in the transaction of an asynchronous caller."""

    def __init__(self, connection: AsyncCallersConnection) -> None:
        self._run = connection.run

    async def publish_many(self, messages: Sequence[Addressed]) -> list[str]:
        """Publish all messages, in their order, or none. Returns the queues that this transaction does not see."""
        ((missing, _),) = await self._run(
            "publish_many_within",
            queues=[queue for queue, _ in messages],
            **columns([envelope for _, envelope in messages]),
        )
        return _queues(messages, missing)

    async def routes(self, exchange: str, routing_key: str) -> list[str]:
        """The queues that the exchange routes a message to, as far as this transaction can see."""
        return [queue for (queue,) in await self._run("routes", exchange=exchange, routing_key=routing_key)]


def _queues(messages: Sequence[Addressed], numbers: list[int] | None) -> list[str]:
    """The queues of the messages with these numbers (from 1), each once."""
    return list(dict.fromkeys(messages[number - 1][0] for number in numbers or ()))
