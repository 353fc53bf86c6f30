"""The rows that views of workers, beats and schedules show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from celery_postgres.database.action_store import ActionStore, LostConsumer, LostTask
from celery_postgres.database.claim_view_store import Claims, ClaimViewStore
from celery_postgres.database.counting import Count
from celery_postgres.database.store import Runner, Store

_MOST_SCHEDULES = 1_000
_MOST_BEATS = 100
#: For how long a lost worker is listed.
LOST_LISTED_S = 86_400.0
_MOST_LOST = 200


@dataclass(frozen=True, slots=True)
class Running:
    """A task that a worker runs, since when by the database's clock."""

    task_id: str
    task: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that consumes, or one that is gone.

    Attributes:
        id: its number in `kombu_consumer`.
        hostname: its machine; None if the process is gone and only its claims are left.
        pid: its process id on that machine.
        started_at: when it registered.
        beat: the counter that it raises each second.
        queues: what it consumes, the internal queues included.
        claimed: messages that it has claimed.
        oldest_claim_at: when it claimed the oldest of them.
        lost: whether its row or its session is gone. A worker behind a transaction pooler has no session of its own, so
            only others can tell whether it lives: they remove its row.
        name: Celery's name of the worker; None for other programs, and for workers of an older release.
        pool, slots: its pool, and how many tasks run in it at once.
        app_version: the release of the application that it runs.
        draining: it ends when its tasks have ended.
        busy: how many tasks run in it now; None if it does not report that.
        running: the ones that run the longest, the longest first.
        seen_at: when its latest heartbeat came.
        lost_at: when others found it dead; None while it lives, or before they have.
        released: messages that it had claimed and others released.
        lost_tasks: of a lost worker, what it ran and had acknowledged before: it does not run again. The longest first.
    """

    id: int
    hostname: str | None
    pid: int | None
    started_at: datetime | None
    beat: int | None
    queues: tuple[str, ...]
    claimed: Count
    oldest_claim_at: datetime | None
    lost: bool
    name: str | None = None
    pool: str | None = None
    slots: int | None = None
    app_version: str | None = None
    draining: bool = False
    busy: int | None = None
    running: tuple[Running, ...] = ()
    seen_at: datetime | None = None
    lost_at: datetime | None = None
    released: int = 0
    lost_tasks: tuple[Running, ...] = ()


@dataclass(frozen=True, slots=True)
class LastRun:
    """What became of the task that an entry of the schedule sent last.

    Attributes:
        state: `waiting`, `running`, or Celery's state of its result.
        queue, paused: where its message is, while it exists.
        ended_at: when it ended.
        ran_s: how long it ran.
    """

    state: str
    queue: str | None = None
    paused: bool = False
    ended_at: datetime | None = None
    ran_s: float | None = None


@dataclass(frozen=True, slots=True)
class Schedule:
    """An entry of a beat's schedule.

    Attributes:
        entry: its name.
        last_run_at: when it was last sent, or first seen.
        runs: how often its schedule has sent it.
        overdue_s: for how many seconds it should have been sent; None where neither a beat that is known nor the
            application has the entry, or it is disabled.
        task, schedule: what it sends and when.
        next_run_at: when it is due.
        enabled: whether its schedule sends it.
        sent_at: when it was last sent, also by hand; None if that is not known.
        last_task_id: the task that was sent.
        requested_at: since when an operator wants it sent now; a beat does so within 5 s.
        listed: whether a beat of the last day has the entry.
        counts_from: from when its next run counts.
        last: what became of the task that was sent last, if that is known.
    """

    entry: str
    last_run_at: datetime
    runs: int
    overdue_s: float | None = None
    task: str | None = None
    schedule: str | None = None
    next_run_at: datetime | None = None
    enabled: bool = True
    sent_at: datetime | None = None
    last_task_id: str | None = None
    requested_at: datetime | None = None
    listed: bool = False
    counts_from: datetime | None = None
    last: LastRun | None = field(default=None)


@dataclass(frozen=True, slots=True)
class Beat:
    """A `celery beat`, which may have ended.

    Attributes:
        hostname, pid: its machine, and its process there.
        timezone: the zone of its crontabs.
        started_at, stopped_at: when it began, and when it ended by itself.
        seen_s: how many seconds ago it was seen; a beat is seen each 5 s.
        entries: how many entries it sends.
    """

    hostname: str
    pid: int
    timezone: str | None
    started_at: datetime
    stopped_at: datetime | None
    seen_s: float
    entries: int


class FleetViewStore(Store):
    """Read workers, beats and schedules."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner)
        self._actions = ActionStore(runner)
        self._claims = ClaimViewStore(runner)

    def lost(self) -> list[LostConsumer]:
        """The consumers that were lost in the last day, the last first."""
        return self._actions.lost(LOST_LISTED_S, _MOST_LOST)

    def workers(self, claims: Claims | None = None, lost: Sequence[LostConsumer] | None = None) -> list[Worker]:
        """The processes that consume, lost ones first, then by machine.

        Args:
            claims: what is claimed; read here by default.
            lost: what `lost` has returned; the same.
        """
        now = datetime.now(UTC)
        known = self._claims.claims() if claims is None else claims
        found = [_worker(row, now, known) for row in self._run("view_workers")]
        left: dict[int, int] = dict(self._run("gone_consumers"))
        named = {one.id: one for one in (self.lost() if lost is None else lost) if one.name is not None}
        tasks = self._actions.lost_tasks(list(named))
        found += [
            _gone(number, left.get(number, 0), named.get(number), [one for one in tasks if one.consumer == number])
            for number in {**left, **named}
        ]
        return sorted(found, key=lambda one: not one.lost)

    def schedules(self) -> list[Schedule]:
        """The entries that a beat of this package has seen, by name."""
        found = []
        for row in self._run("view_schedules", limit=_MOST_SCHEDULES):
            name, last, runs, task, schedule, due, enabled, sent, task_id, requested, listed, counts, late_s = row
            overdue_s = max(0.0, late_s) if enabled and listed and late_s is not None else None
            found.append(
                Schedule(
                    *(
                        name,
                        last,
                        runs,
                        overdue_s,
                        task,
                        schedule,
                        due,
                        enabled,
                        sent,
                        task_id,
                        requested,
                        listed,
                        counts,
                    )
                )
            )
        return found

    def beats(self) -> list[Beat]:
        """The beats of the last day, the ones seen last first."""
        return [Beat(*row) for row in self._run("view_beats", limit=_MOST_BEATS)]

    def waiting_runs(self, task_ids: Sequence[str]) -> dict[str, LastRun]:
        """Those of these tasks that wait or run, by their ids."""
        rows = self._run("view_sent", task_ids=list(task_ids)) if task_ids else []
        return {
            task: LastRun("waiting" if visible else "running", queue, bool(paused))
            for task, queue, paused, visible in rows
        }

    def ended_runs(self, task_ids: Sequence[str]) -> dict[str, LastRun]:
        """Those of these tasks that have a result, by their ids."""
        rows = self._run("view_sent_ended", task_ids=list(task_ids)) if task_ids else []
        return {
            task: LastRun(status, ended_at=_aware(done), ran_s=_seconds(started, done))
            for task, status, done, started in rows
        }


def _worker(row: Sequence[Any], now: datetime, claims: Claims) -> Worker:
    number, hostname, pid, started, beat, queues, lives, *reported = row
    name, pool, slots, version, draining, busy, seen_s, running = reported
    seen_at = None if seen_s is None else now - timedelta(seconds=seen_s)
    return Worker(
        *(number, hostname, pid, started, beat, tuple(queues or ()), *claims.of_consumer(number)),
        *(lives is False, name, pool, slots, version, bool(draining), busy),
        running=tuple(running_of(running, seen_at or now)),
        seen_at=seen_at,
    )


def running_of(reported: Any, seen_at: datetime) -> Iterable[Running]:
    """What a worker has reported at that time. Its login can write what it likes there."""
    for one in reported if isinstance(reported, list) else ():
        if isinstance(one, dict) and isinstance(one.get("for_s"), int | float):
            since = seen_at - timedelta(seconds=min(max(0.0, one["for_s"]), 10 * 365 * 86_400))
            yield Running(str(one.get("id")), str(one.get("task")), since)


def _gone(number: int, claims: int, lost: LostConsumer | None, tasks: Sequence[LostTask]) -> Worker:
    if lost is None:
        return Worker(number, None, None, None, None, (), Count(claims), None, lost=True)
    return Worker(
        *(number, lost.hostname, lost.pid, lost.started_at, None, tuple(lost.queues or ()), Count(claims), None, True),
        *(lost.name, lost.pool, lost.slots, lost.app_version),
        lost_at=lost.lost_at,
        released=lost.claimed,
        lost_tasks=tuple(Running(one.task_id, str(one.task), one.since or lost.lost_at) for one in tasks),
    )


def _aware(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)


def _seconds(started: datetime | None, done: datetime | None) -> float | None:
    if started is None or done is None:
        return None
    return max(0.0, (done.replace(tzinfo=UTC) - started).total_seconds())
