"""The queues that this process consumes, whichever of its connections do."""

from __future__ import annotations

import threading
from collections import Counter

from celery_postgres.database.consumer_store import ConsumerStore, EndedSubscription
from celery_postgres.database.pool import Sessions


class ProcessSubscriptions:
    """One row per queue in `kombu_subscription`, however many connections of this process consume the queue.

    Attributes:
        fair: ids of those that are fair, as the latest heartbeat or subscription has said.
    """

    def __init__(self, sessions: Sessions) -> None:
        self.fair: frozenset[int] = frozenset()
        self._store = ConsumerStore(sessions)
        self._connections: Counter[str] = Counter()
        self._ids: dict[str, int] = {}
        # Reentrant: a signal handler may cancel the consumers wherever the main thread is.
        self._lock = threading.RLock()

    def add(self, consumer: int, queue: str, *, again: bool = False) -> int | None:
        """One more connection consumes the queue.

        Args:
            again: the connection does already, and the queue may be another one of that name by now.

        Returns:
            The queue's id; 0 if there is no such queue, None if there is no such consumer.
        """
        with self._lock:
            subscribed = self._store.subscribe(consumer, queue)
            if subscribed is None:
                return None
            queue_id, fair = subscribed
            if fair:
                self.fair |= {queue_id}
            if queue_id:
                self._connections[queue] += not again
                self._ids[queue] = queue_id
            return queue_id

    def remove(self, consumer: int, queue: str) -> EndedSubscription | None:
        """One connection less consumes the queue; returns the subscription if this was the last."""
        with self._lock:
            self._connections[queue] -= 1
            if self._connections[queue] > 0:
                return None
            del self._connections[queue]
            return self._store.unsubscribe(consumer, self._ids.pop(queue, 0))

    def queue_ids(self) -> list[int]:
        """The ids of the queues that this process still consumes."""
        with self._lock:
            return list(self._ids.values())

    def clear(self) -> None:
        """The consumer is gone, and its subscriptions with it."""
        self._connections.clear()
        self._ids.clear()

    def outdated(self, store: ConsumerStore, consumer: int) -> set[str]:
        """The queues that are gone, or have other ids."""
        known = dict(self._ids)
        found = store.subscriptions(consumer)
        # What was subscribed to or given up in between is right.
        return {name for name, one in known.items() if found.get(name) != one and self._ids.get(name) == one}
