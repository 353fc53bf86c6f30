"""Sending one claim, and receiving what it has brought."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from celery_postgres import observer
from celery_postgres.consumer.batch_size import BatchSize
from celery_postgres.consumer.claim_policy import ClaimPolicy, Plan
from celery_postgres.consumer.claims import Claims
from celery_postgres.consumer.event_pace import EventPace
from celery_postgres.consumer.fairness import Fairness, in_turn
from celery_postgres.consumer.lead import LEAD_S
from celery_postgres.consumer.outlet import Delivery, Subscription
from celery_postgres.consumer.screening import screen, without_ended
from celery_postgres.database import driver
from celery_postgres.database.message_store import Claim, ClaimResult, MessageStore
from celery_postgres.errors import SchemaError, loggable

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a connection can be given.

    Attributes:
        queues: the subscriptions with acks to claim from.
        credit: how much their channels may be given.
        auto_ack: the subscriptions without acks.
        fair: the ids of those that are fair, with acks or without.
        polls, only_events: see `Plan`.
    """

    queues: list[Subscription]
    credit: int
    auto_ack: list[Subscription]
    fair: list[int]
    polls: bool
    only_events: bool


def planned(policy: ClaimPolicy, fairness: Fairness, wanted: Wanted, *, force: bool) -> Plan | None:
    """The claim to send now; None if it is not yet time, or the keys of a fair queue could not be read.

    Args:
        force: claim even if it is not yet time.
    """
    due = force or policy.is_due(polls=wanted.polls)
    if not (due or fairness.ready(wanted.fair) or (wanted.fair and fairness.looks_now)):
        return None
    try:
        turns = fairness.turns(wanted.fair, policy.limit(wanted.credit))
    except (driver.Error, SchemaError) as error:
        fairness.failed()
        observer.claim_failed()
        logger.warning("Claiming failed (%s); next try in %.2f s", loggable(error), policy.failed())
        return None
    if turns is None and not due and not fairness.ready(wanted.fair):
        return None  # there was no other key
    return policy.plan(
        wanted.queues,
        wanted.credit,
        wanted.auto_ack,
        polls=wanted.polls,
        due=not force,
        only_events=wanted.only_events,
        fair_queues=wanted.fair,
        turns=turns,
        keys_wait=fairness.ready(wanted.fair),
    )


def send(
    consumer: int, claims: Claims, policy: ClaimPolicy, fairness: Fairness, messages: MessageStore, plan: Plan
) -> ClaimResult | None:
    """Send the pending acks and claim messages; None if that has failed."""
    try:
        with claims.pending.sending() as acks:
            result = _send(consumer, acks, messages, plan)
    except (driver.Error, SchemaError) as error:
        # Repaired here, while the lease is valid: Celery's own reconnect would throw away what it has reserved.
        claims.reconcile_soon()
        fairness.failed()
        if plan.queues:  # as a claim that brings nothing but events is not observed
            observer.claim_failed()
        logger.warning("Claiming failed (%s); next try in %.2f s", loggable(error), policy.failed())
        return None
    except BaseException:
        claims.reconcile_soon()
        raise
    policy.succeeded(plan, result)
    fairness.claimed(plan.turns, plan.limit, result, time.monotonic() - plan.begun)
    with_acks = sum(one.queue_id in plan.queues for one in result.messages)
    # An idle worker among two others gets three heartbeats of theirs in 2 s, which are no measure of its work. Nor is a
    # look for what has failed before, which asks no key.
    looked = plan.turns is not None and not plan.turns.turns
    if plan.queues and (with_acks or not (result.messages or looked)):
        observer.claimed(time.monotonic() - plan.begun, with_acks)
    return result


def _send(consumer: int, acks: Sequence[Claim], messages: MessageStore, plan: Plan) -> ClaimResult:
    if plan.turns is not None:
        return messages.claim_turns(consumer, plan.turns, limit=plan.limit, acks=acks)
    return messages.claim(
        consumer,
        plan.lowest_ids,
        limit=plan.limit,
        auto_ack_queues=list(plan.auto_ack),
        auto_ack_limit=BatchSize.AUTO_ACK_LIMIT,
        acks=acks,
        may_sleep=plan.may_sleep,
        polls_for_s=LEAD_S if plan.polls_in_s else 0.0,
        brief=plan.brief,
        brief_for_s=LEAD_S,
        awake_from=EventPace.MANY if plan.only_events else None,
        peeked=plan.fair_queues if plan.may_sleep else (),
    )


def receive(
    claims: Claims, messages: MessageStore, plan: Plan, result: ClaimResult, blocked: frozenset[str]
) -> list[Delivery]:
    """What can be delivered, in the order of delivery; the rest is settled.

    Args:
        blocked: names of the tasks that no consumer may run.
    """
    claimed = in_turn(result.messages, plan.turns)
    try:
        deliveries = screen(messages, claimed, plan.queues | plan.auto_ack, blocked)
    except BaseException:
        claims.reconcile_soon()  # all of them are claimed, and none is in the buffer
        raise
    for one in deliveries:
        if one.subscription.auto_ack and plan.turns is not None:
            claims.pending.add(one.claim)  # what has a key is not deleted as it is claimed
    return without_ended(claims, deliveries)
