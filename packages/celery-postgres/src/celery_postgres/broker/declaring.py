"""The verbs of a channel about exchanges, queues and bindings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from amqp.protocol import queue_declare_ok_t
from kombu.exceptions import ChannelError
from kombu.utils.uuid import uuid

from celery_postgres.broker.carrier import Carrier
from celery_postgres.broker.placing import Placing
from celery_postgres.broker.topic import MAX_HASHES, pattern
from celery_postgres.compat.upstream import base, virtual
from celery_postgres.consumer.prefetch import PrefetchBuffer
from celery_postgres.database import names
from celery_postgres.database.driver import InterfaceError
from celery_postgres.database.pool import Sessions
from celery_postgres.database.queue_store import QueueStore


class Declared(queue_declare_ok_t):
    """The answer to a declaration. It counts the ready messages when the count is read: that takes 0.7 s for each
    million, and few publishers read it."""

    _count: Callable[[], int]

    def __new__(cls, queue: str, count: Callable[[], int]) -> Declared:
        declared: Declared = super().__new__(cls, queue, -1, 0)
        declared._count = count
        return declared

    @property
    def message_count(self) -> int:
        return self._count()

    def __iter__(self) -> Iterator[Any]:
        return iter((self.queue, self.message_count, self.consumer_count))

    def __getitem__(self, position: Any) -> Any:
        return self.queue if position == 0 else tuple(self)[position]


class DeclaringChannel(virtual.Channel):  # type: ignore[misc]
    """Declare, bind, purge and delete queues, which all processes share."""

    @property
    def _transport(self) -> Carrier:
        """The transport of this channel.

        Raises:
            psycopg2.InterfaceError: the channel is closed. Kombu closes it when a declaration fails, goes on with the
                publishing that the declaration was for, and opens another for an error that it knows as a lost
                connection.
        """
        if self.connection is None:
            raise InterfaceError("the channel is closed")
        return self.connection  # type: ignore[no-any-return]

    @property
    def sessions(self) -> Sessions:
        return self._transport.sessions

    @property
    def queues(self) -> QueueStore:
        return QueueStore(self.sessions)

    def queues_at(self, queue: str) -> QueueStore:
        """The queues of the database that a queue of this name is in."""
        name = self._elsewhere(queue)
        return self.queues if name is None else QueueStore(self._placing.sessions(name))

    @property
    def _placing(self) -> Placing:
        placing = self._transport.placing
        assert placing is not None  # noqa: S101
        return placing

    def _elsewhere(self, queue: str) -> str | None:
        """The name of the database of a queue; None if it is this channel's own."""
        placing = self._transport.placing
        return None if placing is None else placing.elsewhere(queue)

    @property
    def buffer(self) -> PrefetchBuffer:
        return self._transport.buffer

    # -- queues

    def prepare_queue_arguments(self, arguments: dict[str, Any], **options: Any) -> dict[str, Any]:
        prepared: dict[str, Any] = base.to_rabbitmq_queue_arguments(arguments, **options)
        return prepared

    def queue_declare(self, queue: str | None = None, passive: bool = False, **options: Any) -> queue_declare_ok_t:
        """Declare the queue, or, with `passive`, check that it exists. The answer counts ready messages, as in AMQP."""
        queue = queue or f"amq.gen-{uuid()}"
        if passive:
            size = self.queues_at(queue).count_ready(queue)
            if size is None:
                raise ChannelError(f"NOT_FOUND - no queue {queue!r}", (50, 10), "Channel.queue_declare", 404)
            return queue_declare_ok_t(queue, size, 0)
        self._new_queue(queue, **options)
        return Declared(queue, lambda: self._size(queue))

    def _new_queue(self, queue: str, auto_delete: bool = False, **options: Any) -> None:
        names.check("a queue", queue, names.MAX_QUEUE_LENGTH, (50, 10), "Channel.queue_declare", min_length=1)
        arguments = options.get("arguments") or {}
        if arguments.get("x-expires") is not None:
            self.queues_at(queue).drop_if_expired(queue)
        self.queues_at(queue).declare(
            queue,
            auto_delete=bool(auto_delete),
            expires_ms=arguments.get("x-expires"),
            message_ttl_ms=arguments.get("x-message-ttl"),
            fair=_fair(arguments.get("x-fair")),
        )

    def _has_queue(self, queue: str, **_: Any) -> bool:
        return self.queues_at(queue).find(queue) is not None

    def _size(self, queue: str) -> int:
        return self.queues_at(queue).count_ready(queue) or 0

    def _purge(self, queue: str) -> int:
        if self._transport.consumes:
            self.buffer.release_queue(queue)
        return self.queues_at(queue).purge(queue)

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **_: Any) -> None:
        if self._transport.consumes:
            self.buffer.release_queue(queue)
        self.queues_at(queue).drop(queue, if_unused=bool(if_unused), if_empty=bool(if_empty))
        self.state.queue_bindings_delete(queue)
        # Kombu declares nothing again that it has declared once.
        self._transport.client.declared_entities.clear()

    def after_reply_message_received(self, queue: str) -> None:
        self.queue_delete(queue)

    # -- exchanges and bindings

    def queue_bind(
        self, queue: str, exchange: str | None = None, routing_key: str = "", arguments: Any = None, **_: Any
    ) -> None:
        exchange = exchange or "amq.direct"
        kind = self._type_name(exchange)
        names.check("an exchange", exchange, names.MAX_LENGTH, (50, 20), "Channel.queue_bind")
        names.check("a routing key", routing_key or "", names.MAX_LENGTH, (50, 20), "Channel.queue_bind")
        self.queues_at(queue).bind(
            queue,
            exchange,
            kind=kind,
            routing_key=routing_key or "",
            pattern=self._pattern(routing_key or "") if kind == "topic" else None,
        )
        self.state.binding_declare(queue, exchange, routing_key, arguments)

    def _pattern(self, routing_key: str) -> str:
        if routing_key.split(".").count("#") > MAX_HASHES:
            reason = f"PRECONDITION_FAILED - a topic has at most {MAX_HASHES} words that are #"
            raise ChannelError(reason, (50, 20), "Channel.queue_bind", 406)
        return pattern(routing_key)

    def queue_unbind(
        self, queue: str, exchange: str | None = None, routing_key: str = "", arguments: Any = None, **_: Any
    ) -> None:
        exchange = exchange or "amq.direct"
        self.queues_at(queue).unbind(queue, exchange, routing_key or "")
        self.state.binding_delete(queue, exchange, routing_key)

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        self.queues.drop_exchange(exchange)
        self.state.exchanges.pop(exchange, None)

    def get_table(self, exchange: str) -> list[tuple[str, str | None, str]]:
        return [(one.routing_key, one.pattern, one.queue) for one in self.queues.bindings(exchange)]

    def _type_name(self, exchange: str) -> str:
        declared = self.state.exchanges.get(exchange)
        if declared:
            return str(declared["type"])
        return exchange.removeprefix("amq.") if exchange in ("amq.topic", "amq.fanout") else "direct"


def _fair(argument: Any) -> bool | None:
    """The argument `x-fair` of a declaration.

    Raises:
        ChannelError: it is neither a boolean nor None.
    """
    if argument is not None and not isinstance(argument, bool):
        reason = f"PRECONDITION_FAILED - x-fair is true or false, not {type(argument).__name__}"
        raise ChannelError(reason, (50, 10), "Channel.queue_declare", 406)
    return argument
