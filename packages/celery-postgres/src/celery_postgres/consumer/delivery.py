"""Handing a claimed message to its consumer."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

from celery import signals

from celery_postgres.compat.eta import work_of
from celery_postgres.compat.upstream import worker_state
from celery_postgres.consumer import message_checks, poison
from celery_postgres.consumer.claims import Claims
from celery_postgres.consumer.counting import progress_of
from celery_postgres.consumer.fairness import Fairness
from celery_postgres.consumer.outlet import Delivery, Subscription
from celery_postgres.consumer.screening import screen
from celery_postgres.database.dead_letter import (
    DeadLetterKind,
    DeadLetterReason,
    FlawedMessageError,
    log_dead_letter,
)
from celery_postgres.database.envelope import is_due
from celery_postgres.database.message_store import PRIORITIES, ClaimedMessage, MessageStore, tag_of
from celery_postgres.database.payload import encode

logger = logging.getLogger(__name__)


def deliver(one: Delivery, claims: Claims, messages: MessageStore) -> bool:
    """Hand a message to its consumer; whether it was handed over."""
    message = message_of(one, claims, messages)
    if message is None:
        return False
    subscription = one.subscription
    consume = subscription.callback
    assert consume is not None  # noqa: S101
    kind = message_checks.kind_for(subscription)
    if kind is not None and not _fits(one, message, kind, claims, messages):
        return False
    if not subscription.auto_ack:
        subscription.outlet.qos.append(message, message.delivery_tag)
    try:
        consume(message)
        work_of(message)
    except Exception as error:
        if not _is_handled(one, message, error, kind, claims.max_failures):
            raise
        return not subscription.auto_ack
    return True


def _is_handled(one: Delivery, message: Any, error: Exception, kind: str | None, max_failures: int) -> bool:
    """Deal with an error of the consumer that is the fault of the message; whether it is.

    The log lines come without a stack, which could quote the message.
    """
    qos, fields = one.subscription.outlet.qos, {"message_id": one.message, "queue": one.subscription.queue}
    if one.subscription.auto_ack:
        if not poison.is_to_be_dropped(error, message, kind):
            return False
        logger.error("Dropping message %d: %s", one.message, poison.described(error), extra=fields)
        return True
    if not (poison.is_poison(error, message) and qos.holds(message.delivery_tag)):
        return False
    logger.error(
        "Message %d makes its consumer fail: %s; after %d failures it becomes a dead letter",
        one.message,
        poison.described(error),
        max_failures,
        extra=fields,
    )
    qos.reject(message.delivery_tag, requeue=True)
    poison.forget(message)
    return True


def _fits(one: Delivery, message: Any, kind: str, claims: Claims, messages: MessageStore) -> bool:
    """Whether a part of Celery or Kombu can be given this message; otherwise it is dead-lettered, or dropped."""
    consumer = one.subscription.callback.__self__  # type: ignore[union-attr]
    if consumer.accept is not None:
        message.accept = consumer.accept
    try:
        message_checks.check(kind, message)
    except Exception as error:  # whatever a codec raises on the bytes of a body
        reason = _reason(error)
        if one.subscription.auto_ack:
            logger.error(  # noqa: TRY400  without the stack: it could quote the message
                "Dropping message %d for %s: %s", one.message, kind, reason, extra={"message_id": one.message}
            )
            return False
        _bury(one, reason, claims, messages)
        if kind == message_checks.TASK:
            worker = getattr(consumer.on_decode_error, "__self__", None)
            signals.task_rejected.send(sender=worker, message=message, exc=error)
        return False
    return True


def message_of(one: Delivery, claims: Claims, messages: MessageStore) -> Any:
    """Kombu's message; None if it cannot be made and has become a dead letter."""
    content = one.content
    properties = content["properties"]
    mark = properties.get("delivery_tag")
    properties["delivery_tag"] = tag_of(one.claim)
    properties.setdefault("delivery_info", {})["redelivered"] = content["redelivered"]
    if content["redelivered"]:
        content["headers"] = {**(content.get("headers") or {}), "redelivered": True}
    if one.revoked and one.task_id is not None:
        state = worker_state()
        if state is not None:
            state.revoked.add(one.task_id)
    try:
        message = one.subscription.outlet.make_message(content)
        message.due, message.mark = is_due(content), mark
        if claims.tally is not None and one.task is not None:
            message.progress = progress_of(claims.tally, one.subscription.queue, properties)
        return message
    except Exception as error:  # whatever a codec raises on the bytes of a body
        _bury(one, _reason(error), claims, messages)
        return None


def get(
    subscription: Subscription,
    consumer: int,
    claims: Claims,
    messages: MessageStore,
    fairness: Fairness,
    *,
    auto_ack: bool,
) -> Any:
    """Claim a single message of the subscription's queue; Kombu's message, or None if none is available.

    Args:
        fairness: whose turn it is, if the queue is fair.
        auto_ack: acknowledge it at once. Otherwise it stays claimed until it is settled.
    """
    queue_id = subscription.queue_id
    while True:
        claimed = _claim_one(queue_id, consumer, messages, fairness)
        if not claimed:
            return None
        for one in screen(messages, claimed, {queue_id: subscription}):
            message = message_of(one, claims, messages)
            if message is None:
                continue
            if auto_ack:
                claims.ack(one.claim)
            else:
                claims.deliver(one.claim)
                subscription.outlet.qos.append(message, message.delivery_tag)
            return message


def _claim_one(queue: int, consumer: int, messages: MessageStore, fairness: Fairness) -> list[ClaimedMessage]:
    lowest_ids = {queue: [0] * len(PRIORITIES)}
    result = messages.claim(consumer, lowest_ids, limit=1, peeked=[queue])
    while not result.messages and result.keyed_wait and (turns := fairness.turn(queue)) is not None:
        begun = time.monotonic()
        result = messages.claim_turns(consumer, turns, limit=1)
        fairness.claimed(turns, 1, result, time.monotonic() - begun)
        result = replace(result, keyed_wait=True)
    return result.messages


def _reason(error: Exception) -> DeadLetterReason:
    if isinstance(error, FlawedMessageError):
        return error.reason
    return DeadLetterReason(DeadLetterKind.UNDECODABLE, type(error).__name__)


def _bury(one: Delivery, reason: DeadLetterReason, claims: Claims, messages: MessageStore) -> None:
    queue = one.subscription.queue
    log_dead_letter(one.message, queue, reason)
    if one.subscription.auto_ack:
        messages.bury_auto_acked(one.message, queue, reason, encode(one.content))
    else:
        claims.bury(one.claim, reason)
