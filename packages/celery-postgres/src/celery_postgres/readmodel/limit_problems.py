"""The rules by which limits and pauses need attention: what somebody has set, and who waits for it."""

from __future__ import annotations

from celery_postgres.database.keys import uuid_or_none
from celery_postgres.database.limit_view_store import KeyAtLimit
from celery_postgres.readmodel import thresholds
from celery_postgres.readmodel.observed import Observed, severity_of
from celery_postgres.readmodel.problem import Problem, Severity
from celery_postgres.readmodel.words import counted, duration, listed


def at_limit(observed: Observed) -> Problem | None:
    """The tasks of a tenant, or of another key, have waited for their own limit for 5 minutes."""
    held = [one for one in observed.held if one.waited_s > thresholds.AT_LIMIT_S.warning]
    if not held:
        return None
    first = held[0]
    others = f" {counted(len(held) - 1, 'other key waits', 'other keys wait')} as well." if len(held) > 1 else ""
    wait = "waits" if first.waiting.number == 1 else "wait"
    return Problem(
        "limit",
        Severity.WARNING,
        f"{_name(first)} has been at its limit in queue {first.queue}: {first.waiting} {wait}, the next for"
        f" {duration(first.waited_s)}",
        f"{_why(first)}. Others go on. Raise its limit, or let it wait.{others}",
        first.waited_s,
        "limit",
        first.queue,
    )


def _name(one: KeyAtLimit) -> str:
    if one.key is None:
        return f"Key {one.key_hash}"
    tenant = uuid_or_none(one.key)
    return f"Key {one.key}" if tenant is None else f"Tenant {tenant}"


def _why(one: KeyAtLimit) -> str:
    if one.concurrency is not None and one.running.number >= one.concurrency:
        return f"{one.running} of {one.concurrency:,} run"
    return f"Its rate is {(one.per_second or 0.0) * 60:,.6g} a minute"


def paused(observed: Observed) -> Problem | None:
    """A queue has been paused for 15 minutes, and tasks wait in it; or one has waited for so long that an alert fires.

    Where it is not recorded when it was paused, the oldest task tells: it was not much later.
    """
    ages = {
        one.name: (observed.at - one.paused_since).total_seconds() if one.paused_since else one.oldest_s or 0.0
        for one in observed.waiting()
        # Without a worker that is the problem, and its line says that the queue is paused, too.
        if one.paused and (one.consumers or (one.oldest_s or 0.0) <= thresholds.UNCONSUMED_S.warning)
    }
    waits = {one.name: one.oldest_s or 0.0 for one in observed.waiting()}
    beyond = sorted(
        (
            one
            for one in ages
            if ages[one] > thresholds.PAUSED_S.warning or waits[one] > (thresholds.LATE_S.critical or 0.0)
        ),
        key=lambda one: -ages[one],
    )
    if not beyond:
        return None
    first = next(one for one in observed.queues if one.name == beyond[0])
    waiting = f"{first.waiting} {'is' if first.waiting.number == 1 else 'are'} waiting, the oldest for"
    since = f"has been paused for {duration(ages[first.name])}" if first.paused_since else "is paused"
    by = f" {first.paused_by} paused it." if first.paused_by else ""
    others = f"; also {listed(beyond[1:])}" if len(beyond) > 1 else ""
    return Problem(
        "paused",
        severity_of(ages[first.name], thresholds.PAUSED_S),
        f"Queue {first.name} {since}: {waiting} {duration(first.oldest_s or 0.0)}",
        f"Resume it, or purge what is not wanted any more{others}.{by}",
        ages[first.name],
        "queue",
        first.name,
    )
