"""What is going on, read once a second however many look."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from celery_postgres.database.action_store import ActionStore
from celery_postgres.database.counting import CAP
from celery_postgres.database.fleet_view_store import Beat, Schedule, Worker
from celery_postgres.database.history_store import Failures
from celery_postgres.database.limit_view_store import KeyAtLimit, LimitViewStore
from celery_postgres.database.minute_view_store import Minute, MinuteViewStore
from celery_postgres.database.queue_view_store import DeadTotal, Health, Outcomes, Queue, QueueViewStore
from celery_postgres.database.task_rows import DeadLetterGroup
from celery_postgres.database.task_view_store import TaskViewStore
from celery_postgres.readmodel import changes as changing
from celery_postgres.readmodel import thresholds
from celery_postgres.readmodel.changes import Change, changes
from celery_postgres.readmodel.fleet import Fleet
from celery_postgres.readmodel.past import HOUR, Past, past
from celery_postgres.readmodel.problem import Problem
from celery_postgres.readmodel.problems import Late, Observed, problems
from celery_postgres.readmodel.trend import Trend

#: For how long an overview is good for all who look.
FRESH_S = 1.0
#: The same of groups of dead letters, outcomes and failures, and the state of the database.
CAUSES_FRESH_S = 10.0
#: The same of how tasks ended before.
BEFORE_FRESH_S = 60.0
MOST_GROUPS = 200
#: Groups of failures that are shown; one more is read, to say whether there are others.
FAILURES, _FAILURES_WITHIN = 8, timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Overview:
    """What is going on.

    Attributes:
        read_at: when it was read, in UTC.
        queues: those of the application by name, then the internal ones.
        workers: the lost ones first.
        dead: how many dead letters there are.
        schedules: the entries that a beat has sent.
        beats: those of the last day, the ones seen last first.
        problems: what needs attention, the most urgent first.
        changes: what changed in the last hour, the last first.
        hour: what workers have counted in the last hour, at most ten seconds old.
        failures: what failed, was retried or was lost in the last hour, by task and error, the most first; as old.
        blocked: the names of the tasks that no worker may begin, and since when.
    """

    read_at: datetime
    queues: tuple[Queue, ...]
    workers: tuple[Worker, ...]
    dead: DeadTotal
    schedules: tuple[Schedule, ...]
    beats: tuple[Beat, ...]
    problems: tuple[Problem, ...]
    changes: tuple[Change, ...] = ()
    hour: Past | None = None
    failures: tuple[Failures, ...] = ()
    blocked: Mapping[str, datetime] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Causes:
    read: float
    groups: Sequence[DeadLetterGroup]
    recent: Sequence[Outcomes]
    before: Sequence[Outcomes]
    health: Health
    minutes: Sequence[Minute]
    held: Sequence[KeyAtLimit]
    failures: Sequence[Failures]


class Observer:
    """Reads overviews.

    Args:
        queues: reads queues.
        fleet: reads workers, beats and the schedule.
        tasks: reads dead letters.
        minutes: reads what workers have counted.
        actions: reads what people did, and which workers were lost.
        limits: reads which keys are at their limits.
    """

    def __init__(
        self,
        queues: QueueViewStore,
        fleet: Fleet,
        tasks: TaskViewStore,
        minutes: MinuteViewStore,
        actions: ActionStore,
        limits: LimitViewStore,
    ) -> None:
        self._queues, self._fleet, self._tasks, self._minutes = queues, fleet, tasks, minutes
        self._actions, self._limits = actions, limits
        self._lock = threading.Lock()
        self._latest: tuple[float, Overview] | None = None
        self._failed: tuple[float, Exception] | None = None
        self._causes: _Causes | None = None
        self._before: tuple[float, Sequence[Outcomes]] | None = None
        self._trend = Trend()

    def overview(self) -> Overview:
        """The current overview, at most `FRESH_S` old.

        A failure is shared like an overview: while the server hangs, fifty readers would else wait 2 s each, one after
        the other.
        """
        with self._lock:
            now = time.monotonic()
            if self._latest is not None and now - self._latest[0] < FRESH_S:
                return self._latest[1]
            if self._failed is not None and now - self._failed[0] < FRESH_S:
                raise self._failed[1].with_traceback(None)
            try:
                overview = self._read()
            except Exception as error:
                self._failed = time.monotonic(), error
                raise
            self._latest = time.monotonic(), overview
            return overview

    def _read(self) -> Overview:
        now = datetime.now(UTC)
        dead, claims = self._queues.dead_by_queue(), self._queues.claims()
        queues = self._trend.of(self._queues.queues(dead, claims), time.monotonic())
        lost = self._fleet.lost()
        workers = self._fleet.workers(claims, lost)
        total = DeadTotal.of(dead)
        schedules, beats = self._fleet.schedules(), self._fleet.beats()
        causes = self._read_causes(now)
        observed = Observed(
            queues,
            workers,
            total,
            causes.groups,
            [Late(one.entry, one.overdue_s) for one in schedules if one.overdue_s],
            causes.recent,
            causes.before,
            causes.health,
            now,
            beats,
            causes.held,
        )
        changed = changes(
            self._actions.changes(changing.MOST),
            [one for one in lost if one.lost_at > now - changing.WITHIN][: changing.MOST],
            workers,
            now,
        )
        return Overview(
            now,
            tuple(queues),
            tuple(workers),
            total,
            tuple(schedules),
            tuple(beats),
            problems(observed),
            changed,
            past(HOUR, now, causes.minutes),
            tuple(causes.failures),
            self._queues.blocked(),
        )

    def _read_causes(self, now: datetime) -> _Causes:
        if self._causes is None or time.monotonic() - self._causes.read >= CAUSES_FRESH_S:
            lately = now - timedelta(seconds=thresholds.FAILING_WITHIN_S)
            # The database's clock may be ahead.
            minutes, recent = self._minutes.counts(HOUR.begins(now), now + timedelta(days=1), lately)
            self._causes = _Causes(
                time.monotonic(),
                self._tasks.dead_groups(tenant=None, queue=None, cap=CAP - 1, groups=MOST_GROUPS),
                recent,
                self._outcomes_before(lately),
                self._queues.health(),
                minutes,
                self._limits.at_limit(thresholds.AT_LIMIT_S.warning),
                self._tasks.failures(now - _FAILURES_WITHIN, cap=CAP - 1, groups=FAILURES + 1),
            )
        return self._causes

    def _outcomes_before(self, lately: datetime) -> Sequence[Outcomes]:
        if self._before is None or time.monotonic() - self._before[0] >= BEFORE_FRESH_S:
            since = lately - timedelta(seconds=thresholds.BEFORE_S)
            self._before = time.monotonic(), self._minutes.outcomes(since, lately)
        return self._before[1]
