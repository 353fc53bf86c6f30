"""What the rules of problems look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from celery_postgres.database.fleet_view_store import Beat, Worker
from celery_postgres.database.limit_view_store import KeyAtLimit
from celery_postgres.database.queue_view_store import DeadTotal, Health, Outcomes, Queue
from celery_postgres.database.task_rows import DeadLetterGroup
from celery_postgres.readmodel.problem import Severity
from celery_postgres.readmodel.thresholds import Threshold


@dataclass(frozen=True, slots=True)
class Late:
    """An entry of the schedule, and for how long it should have been sent."""

    entry: str
    overdue_s: float


@dataclass(frozen=True, slots=True)
class Observed:
    """What the rules look at.

    Attributes:
        queues, workers, dead: of this second.
        groups: the dead letters by reason and task.
        late: the entries of the schedule that are due.
        recent, before: how tasks ended in the last 15 minutes, and in the two hours before.
        health: of the database.
        at: when it was read.
        beats: those of the last day.
        held: the keys that their own limits hold back, the one that has waited the longest first.
    """

    queues: Sequence[Queue] = ()
    workers: Sequence[Worker] = ()
    dead: DeadTotal | None = None
    groups: Sequence[DeadLetterGroup] = ()
    late: Sequence[Late] = ()
    recent: Sequence[Outcomes] = ()
    before: Sequence[Outcomes] = ()
    health: Health | None = None
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    beats: Sequence[Beat] = ()
    held: Sequence[KeyAtLimit] = ()

    def waiting(self) -> list[Queue]:
        """The queues of the application in which a task waits, the longest first."""
        own = [one for one in self.queues if not one.internal and one.waiting and one.oldest_s is not None]
        return sorted(own, key=lambda one: -(one.oldest_s or 0.0))


def severity_of(value: float, limit: Threshold) -> Severity:
    return Severity.CRITICAL if limit.critical is not None and value > limit.critical else Severity.WARNING
