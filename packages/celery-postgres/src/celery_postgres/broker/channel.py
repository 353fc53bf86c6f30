"""A channel: AMQP's verbs on PostgreSQL."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import psycopg2
from amqp.protocol import queue_declare_ok_t
from kombu.exceptions import ChannelError
from kombu.utils.uuid import uuid

from celery_postgres.broker.bulk import PublishBatch, collecting
from celery_postgres.broker.qos import QoS
from celery_postgres.broker.topic import MOST_HASHES, pattern
from celery_postgres.broker.transaction import callers_transaction, catching_up
from celery_postgres.compat.upstream import base, virtual
from celery_postgres.consumer import decompression, message_checks, poison
from celery_postgres.consumer.delivery import Subscription, message_of, usable
from celery_postgres.consumer.prefetch import Inbox
from celery_postgres.database import names
from celery_postgres.database.envelope import Envelope
from celery_postgres.database.message_store import PRIORITIES, MessageStore
from celery_postgres.database.queue_store import QueueStore

if TYPE_CHECKING:
    from celery_postgres.broker.transport import Transport
    from celery_postgres.database.pool import Sessions


class Declared(queue_declare_ok_t):
    """The answer to a declaration. It counts the ready messages when somebody looks: that takes 0.7 s for each million,
    and hardly a publisher looks."""

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


class Channel(virtual.Channel):  # type: ignore[misc]
    """Kombu's virtual channel with everything that is shared in the database: queues, bindings, messages, claims."""

    QoS = QoS
    Message = decompression.Message
    supports_fanout = True
    #: Text stays text; bytes become base64. Stock reads both by `body_encoding` in the message.
    body_encoding: str | None = None
    closed: bool

    @property
    def _transport(self) -> Transport:
        """What carries this channel.

        Raises:
            psycopg2.InterfaceError: it is closed. Kombu closes it when a declaration fails, goes on with the publishing
                that the declaration was for, and opens another for whatever it knows as a lost connection.
        """
        if self.connection is None:
            raise psycopg2.InterfaceError("the channel is closed")
        return self.connection  # type: ignore[no-any-return]

    @property
    def sessions(self) -> Sessions:
        return self._transport.sessions

    @property
    def queues(self) -> QueueStore:
        return QueueStore(self.sessions)

    @property
    def inbox(self) -> Inbox:
        return self._transport.inbox

    @property
    def max_decompressed(self) -> int:
        return self._transport.max_decompressed

    # -- exchanges and queues

    def prepare_queue_arguments(self, arguments: dict[str, Any], **options: Any) -> dict[str, Any]:
        prepared: dict[str, Any] = base.to_rabbitmq_queue_arguments(arguments, **options)
        return prepared

    def queue_declare(self, queue: str | None = None, passive: bool = False, **options: Any) -> queue_declare_ok_t:
        """Make the queue, or with `passive` only ask for it. Counts ready messages, as AMQP does."""
        queue = queue or f"amq.gen-{uuid()}"
        if passive:
            size = self.queues.count_ready(queue)
            if size is None:
                raise ChannelError(f"NOT_FOUND - no queue {queue!r}", (50, 10), "Channel.queue_declare", 404)
            return queue_declare_ok_t(queue, size, 0)
        self._new_queue(queue, **options)
        return Declared(queue, lambda: self._size(queue))

    def _new_queue(self, queue: str, auto_delete: bool = False, **options: Any) -> None:
        names.check("a queue", queue, names.LONGEST_QUEUE, (50, 10), "Channel.queue_declare")
        arguments = options.get("arguments") or {}
        if arguments.get("x-expires") is not None:
            self.queues.drop_if_expired(queue)
        self.queues.declare(
            queue,
            auto_delete=bool(auto_delete),
            expires_ms=arguments.get("x-expires"),
            message_ttl_ms=arguments.get("x-message-ttl"),
        )

    def _has_queue(self, queue: str, **_: Any) -> bool:
        return self.queues.find(queue) is not None

    def _size(self, queue: str) -> int:
        return self.queues.count_ready(queue) or 0

    def _purge(self, queue: str) -> int:
        if self._transport.consumes:
            self.inbox.give_back(queue)
        return self.queues.purge(queue)

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **_: Any) -> None:
        if self._transport.consumes:
            self.inbox.give_back(queue)
        self.queues.drop(queue, if_unused=bool(if_unused), if_empty=bool(if_empty))
        self.state.queue_bindings_delete(queue)
        # Kombu would not declare again what it has declared once.
        self._transport.client.declared_entities.clear()

    def queue_bind(
        self, queue: str, exchange: str | None = None, routing_key: str = "", arguments: Any = None, **_: Any
    ) -> None:
        exchange = exchange or "amq.direct"
        kind = self._type_name(exchange)
        names.check("an exchange", exchange, names.LONGEST, (50, 20), "Channel.queue_bind")
        names.check("a routing key", routing_key or "", names.LONGEST, (50, 20), "Channel.queue_bind")
        self.queues.bind(
            queue,
            exchange,
            kind=kind,
            routing_key=routing_key or "",
            pattern=self._pattern(routing_key or "") if kind == "topic" else None,
        )
        self.state.binding_declare(queue, exchange, routing_key, arguments)

    def _pattern(self, routing_key: str) -> str:
        if routing_key.split(".").count("#") > MOST_HASHES:
            reason = f"PRECONDITION_FAILED - a topic has at most {MOST_HASHES} words that are #"
            raise ChannelError(reason, (50, 20), "Channel.queue_bind", 406)
        return pattern(routing_key)

    def queue_unbind(
        self, queue: str, exchange: str | None = None, routing_key: str = "", arguments: Any = None, **_: Any
    ) -> None:
        exchange = exchange or "amq.direct"
        self.queues.unbind(queue, exchange, routing_key or "")
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

    # -- publishing

    def _next_delivery_tag(self) -> str:
        # Only stock's consumers use it, and want it unlike the others; a UUID is 2.2 us, of 13 that are ours.
        return os.urandom(16).hex()

    def _inplace_augment_message(self, message: dict[str, Any], exchange: str, routing_key: str) -> None:
        encoding = self.body_encoding or ("base64" if isinstance(message["body"], bytes) else "utf-8")
        message["body"], encoding = self.encode_body(message["body"], encoding)
        properties = message["properties"]
        properties.update(body_encoding=encoding, delivery_tag=self._next_delivery_tag())
        properties["delivery_info"].update(exchange=exchange, routing_key=routing_key)

    def basic_publish(self, message: dict[str, Any], exchange: str, routing_key: str, **_: Any) -> None:
        """One statement, one commit. To the default exchange the routing key is the queue, which is made if need be.

        Within `publishing_on` it is part of that transaction, unless it is remote control.

        Raises:
            psycopg2.OperationalError: it may or may not have been published; Celery tries again.
            NotPublishedError: it was not published in the caller's transaction.
        """
        exchange, routing_key = exchange or "", routing_key or ""
        self._inplace_augment_message(message, exchange, routing_key)
        envelope = Envelope.of(message, self._get_message_priority(message))
        if exchange.endswith(".pidbox"):
            self._note_revoke(message)
        transaction, bulk = callers_transaction(), self._transport.bulk
        # A bulk from outside of the transaction is not part of it.
        gathering = bulk if bulk is not None and bulk.transaction is transaction else collecting()
        if gathering is not None and not exchange:
            gathering.add(routing_key, envelope)
            return
        if exchange and collecting() is not None and not exchange.endswith(".pidbox"):
            self._collect(exchange, routing_key, envelope)
            return
        if transaction is not None and not exchange.endswith(".pidbox"):
            with catching_up(self.sessions):
                if not exchange:
                    transaction.publish_surely([(routing_key, envelope)], self._new_queue)
                elif not transaction.publish_to_exchange(exchange, routing_key, envelope) and self.deadletter_queue:
                    transaction.publish_surely([(self.deadletter_queue, envelope)], self._new_queue)
            return
        if exchange:
            taken = self._publish("publish_to_exchange", envelope, exchange=exchange, routing_key=routing_key)
            if not taken and self.deadletter_queue:
                self._put_envelope(self.deadletter_queue, envelope)
            return
        self._put_envelope(routing_key, envelope)

    def _collect(self, exchange: str, routing_key: str, envelope: Envelope) -> None:
        gathering = collecting()
        assert gathering is not None  # noqa: S101
        queues = list(self.queues.routes(exchange, routing_key)) or [self.deadletter_queue]
        for queue in filter(None, queues):
            gathering.add(queue, envelope)

    def create_publish_batch(self, max_size: int) -> PublishBatch:
        return PublishBatch(self, max_size)

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        self._put_envelope(queue, Envelope.of(message, self._get_message_priority(message)))

    def _put_envelope(self, queue: str, envelope: Envelope) -> None:
        if not self._publish("publish", envelope, queue=queue):
            self._new_queue(queue)
            self._publish("publish", envelope, queue=queue)

    def _publish(self, statement: str, envelope: Envelope, **where: Any) -> int:
        written = self.sessions.run(
            statement,
            payload=envelope.payload,
            priority=envelope.priority,
            task_id=envelope.task_id,
            tenant_id=envelope.tenant_id,
            eta=envelope.eta,
            ttl_ms=envelope.ttl_ms,
            durable=envelope.durable,
            **where,
        )
        return len(written)

    def _note_revoke(self, message: dict[str, Any]) -> None:
        """Workers forget revokes after three hours; messages that wait are marked in the database."""
        try:
            command = json.loads(message["body"])
        except ValueError:
            return
        if not isinstance(command, dict) or command.get("method") != "revoke":
            return
        ids = (command.get("arguments") or {}).get("task_id")
        ids = [ids] if isinstance(ids, str) else ids
        if isinstance(ids, list) and ids:
            MessageStore(self.sessions).mark_revoked([str(one) for one in ids])

    # -- consuming

    def basic_consume(self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, **_: Any) -> None:
        self._tag_to_queue[consumer_tag] = queue
        self._active_queues.append(queue)
        self._consumers.add(consumer_tag)
        self._transport._callbacks[queue] = callback
        if message_checks.kind_of(callback) == message_checks.TASK:
            poison.note_worker()
        while not self.inbox.subscribe(Subscription(queue, self, bool(no_ack))):
            self._new_queue(queue)

    def basic_cancel(self, consumer_tag: str) -> None:
        if consumer_tag not in self._consumers:
            return
        self._consumers.remove(consumer_tag)
        queue = self._tag_to_queue.pop(consumer_tag)
        self._active_queues.remove(queue)
        subscription = self.inbox.subscriptions.get(queue)
        if queue in self._active_queues or subscription is None or subscription.channel is not self:
            return
        self._transport._callbacks.pop(queue, None)
        ended = self.inbox.unsubscribe(queue)
        if ended is not None and ended.auto_delete:
            self.queues.drop(ended.queue, if_unused=True)

    def basic_get(self, queue: str, no_ack: bool = False, **_: Any) -> Any:
        """One message, or None. Without `no_ack` it is ours until it is acked or the channel closes."""
        found = self.queues.find(queue)
        if found is None:
            raise ChannelError(f"NOT_FOUND - no queue {queue!r}", (60, 70), "Channel.basic_get", 404)
        inbox, queue_id = self.inbox, found.id
        while True:
            claimed = MessageStore(self.sessions).claim(
                inbox.attendant.consumer, {queue_id: [0] * len(PRIORITIES)}, limit=1
            )
            if not claimed.messages:
                return None
            subscription = Subscription(queue, self, False, queue_id)
            for one in usable(MessageStore(self.sessions), claimed.messages, {queue_id: subscription}):
                message = message_of(one)
                if message is None:
                    continue
                if no_ack:
                    inbox.attendant.ack(one.message, one.fence)
                else:
                    inbox.attendant.outstanding.add((one.message, one.fence))
                    self.qos.append(message, message.delivery_tag)
                return message

    def drain_events(self, timeout: float | None = None, callback: Any = None) -> None:
        self._transport.drain_events(self._transport, timeout=timeout)

    def after_reply_message_received(self, queue: str) -> None:
        self.queue_delete(queue)

    def _reset_cycle(self) -> None:
        """Whose turn it is, the inbox knows."""

    def close(self) -> None:
        """Cancel the consumers; release what was delivered and nobody works on."""
        if self.closed:
            return
        self.closed = True
        for tag in list(self._consumers):
            self.basic_cancel(tag)
        if self._qos is not None:
            self._qos.restore_unacked_once()
        if self.connection is not None:
            self.connection.close_channel(self)
        self.exchange_types = None
