"""Queue names that the application knows."""

from __future__ import annotations

from typing import Any

#: The label of every other queue: a message may name any queue.
OTHER = "other"


def queue_of(app: Any, delivery_info: Any) -> str | None:
    """The queue of a delivery; None if the application has no such queue."""
    key = delivery_info.get("routing_key") if isinstance(delivery_info, dict) else None
    if not isinstance(key, str):
        return None
    queues = app.amqp.queues
    if key in queues:
        return key
    return next((name for name, queue in list(queues.items()) if queue.routing_key == key), None)
