"""Which claimed messages can be delivered: the rest is deferred, dropped or dead-lettered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from celery_postgres.consumer import moments
from celery_postgres.consumer.claims import Claims
from celery_postgres.consumer.outlet import Delivery, Subscription
from celery_postgres.database.dead_letter import (
    EXPIRED,
    DeadLetterKind,
    DeadLetterReason,
    FlawedMessageError,
    log_dead_letter,
)
from celery_postgres.database.envelope import parse_time
from celery_postgres.database.message_store import Claim, ClaimedMessage, MessageStore
from celery_postgres.database.payload import decode


@dataclass(slots=True)
class _Screened:
    """What becomes of the messages of one claim."""

    deliveries: list[Delivery] = field(default_factory=list)
    scheduled: list[tuple[Claim, datetime]] = field(default_factory=list)
    dropped: list[Claim] = field(default_factory=list)
    dead: list[tuple[Claim, DeadLetterReason]] = field(default_factory=list)


def screen(
    messages: MessageStore,
    claimed: Iterable[ClaimedMessage],
    subscriptions: Mapping[int, Subscription],
    blocked: frozenset[str] = frozenset(),
) -> list[Delivery]:
    """What can be delivered; the rest is settled here.

    Args:
        subscriptions: by the id of their queue.
        blocked: names of the tasks that no consumer may run. A message that a program gets by hand is not checked.
    """
    screened = _Screened()
    for one in claimed:
        subscription = subscriptions[one.queue_id]
        try:
            content = decode(one.payload, types=True)
        except FlawedMessageError as error:
            reason = error.reason
            log_dead_letter(one.id, subscription.queue, reason)
            if subscription.auto_ack:
                messages.bury_auto_acked(one.id, subscription.queue, reason, one.payload)
            else:
                screened.dead.append((one.claim, reason))
            continue
        headers = content.get("headers") or {}
        task, task_id = headers.get("task"), headers.get("id")
        delivery = Delivery(
            message=one.id,
            fence=one.fence,
            subscription=subscription,
            content=content,
            task=task if isinstance(task, str) else None,
            task_id=task_id if isinstance(task_id, str) else None,
            revoked=bool(one.revoked),
        )
        if subscription.auto_ack:
            content["redelivered"] = bool(one.fence)
            if not one.expired:
                screened.deliveries.append(delivery)
        else:
            content["redelivered"] = bool(one.fence & 1)
            moments.note(content["properties"], one)
            _sort(screened, one, delivery, headers.get("eta"), blocked)
    return _settle(messages, screened)


def _sort(screened: _Screened, one: ClaimedMessage, delivery: Delivery, eta: object, blocked: frozenset[str]) -> None:
    """Decide what becomes of a message that is to be acknowledged."""
    claim = delivery.claim
    if one.expired:
        if delivery.task_id is not None:
            screened.dead.append((claim, EXPIRED))
        else:
            screened.dropped.append(claim)
        return
    if delivery.task in blocked and not one.revoked:
        screened.dead.append((claim, DeadLetterReason(DeadLetterKind.BLOCKED, str(delivery.task))))
        return
    if eta is not None and one.available_at is None and (time := parse_time(eta)) is not None:
        screened.scheduled.append((claim, time))
    screened.deliveries.append(delivery)


def _settle(messages: MessageStore, screened: _Screened) -> list[Delivery]:
    deliveries = screened.deliveries
    if screened.scheduled:
        deferred = messages.defer(screened.scheduled)
        deliveries = [one for one in deliveries if one.message not in deferred]
    if screened.dropped:
        messages.settle(screened.dropped)
    if screened.dead:
        messages.bury(screened.dead)
    return deliveries


def without_ended(claims: Claims, deliveries: list[Delivery]) -> list[Delivery]:
    """What is to be delivered after a crash of the server: without the messages that this process had acknowledged
    before their tasks ran, which are acknowledged again."""
    left = []
    for one in deliveries:
        if claims.early.has_ended(one.message, one.content["properties"].get("delivery_tag")):
            claims.ack(one.claim)
        else:
            left.append(one)
    return left
