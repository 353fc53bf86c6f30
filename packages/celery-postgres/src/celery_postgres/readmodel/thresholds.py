"""From when on something needs attention: one table for the problems of the read model and for the alerts.

`ops/prometheus/celery.rules.yml` has the same numbers; `ALERTS` says which of its rules contains which text, and a test
compares. Where an alert and a problem have one rule, the problem is a warning before the alert fires.
"""

from __future__ import annotations

from dataclasses import dataclass

from celery_postgres.database.queue_view_store import RECENT_S


@dataclass(frozen=True, slots=True)
class Threshold:
    """From when on a rule finds a problem.

    Attributes:
        warning: a warning from here on.
        critical: critical from here on; None if it never is.
    """

    warning: float
    critical: float | None = None


#: For how many seconds the oldest task of a queue may wait.
LATE_S = Threshold(60, 300)
#: For how many seconds the oldest task of a queue may wait that no process consumes: a worker restarts in less.
UNCONSUMED_S = Threshold(15, 300)
#: For how many seconds a queue may be paused with tasks waiting in it.
PAUSED_S = Threshold(900)
#: For how many seconds the next task of a key, such as a tenant, may have waited because of the key's own limit.
AT_LIMIT_S = Threshold(300)
#: New dead letters within `RECENT_S` seconds.
DEAD = Threshold(1)
#: Messages that a lost worker has left behind.
LOST = Threshold(0)
#: For so many seconds a worker that was lost, and whose messages others have released, needs attention.
LOST_WITHIN_S = 3600.0
#: For how many seconds no beat may be seen, where one ran in the last day; a beat is seen each 5 s.
BEATLESS_S = Threshold(30, 300)
#: For how many seconds an entry of the schedule may be late.
OVERDUE_S = Threshold(60, 360)
#: The share of a task's runs that fail in the last 15 minutes, if it is this many times what it was before.
FAILING = Threshold(0.05)
FAILING_WITHIN_S = 900.0
FAILING_TIMES = 3.0
#: If so many of its runs fail, what it was before does not count.
FAILING_ALWAYS = 0.5
#: Fewer failures are no reason to wake anyone.
FEWEST_FAILURES = 10
#: A task runs so many times as long as 95 % of its name, at least so many seconds, if there were so many runs.
SLOW_TIMES = Threshold(10)
SLOW_LEAST_S = 60.0
FEWEST_RUNS = 20
#: What was before the last 15 minutes is asked of so many seconds.
BEFORE_S = 7200.0
#: For how many seconds a transaction may be open: until it ends, vacuum removes nothing that was deleted since.
TRANSACTION_S = Threshold(600, 3600)
#: Dead rows of the message table, if they outnumber the live ones.
DEAD_ROWS = Threshold(500_000, 5_000_000)


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert rule that stands for a rule of problems.

    Attributes:
        name: of the alert.
        severity: its label.
        contains: what its expression contains.
    """

    name: str
    severity: str
    contains: str


#: The alerts that use these thresholds.
ALERTS = (
    Alert("CeleryReadyAgeOverTarget", "critical", f"oldest_ready_age_seconds:max > {LATE_S.critical:g}"),
    Alert("CeleryQueueNotConsumed", "critical", "consumers:max == 0"),
    Alert("CeleryDeadLettersGrowing", "warning", f"dead_letters_recent:max > {DEAD.warning - 1:g}"),
    Alert("CeleryBeatLate", "critical", f"celery_beat_overdue_seconds) > {OVERDUE_S.warning:g}"),
    Alert("CeleryNoBeat", "critical", f"celery_beat_seen_age_seconds) > {BEATLESS_S.critical:g}"),
    Alert("CeleryTaskSlow", "warning", f"> {SLOW_TIMES.warning:g} * max by (job, task) (celery_task_usual_"),
    Alert("CeleryErrorBudgetFastBurn", "critical", f">= {FEWEST_FAILURES}"),
    Alert("CeleryErrorBudgetSlowBurn", "warning", f">= {FEWEST_FAILURES}"),
)
#: For how many seconds these alerts' conditions hold before they fire, where a problem is critical at the same moment.
HOLDS_S = {
    "CeleryQueueNotConsumed": UNCONSUMED_S.critical,
    "CeleryBeatLate": (OVERDUE_S.critical or 0) - OVERDUE_S.warning,
}

__all__ = [
    "ALERTS",
    "AT_LIMIT_S",
    "BEATLESS_S",
    "BEFORE_S",
    "DEAD",
    "DEAD_ROWS",
    "FAILING",
    "FAILING_ALWAYS",
    "FAILING_TIMES",
    "FAILING_WITHIN_S",
    "FEWEST_FAILURES",
    "FEWEST_RUNS",
    "HOLDS_S",
    "LATE_S",
    "LOST",
    "LOST_WITHIN_S",
    "OVERDUE_S",
    "PAUSED_S",
    "RECENT_S",
    "SLOW_LEAST_S",
    "SLOW_TIMES",
    "TRANSACTION_S",
    "UNCONSUMED_S",
    "Alert",
    "Threshold",
]
