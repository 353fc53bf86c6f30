"""The rules by which something needs attention. Each is a function of what was read to at most one sentence."""

from __future__ import annotations

from collections.abc import Callable

from celery_postgres.database.queue_view_store import Outcomes, Queue
from celery_postgres.readmodel import thresholds
from celery_postgres.readmodel.fleet_problems import beatless, lost, overdue
from celery_postgres.readmodel.limit_problems import at_limit, paused
from celery_postgres.readmodel.observed import Late, Observed, severity_of
from celery_postgres.readmodel.problem import Problem, Severity
from celery_postgres.readmodel.slow_problems import slow
from celery_postgres.readmodel.thresholds import Threshold
from celery_postgres.readmodel.words import counted, duration, listed


def problems(observed: Observed) -> tuple[Problem, ...]:
    """What needs attention: the most urgent first, then the oldest."""
    found = [problem for rule in RULES if (problem := rule(observed)) is not None]
    return tuple(sorted(found, key=lambda one: (one.severity, -(one.age_s or 0.0))))


def late(observed: Observed) -> Problem | None:
    """The oldest task of a queue has waited for longer than it should."""
    return _oldest(
        [one for one in observed.waiting() if one.consumers and not one.paused],
        thresholds.LATE_S,
        "late",
        "Queue {name} falls behind: the oldest task has waited {age}",
        f"The target is {duration(thresholds.LATE_S.warning)}",
    )


def unconsumed(observed: Observed) -> Problem | None:
    """Tasks wait, and no process consumes their queue."""
    queues = [one for one in observed.waiting() if not one.consumers]
    also = ", and resume the queue: it is paused, too" if queues and queues[0].paused else ""
    return _oldest(
        queues,
        thresholds.UNCONSUMED_S,
        "unconsumed",
        "Queue {name} has no worker: {waiting} waiting, the oldest for {age}",
        f"Start a worker with -Q and its name{also}",
    )


def _oldest(queues: list[Queue], limit: Threshold, rule: str, sentence: str, detail: str) -> Problem | None:
    """The queue whose oldest task is beyond the limit; others beyond it are listed in the detail."""
    beyond = [one for one in queues if (one.oldest_s or 0.0) > limit.warning]
    if not beyond:
        return None
    first, age_s = beyond[0], beyond[0].oldest_s or 0.0
    others = f"; also {listed([one.name for one in beyond[1:]])}" if len(beyond) > 1 else ""
    waiting = f"{first.waiting} {'is' if first.waiting.number == 1 else 'are'}"
    text = sentence.format(name=first.name, age=duration(age_s), waiting=waiting)
    why = f"{detail}{_trend(first)}{others}."
    return Problem(rule, severity_of(age_s, limit), text, why, age_s, "queue", first.name)


def _trend(queue: Queue) -> str:
    """`, and it grows by 214 a minute`, where that is known."""
    if queue.growth_per_min is None:
        return ""
    if queue.empty_in_s is not None:
        return f", and it drains: at this rate nothing waits in {duration(queue.empty_in_s)}"
    grows = round(queue.growth_per_min)
    return f", and it grows by {grows:,} a minute" if grows else ", and it neither grows nor drains"


def dead(observed: Observed) -> Problem | None:
    """Messages were set aside in the last 15 minutes."""
    if observed.dead is None or observed.dead.recent < thresholds.DEAD.warning:
        return None
    count = counted(observed.dead.recent, "new dead letter")
    groups = sorted(observed.groups, key=lambda one: -one.last_15_min)
    if not groups or not groups[0].last_15_min:
        return Problem("dead", Severity.WARNING, f"{count} in 15 minutes", view="dead")
    most = groups[0]
    what = f"{most.task or 'a task without a readable name'}: {most.reason}"
    whose = f" They are of {counted(most.tenants, 'tenant')}." if most.tenants else ""
    return Problem(
        "dead",
        Severity.WARNING,
        f"{count} in 15 minutes, {most.last_15_min:,} of them {what}",
        f"{_what_to_do(most.reason)}{whose}",
        max(0.0, (observed.at - most.last_at).total_seconds()),
        "dead",
        most.task or "",
    )


def _what_to_do(reason: str) -> str:
    if reason.startswith("stopped: "):
        return "An operator has blocked the task: unblock it and requeue them when the cause is gone."
    if reason == "expired":
        return "They waited for longer than they may."
    return "Block the task to set the rest aside without loss, or requeue when the cause is gone."


def failing(observed: Observed) -> Problem | None:
    """A task fails much more often than before."""
    before = {one.name: one for one in observed.before}
    found = [one for one in observed.recent if one.name and _fails_more(one, before.get(one.name))]
    if not found:
        return None
    most = max(found, key=lambda one: one.failed)
    others = f" Also {listed(sorted(one.name for one in found if one is not most))}." if len(found) > 1 else ""
    since = most.first_failure
    return Problem(
        "failing",
        Severity.WARNING,
        f"{most.name} fails: {most.failed:,} of the last {most.ended:,} runs in 15 minutes",
        f"{_before(before.get(most.name))}{others}",
        None if since is None else max(0.0, (observed.at - since).total_seconds()),
        "failed",
        most.name,
    )


def _fails_more(now: Outcomes, before: Outcomes | None) -> bool:
    often = now.failed >= thresholds.FEWEST_FAILURES and _share(now) > thresholds.FAILING.warning
    # A task that has failed for hours needs attention until somebody has seen to it.
    return often and _share(now) >= min(thresholds.FAILING_TIMES * _share(before), thresholds.FAILING_ALWAYS)


def _before(outcomes: Outcomes | None) -> str:
    if outcomes is None or not outcomes.ended:
        return f"It did not run in the {duration(thresholds.BEFORE_S)} before."
    return f"In the {duration(thresholds.BEFORE_S)} before, it was {_share(outcomes):.1%}."


def _share(outcomes: Outcomes | None) -> float:
    return outcomes.failed / outcomes.ended if outcomes is not None and outcomes.ended else 0.0


def open_transaction(observed: Observed) -> Problem | None:
    """A transaction has been open for long."""
    age_s = observed.health.oldest_transaction_s if observed.health is not None else None
    if age_s is None or age_s <= thresholds.TRANSACTION_S.warning:
        return None
    return Problem(
        "transaction",
        severity_of(age_s, thresholds.TRANSACTION_S),
        f"A transaction has been open in this database for {duration(age_s)}",
        "Until it ends, vacuum removes no deleted message, and claiming gets slower: find it in pg_stat_activity.",
        age_s,
        "database",
    )


def vacuum_behind(observed: Observed) -> Problem | None:
    """More rows of the message table are dead than live, and they are many."""
    health = observed.health
    rows = None if health is None else health.dead_rows
    if health is None or rows is None or rows <= thresholds.DEAD_ROWS.warning or rows <= (health.live_rows or 0):
        return None
    return Problem(
        "vacuum",
        severity_of(rows, thresholds.DEAD_ROWS),
        f"Vacuum is behind: {rows:,} deleted messages are still in the table",
        "Look for an open transaction, a replication slot that lags, or autovacuum that is off.",
        health.vacuumed_s,
        "database",
    )


#: All rules.
RULES: tuple[Callable[[Observed], Problem | None], ...] = (
    late,
    unconsumed,
    paused,
    dead,
    lost,
    beatless,
    overdue,
    failing,
    slow,
    at_limit,
    open_transaction,
    vacuum_behind,
)

__all__ = ["RULES", "Late", "Observed", "problems"]
