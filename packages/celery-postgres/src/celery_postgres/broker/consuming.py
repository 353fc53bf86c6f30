"""The verbs of a channel that consume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kombu.exceptions import ChannelError

from celery_postgres.broker.declaring import DeclaringChannel
from celery_postgres.broker.qos import QoS
from celery_postgres.consumer import decompression, message_checks, poison
from celery_postgres.consumer.delivery import Subscription, message_of, usable
from celery_postgres.database.message_store import PRIORITIES, MessageStore


class ConsumingChannel(DeclaringChannel):
    """Consume queues, or get single messages from them."""

    QoS = QoS
    Message = decompression.Message

    @property
    def max_decompressed(self) -> int:
        return self._transport.max_decompressed

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Any], Any], consumer_tag: str, **_: Any
    ) -> None:
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
        """One message, or None. Without `no_ack` it stays claimed until it is acked or the channel closes."""
        found = self.queues.find(queue)
        if found is None:
            raise ChannelError(f"NOT_FOUND - no queue {queue!r}", (60, 70), "Channel.basic_get", 404)
        attendant, store = self.inbox.attendant, MessageStore(self.sessions)
        subscription = Subscription(queue, self, False, found.id)
        while True:
            claimed = store.claim(attendant.consumer, {found.id: [0] * len(PRIORITIES)}, limit=1).messages
            if not claimed:
                return None
            for one in usable(store, claimed, {found.id: subscription}):
                message = message_of(one)
                if message is None:
                    continue
                if no_ack:
                    attendant.ack(one.message, one.fence)
                else:
                    attendant.outstanding.add((one.message, one.fence))
                    self.qos.append(message, message.delivery_tag)
                return message

    def drain_events(self, timeout: float | None = None, callback: Any = None) -> None:
        self._transport.drain_events(self._transport, timeout=timeout)

    def _reset_cycle(self) -> None:
        """Nothing: the prefetch buffer takes turns between the queues."""
