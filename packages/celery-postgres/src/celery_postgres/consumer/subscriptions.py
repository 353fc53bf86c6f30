"""The queues that one Kombu connection consumes."""

from __future__ import annotations

from collections.abc import Iterator

from celery_postgres.consumer import message_checks
from celery_postgres.consumer.batch_size import BatchSize
from celery_postgres.consumer.heartbeat import Heartbeat
from celery_postgres.consumer.outlet import Outlet, Subscription
from celery_postgres.database.consumer_store import EndedSubscription


class Subscriptions:
    """The latest subscription of each queue; earlier ones of the same connection are replaced."""

    def __init__(self, heartbeat: Heartbeat) -> None:
        self._heartbeat = heartbeat
        self._by_queue: dict[str, Subscription] = {}

    def __bool__(self) -> bool:
        return bool(self._by_queue)

    def __iter__(self) -> Iterator[Subscription]:
        return iter(list(self._by_queue.values()))

    def get(self, queue: str) -> Subscription | None:
        return self._by_queue.get(queue)

    def add(self, subscription: Subscription) -> bool:
        """Consume a queue; False if there is no queue of that name."""
        known = subscription.queue in self._by_queue
        subscription.queue_id = self._heartbeat.subscribe(subscription.queue, again=known)
        if subscription.queue_id:
            self._by_queue[subscription.queue] = subscription
        return bool(subscription.queue_id)

    def remove(self, queue: str) -> EndedSubscription | None:
        """Consume a queue no more; returns the subscription if no connection of this process consumes it any more."""
        if self._by_queue.pop(queue, None) is None:
            return None
        return self._heartbeat.unsubscribe(queue)

    def include_any_of(self, queues: set[str]) -> bool:
        return not queues.isdisjoint(self._by_queue)

    def renew(self) -> bool:
        """Subscribe again, for a new consumer; False if a queue is gone that somebody needs."""
        complete = True
        for one in self:
            one.queue_id = self._heartbeat.subscribe(one.queue)
            if not one.queue_id:
                # A program that awaits replies gives up by itself, and asks again through a queue that it declares.
                del self._by_queue[one.queue]
                complete = complete and one.awaits_replies
        return complete

    def with_credit(self) -> tuple[list[Subscription], int]:
        """The subscriptions with acks whose queues are open and whose channels may be given more, and how much."""
        ready: list[Subscription] = []
        total, paused = 0, self._heartbeat.paused
        credits: dict[Outlet, int] = {}
        for subscription in self._by_queue.values():
            if subscription.auto_ack or subscription.queue_id in paused:
                continue
            outlet = subscription.outlet
            if outlet not in credits:
                credits[outlet] = _credit(outlet)
                total += credits[outlet]
            if credits[outlet]:
                ready.append(subscription)
        return ready, total

    def auto_ack(self) -> list[Subscription]:
        """The subscriptions without acks whose queues are open."""
        paused = self._heartbeat.paused
        return [one for one in self._by_queue.values() if one.auto_ack and one.queue_id not in paused]

    @property
    def only_events(self) -> bool:
        """Whether this is a monitor."""
        return all(one.auto_ack and message_checks.kind_for(one) == message_checks.EVENT for one in self)

    @property
    def all_auto_ack(self) -> bool:
        return all(one.auto_ack for one in self._by_queue.values())


def _credit(outlet: Outlet) -> int:
    """How many messages the prefetch limit of a channel allows."""
    estimate = outlet.qos.can_consume_max_estimate()
    if estimate is None:
        estimate = BatchSize.LIMIT
    return min(BatchSize.LIMIT, estimate) if estimate and outlet.qos.can_consume() else 0
