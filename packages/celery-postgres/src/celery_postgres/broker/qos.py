"""Credit and acknowledgements of one channel."""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
from typing import Any

from celery_postgres.compat.publish_patience import AFTER_A_PAUSE
from celery_postgres.compat.upstream import acks_early, tasks_to_finish, virtual
from celery_postgres.database.keys import text_or_none
from celery_postgres.database.message_store import claim_of


class QoS(virtual.QoS):  # type: ignore[misc]
    """The pending acks of a channel: what was delivered and is neither acked nor rejected.

    A delivery tag is `message.fence`: with it, an ack that comes too late changes nothing. Messages are never inserted
    again, as the base class does at exit: claims are released, and a task that runs keeps its claim until it is acked,
    also through a channel that is closed.
    """

    restore_at_shutdown = True

    def __init__(self, channel: Any, prefetch_count: int = 0) -> None:
        self.channel = channel
        self.prefetch_count = prefetch_count or 0
        self._delivered: OrderedDict[str, Any] = OrderedDict()
        self._dirty: set[str] = set()
        #: As Celery, which asks once for each connection.
        self._acks_early = lru_cache(maxsize=1024)(acks_early)
        # Kept after the channel's end, for the acks that come then.
        self._buffer = channel.buffer
        self._claims = channel.buffer.heartbeat.claims
        self._buffer.watch(self)

    @property
    def holds_messages(self) -> bool:
        """Whether there are pending acks."""
        return bool(self._delivered)

    def can_consume(self) -> bool:
        return not self.prefetch_count or len(self._delivered) < self.prefetch_count

    def can_consume_max_estimate(self) -> int | None:
        return max(self.prefetch_count - len(self._delivered), 0) if self.prefetch_count else None

    def append(self, message: Any, delivery_tag: str) -> None:
        self._delivered[delivery_tag] = message

    def holds(self, delivery_tag: str) -> bool:
        """Whether the message is neither acked nor rejected yet."""
        return delivery_tag in self._delivered

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message; any thread may call it. Tags that are unknown or acked already are ignored."""
        message = self._delivered.pop(delivery_tag, None)
        if message is not None:
            self._claims.ack(claim_of(delivery_tag), self._mark_if_early(message))
            self._buffer.credit_returned()

    def reject(self, delivery_tag: str, requeue: bool | str = False) -> None:
        """Reject a message. With `requeue` it is available again immediately and its failure count goes up by one, or,
        with `AFTER_A_PAUSE`, it is available then and has not failed; otherwise it is dead-lettered."""
        if self._delivered.pop(delivery_tag, None) is None:
            return
        claim = claim_of(delivery_tag)
        if requeue:
            self._claims.requeue(claim, pauses=requeue == AFTER_A_PAUSE)
        else:
            self._claims.reject(claim)
        self._buffer.credit_returned()

    def restore_unacked(self) -> list[Any]:
        """Release the messages whose tasks this process will not finish."""
        self._claims.collect()
        busy = tasks_to_finish()
        back = []
        for tag, message in list(self._delivered.items()):
            task_id = (message.headers or {}).get("id")
            if (isinstance(task_id, str) and task_id in busy) or self._claims.is_carried(claim_of(tag)):
                continue
            if self._delivered.pop(tag, None) is not None:
                back.append(claim_of(tag))
        if back:
            self._claims.give_back(back)
        return []

    def _mark_if_early(self, message: Any) -> str | None:
        """The publisher's mark in a message, if this worker acknowledges its task before it runs; else None."""
        mark, task = text_or_none(getattr(message, "mark", None)), (message.headers or {}).get("task")
        if mark is None or len(mark) not in _MARK_LENGTHS or not isinstance(task, str) or not self._acks_early(task):
            return None
        return mark

    def restore_unacked_once(self, stderr: Any = None) -> None:
        self.restore_unacked()


#: Stock's marks are UUIDs, ours 32 digits; a shorter text may be part of another message.
_MARK_LENGTHS = range(32, 65)
