"""The verbs of a channel that consume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kombu.exceptions import ChannelError

from celery_postgres.broker.declaring import DeclaringChannel
from celery_postgres.broker.limited import check_acks
from celery_postgres.broker.qos import QoS
from celery_postgres.consumer import decompression
from celery_postgres.consumer.outlet import Subscription
from celery_postgres.database.limit_store import LimitStore
from celery_postgres.errors import OptionError


class ConsumingChannel(DeclaringChannel):
    """Consume queues, or get single messages from them."""

    QoS = QoS
    Message = decompression.Message

    def make_message(self, content: dict[str, Any]) -> Any:
        return self.Message(content, channel=self)

    @property
    def max_decompressed(self) -> int:
        return self._transport.max_decompressed

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Any], Any], consumer_tag: str, **_: Any
    ) -> None:
        name = self._elsewhere(queue)
        if name is not None:
            raise OptionError(
                f"the queue {queue!r} is in the database {name}, and this worker's broker is another: start it with "
                f"the broker_url of {name}, or name its own queues with -Q"
            )
        check_acks(LimitStore(self.sessions), queue, no_ack=bool(no_ack))
        self._tag_to_queue[consumer_tag] = queue
        self._active_queues.append(queue)
        self._consumers.add(consumer_tag)
        self._transport._callbacks[queue] = callback
        while not self.buffer.subscribe(Subscription(queue, self, auto_ack=bool(no_ack), callback=callback)):
            self._new_queue(queue)

    def basic_cancel(self, consumer_tag: str) -> None:
        if consumer_tag not in self._consumers:
            return
        self._consumers.remove(consumer_tag)
        queue = self._tag_to_queue.pop(consumer_tag)
        self._active_queues.remove(queue)
        subscription = self.buffer.subscriptions.get(queue)
        if queue in self._active_queues or subscription is None or subscription.outlet is not self:
            return
        self._transport._callbacks.pop(queue, None)
        ended = self.buffer.unsubscribe(queue)
        if ended is not None and ended.auto_delete:
            self.queues.drop(ended.queue, if_unused=True)

    def basic_get(self, queue: str, no_ack: bool = False, **_: Any) -> Any:
        """One message, or None. Without `no_ack` it stays claimed until it is acked or the channel closes."""
        found = self.queues.find(queue)
        if found is None:
            raise ChannelError(f"NOT_FOUND - no queue {queue!r}", (60, 70), "Channel.basic_get", 404)
        return self.buffer.get(queue, found.id, self, auto_ack=no_ack)

    def drain_events(self, timeout: float | None = None, callback: Any = None) -> None:
        self._transport.drain_events(self._transport, timeout=timeout)

    def _reset_cycle(self) -> None:
        """Nothing: the prefetch buffer takes turns between the queues."""
