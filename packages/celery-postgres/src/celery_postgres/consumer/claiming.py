"""Sending one claim, and receiving what it has brought."""

from __future__ import annotations

import logging
import time

from celery_postgres import observer
from celery_postgres.consumer.claim_policy import ClaimPolicy, Plan
from celery_postgres.consumer.claims import Claims
from celery_postgres.consumer.event_pace import EventPace
from celery_postgres.consumer.outlet import Delivery
from celery_postgres.consumer.screening import screen, without_ended
from celery_postgres.database import driver
from celery_postgres.database.message_store import ClaimResult, MessageStore
from celery_postgres.errors import SchemaError, loggable

logger = logging.getLogger(__name__)


def send(consumer: int, claims: Claims, policy: ClaimPolicy, messages: MessageStore, plan: Plan) -> ClaimResult | None:
    """Send the pending acks and claim messages; None if that has failed."""
    try:
        with claims.pending.sending() as acks:
            result = messages.claim(
                consumer,
                plan.lowest_ids,
                limit=plan.limit,
                auto_ack_queues=list(plan.auto_ack),
                auto_ack_limit=policy.batch_size.AUTO_ACK_LIMIT,
                acks=acks,
                may_sleep=plan.may_sleep,
                polls_in_s=plan.polls_in_s,
                awake_from=EventPace.MANY if plan.only_events else None,
            )
    except (driver.Error, SchemaError) as error:
        # Repaired here, while the lease is valid: Celery's own reconnect would throw away what it has reserved.
        claims.reconcile_soon()
        if plan.queues:  # as a claim that brings nothing but events is not observed
            observer.claim_failed()
        logger.warning("Claiming failed (%s); next try in %.2f s", loggable(error), policy.failed())
        return None
    except BaseException:
        claims.reconcile_soon()
        raise
    policy.succeeded(plan, result)
    with_acks = sum(one.queue_id in plan.queues for one in result.messages)
    # An idle worker among two others gets three heartbeats of theirs in 2 s, which are no measure of its work.
    if plan.queues and (with_acks or not result.messages):
        observer.claimed(time.monotonic() - plan.begun, with_acks)
    return result


def receive(
    claims: Claims, messages: MessageStore, plan: Plan, result: ClaimResult, blocked: frozenset[str]
) -> list[Delivery]:
    """What can be delivered, in the order of delivery; the rest is settled.

    Args:
        blocked: names of the tasks that no consumer may run.
    """
    claimed = sorted(result.messages, key=lambda one: (-one.priority, one.id))
    try:
        deliveries = screen(messages, claimed, plan.queues | plan.auto_ack, blocked)
    except BaseException:
        claims.reconcile_soon()  # all of them are claimed, and none is in the buffer
        raise
    return without_ended(claims, deliveries)
