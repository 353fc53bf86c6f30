"""Where the messages of this process go: the channels and consumers above this room, as it sees them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from celery_postgres.database.message_store import Claim


class Unacked(Protocol):
    """What a channel has delivered and its consumer has not acknowledged: Kombu's `QoS`."""

    @property
    def holds_messages(self) -> bool:
        """Whether a delivered message is neither acknowledged nor rejected."""
        ...

    def can_consume(self) -> bool:
        """Whether the prefetch limit allows another delivery."""
        ...

    def can_consume_max_estimate(self) -> int | None:
        """How many deliveries the prefetch limit allows; None without a limit."""
        ...

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a delivery."""
        ...

    def holds(self, delivery_tag: str) -> bool:
        """Whether this delivery is neither acknowledged nor rejected."""
        ...

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """End a delivery: with `requeue` as a failure of the message, else as a dead letter."""
        ...


class Outlet(Protocol):
    """A channel."""

    @property
    def qos(self) -> Unacked: ...

    def make_message(self, content: dict[str, Any]) -> Any:
        """Kombu's message for a decoded payload.

        Raises:
            Exception: whatever a codec raises on the bytes of the body.
        """
        ...


@dataclass(slots=True)
class Subscription:
    """One queue that a channel consumes.

    Attributes:
        auto_ack: messages are deleted as they are claimed.
        callback: what a message is handed to.
        queue_id: 0 until the queue is known to exist.
        kind: which part of Celery or Kombu `callback` belongs to, if any; `message_checks` fills it in.
        handler: whose kind that is.
    """

    queue: str
    outlet: Outlet
    auto_ack: bool
    callback: Callable[[Any], Any] | None = None
    queue_id: int = 0
    kind: str | None = None
    handler: Any = None

    @property
    def awaits_replies(self) -> bool:
        """Whether this is the queue that Kombu makes for the replies to one remote control command."""
        return self.auto_ack and ".reply." in self.queue and self.queue.endswith(".pidbox")


@dataclass(slots=True)
class Delivery:
    """A claimed message on its way to Celery.

    Attributes:
        content: the decoded payload.
        task, task_id: what the headers say, where it is text.
        revoked: the task was revoked while the message waited.
    """

    message: int
    fence: int
    subscription: Subscription
    content: dict[str, Any]
    task: str | None
    task_id: str | None
    revoked: bool

    @property
    def claim(self) -> Claim:
        return self.message, self.fence
