"""Claimed messages on their way to Celery."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery import signals

from celery_postgres.compat.eta import work_of
from celery_postgres.compat.upstream import worker_state
from celery_postgres.consumer import message_checks, poison
from celery_postgres.consumer.decompression import TooLargeError, TooManyMembersError
from celery_postgres.database.dead_letter import EXPIRED, DeadLetterKind, DeadLetterReason
from celery_postgres.database.envelope import decode, encode, is_due, parse_time
from celery_postgres.database.message_store import ClaimedMessage, MessageStore

if TYPE_CHECKING:
    from celery_postgres.broker.channel import Channel
    from celery_postgres.consumer.heartbeat import Attendant

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Subscription:
    """One queue that a channel consumes.

    Attributes:
        queue_id: 0 until the database knows of it.
    """

    queue: str
    channel: Channel
    no_ack: bool
    queue_id: int = 0

    @property
    def awaits_replies(self) -> bool:
        """Whether it is the queue that Kombu makes for the replies to one order of remote control."""
        return self.no_ack and ".reply." in self.queue and self.queue.endswith(".pidbox")


@dataclass(slots=True)
class Delivery:
    """A claimed message on its way to Celery."""

    message: int
    fence: int
    subscription: Subscription
    content: dict[str, Any]
    task: str | None
    task_id: str | None
    revoked: bool


def usable(
    messages: MessageStore,
    claimed: list[ClaimedMessage],
    known: dict[int, Subscription],
    stopped: frozenset[str] = frozenset(),
) -> list[Delivery]:
    """What can be delivered; the rest is set aside, dropped or buried.

    Parameters:
        stopped: names of tasks that no consumer is to run. What somebody gets by hand is his to judge.
    """
    deliveries, scheduled, settled, dead = [], [], [], []
    for one in claimed:
        subscription = known[one.queue_id]
        try:
            content = decode(one.payload)
        except ValueError as error:
            reason = DeadLetterReason.parse(str(error))
            logger.error(  # noqa: TRY400  without the stack: it could quote the message
                "message %d of queue %s becomes a dead letter: %s", one.id, subscription.queue, reason
            )
            if subscription.no_ack:
                messages.bury_auto_acked(one.id, subscription.queue, reason, one.payload)
            else:
                dead.append((one.claim, reason))
            continue
        headers = content.get("headers") or {}
        task, task_id = (
            value if isinstance(value, str) else None for value in (headers.get("task"), headers.get("id"))
        )
        if one.expired:
            if not subscription.no_ack and task_id is not None:
                dead.append((one.claim, EXPIRED))
            elif not subscription.no_ack:
                settled.append(one.claim)
            continue
        if task in stopped and not one.revoked and not subscription.no_ack:
            dead.append((one.claim, DeadLetterReason(DeadLetterKind.BLOCKED, str(task))))
            continue
        if one.available_at is None and headers.get("eta") is not None and not subscription.no_ack:
            eta = parse_time(headers["eta"])
            if eta is not None:
                scheduled.append((one.claim, eta))
        content["redelivered"] = bool(one.fence if subscription.no_ack else one.fence & 1)
        deliveries.append(Delivery(one.id, one.fence, subscription, content, task, task_id, bool(one.revoked)))
    if scheduled:
        aside = messages.defer(scheduled)
        deliveries = [one for one in deliveries if one.message not in aside]
    if settled:
        messages.settle(settled)
    if dead:
        messages.bury(dead)
    return deliveries


def without_forgotten(attendant: Attendant, deliveries: list[Delivery]) -> list[Delivery]:
    """What is to be delivered after a crash of the server: not what this process had acknowledged before it ran, which
    is acknowledged again."""
    left = []
    for one in deliveries:
        if attendant.member.ended(one.message, one.content["properties"].get("delivery_tag")):
            attendant.ack(one.message, one.fence)
        else:
            left.append(one)
    return left


def deliver(one: Delivery) -> bool:
    """Hand a message to its consumer; whether it was handed over."""
    message = message_of(one)
    if message is None:
        return False
    channel, no_ack = one.subscription.channel, one.subscription.no_ack
    consume = channel.connection._callbacks[one.subscription.queue]
    kind = message_checks.kind_of(consume)
    if kind is not None and not _fits(one, message, kind, consume.__self__):
        return False
    if not no_ack:
        channel.qos.append(message, message.delivery_tag)
    try:
        consume(message)
        work_of(message)
    except Exception as error:
        # The template has no argument that is a text: the application's log leaves those out.
        if no_ack and poison.is_to_be_dropped(error, message, kind):
            logger.error(f"message %d is dropped: {poison.described(error)}", one.message)  # noqa: TRY400
            return False
        if no_ack or not (poison.is_poison(error, message) and channel.qos.holds(message.delivery_tag)):
            raise
        logger.error(  # noqa: TRY400  without the stack: it could quote the message
            f"message %d fails its consumer: {poison.described(error)}; after %d failures it is a dead letter",
            one.message,
            channel.inbox.attendant.max_failures,
        )
        channel.qos.reject(message.delivery_tag, requeue=True)
        poison.forget(message)
    return True


def _fits(one: Delivery, message: Any, kind: str, consumer: Any) -> bool:
    """Whether a part of Celery or Kombu can be given this message; else it is a dead letter, or dropped."""
    if consumer.accept is not None:
        message.accept = consumer.accept
    try:
        message_checks.check(kind, message)
    except Exception as error:  # whatever a codec raises on somebody's bytes
        reason = _reason(error)
        if one.subscription.no_ack:
            logger.error(f"message %d for {kind} is dropped: {reason}", one.message)  # noqa: TRY400
            return False
        _bury(one, reason)
        if kind == message_checks.TASK:
            worker = getattr(consumer.on_decode_error, "__self__", None)
            signals.task_rejected.send(sender=worker, message=message, exc=error)
        return False
    return True


def _reason(error: Exception) -> DeadLetterReason:
    if isinstance(error, (message_checks.FlawError, TooLargeError, TooManyMembersError)):
        return DeadLetterReason.parse(str(error))
    return DeadLetterReason(DeadLetterKind.UNDECODABLE, type(error).__name__)


def _bury(one: Delivery, reason: DeadLetterReason) -> None:
    channel = one.subscription.channel
    logger.error(f"message %d of queue %s becomes a dead letter: {reason}", one.message, one.subscription.queue)
    messages = MessageStore(channel.sessions)
    if one.subscription.no_ack:
        messages.bury_auto_acked(one.message, one.subscription.queue, reason, encode(one.content))
        return
    messages.bury([((one.message, one.fence), reason)])
    channel.inbox.attendant.outstanding.discard((one.message, one.fence))


def message_of(one: Delivery) -> Any:
    """Kombu's message; None if it cannot be made: then it is a dead letter."""
    channel, content = one.subscription.channel, one.content
    properties = content["properties"]
    mark = properties.get("delivery_tag")
    properties["delivery_tag"] = f"{one.message}.{one.fence}"
    properties.setdefault("delivery_info", {})["redelivered"] = content["redelivered"]
    if content["redelivered"]:
        content["headers"] = {**(content.get("headers") or {}), "redelivered": True}
    if one.revoked and one.task_id is not None:
        state = worker_state()
        if state is not None:
            state.revoked.add(one.task_id)
    try:
        message = channel.Message(content, channel=channel)
        message.due, message.mark = is_due(content), mark
        return message
    except Exception as error:  # whatever a codec raises on somebody's bytes
        _bury(one, _reason(error))
        return None
