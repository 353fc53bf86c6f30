"""Credit and acknowledgements of one channel."""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import Any

import psycopg2

from celery_postgres.compat.upstream import acks_early, virtual, worker_state
from celery_postgres.database.dead_letter import REJECTED
from celery_postgres.database.envelope import text_or_none
from celery_postgres.database.message_store import Claim, MessageStore
from celery_postgres.database.session import Session
from celery_postgres.errors import SchemaError


class QoS(virtual.QoS):  # type: ignore[misc]
    """What a channel was handed and has not acked.

    A delivery tag is `message.fence`: with it, an ack that comes too late changes nothing.
    Nothing is ever inserted again, as the base class does at exit: what was claimed is released, and what still runs
    stays claimed until it is acked, also through a channel that is closed.
    """

    restore_at_shutdown = True

    def __init__(self, channel: Any, prefetch_count: int = 0) -> None:
        self.channel = channel
        self.prefetch_count = prefetch_count or 0
        self._delivered: OrderedDict[str, Any] = OrderedDict()
        self._dirty: set[str] = set()
        # Kept beyond the channel's end, for the acks that come then.
        self._inbox = channel.inbox
        self._attendant = channel.inbox.attendant
        self._inbox.watch(self)

    @property
    def holds_messages(self) -> bool:
        """Whether there is something that was delivered and is neither acked nor rejected."""
        return bool(self._delivered)

    def can_consume(self) -> bool:
        return not self.prefetch_count or len(self._delivered) < self.prefetch_count

    def can_consume_max_estimate(self) -> int | None:
        return max(self.prefetch_count - len(self._delivered), 0) if self.prefetch_count else None

    def append(self, message: Any, delivery_tag: str) -> None:
        self._delivered[delivery_tag] = message

    def holds(self, delivery_tag: str) -> bool:
        """Whether it is neither acked nor rejected yet."""
        return delivery_tag in self._delivered

    def ack(self, delivery_tag: str) -> None:
        """Any thread may. Unknown tags are ignored, as are those acked already."""
        message = self._delivered.pop(delivery_tag, None)
        if message is not None:
            self._attendant.ack(*claim_of(delivery_tag), _mark_if_early(message))
            self._inbox.credit_returned()

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """With `requeue` the message is due again at once, and one failure richer; else it is a dead letter."""
        if self._delivered.pop(delivery_tag, None) is None:
            return
        claim = claim_of(delivery_tag)
        self._attendant.outstanding.discard(claim)

        def requeued(session: Session | Any) -> None:
            self._attendant.release(session, [claim], failed=True)

        def buried(session: Session | Any) -> None:
            MessageStore(session).bury([(claim, REJECTED)])

        work = requeued if requeue else buried
        try:
            work(self._attendant.sessions)
        except (psycopg2.Error, SchemaError):
            self._attendant.eventually(work)
        self._inbox.credit_returned()

    def restore_unacked(self) -> list[Any]:
        """Release what nobody works on."""
        busy = _in_hand()
        back = []
        for tag, message in list(self._delivered.items()):
            task_id = (message.headers or {}).get("id")
            if (isinstance(task_id, str) and task_id in busy) or claim_of(tag) in self._attendant.carried:
                continue
            if self._delivered.pop(tag, None) is not None:
                back.append(claim_of(tag))
        if back:
            self._attendant.outstanding.difference_update(back)

            def released(session: Session | Any) -> None:
                self._attendant.release(session, back)

            try:
                released(self._attendant.sessions)
            except (psycopg2.Error, SchemaError):
                self._attendant.eventually(released)
        return []

    def restore_unacked_once(self, stderr: Any = None) -> None:
        self.restore_unacked()


#: Stock's marks are UUIDs, ours 32 digits; what is shorter may be part of another message's text.
_MARK_LENGTHS = range(32, 65)


def _mark_if_early(message: Any) -> str | None:
    """What the publisher has put into the message of a task that this worker acknowledges before it runs."""
    mark = text_or_none(getattr(message, "mark", None))
    if mark is None or len(mark) not in _MARK_LENGTHS or not acks_early((message.headers or {}).get("task")):
        return None
    return mark


def claim_of(delivery_tag: str) -> Claim:
    message, _, fence = delivery_tag.partition(".")
    return int(message), int(fence)


def _in_hand() -> set[str]:
    """Ids of the tasks that this process will finish although their channel closes.

    When Celery loses a connection it throws away what it has reserved and expects it again from the broker, but not
    what runs, nor what a ThreadPoolExecutor has taken. When it shuts down it runs what it has reserved.
    """
    state = worker_state()
    if state is None:
        return set()
    busy = {request.id for request in list(state.active_requests)}
    reserved = list(state.reserved_requests)
    if state.should_stop is not None or state.should_terminate is not None:
        return busy | {request.id for request in reserved}
    if "celery.concurrency.thread" in sys.modules:
        busy |= {request.id for request in reserved if getattr(request, "_apply_result", None) is not None}
    return busy
