"""What a reader of the console sees, as one object for each database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from celery_postgres.database.action_store import Action, ActionStore
from celery_postgres.database.canvas_store import CanvasStore
from celery_postgres.database.counting import CAP, Count
from celery_postgres.database.dead_letter import REJECTED
from celery_postgres.database.ended_session_store import EndedSessionStore
from celery_postgres.database.fleet_view_store import Beat, FleetViewStore, Schedule, Worker
from celery_postgres.database.history_store import Failures
from celery_postgres.database.limit_store import Limit
from celery_postgres.database.limit_view_store import LimitViewStore
from celery_postgres.database.minute_view_store import MinuteViewStore
from celery_postgres.database.monitor_store import MonitorStore
from celery_postgres.database.queue_view_store import DeadTotal, Queue, QueueViewStore, is_counted
from celery_postgres.database.reader import Reader
from celery_postgres.database.task_rows import State, attempt_row
from celery_postgres.database.task_status_store import Stored, TaskPhase, TaskStatusStore
from celery_postgres.database.task_view_store import TaskFilter, TaskViewStore
from celery_postgres.readmodel import acknowledged
from celery_postgres.readmodel.canvas import Canvas, canvas_of
from celery_postgres.readmodel.details import DeadLetters, QueueDetail, TenantShare, WorkerDetail
from celery_postgres.readmodel.fleet import Fleet
from celery_postgres.readmodel.limits import Limits, LimitViews, Standing
from celery_postgres.readmodel.observing import MOST_GROUPS, Observer, Overview
from celery_postgres.readmodel.overdue import Lateness
from celery_postgres.readmodel.pages import Page, page
from celery_postgres.readmodel.past import HOUR, Past, PastViews, Span
from celery_postgres.readmodel.problem import Problem
from celery_postgres.readmodel.task import (
    Task,
    attempts_of,
    calls_of,
    children_of,
    never_ran,
    origin_of,
    row_of,
    traceback_of,
)

PAGE = 50
_NEXT = 20
#: A search for an id needs so many characters.
SHORTEST_ID = 8
_MOST_IDS = 50


class ReadModel:
    """The views on one database. For any number of threads.

    Args:
        dsn: the libpq connection string of the broker's database.
        results: of the database of the results, where that is another one.
        app: the Celery application, whose `beat_schedule` tells which entries are late; None if it is not known.
    """

    def __init__(self, dsn: str, results: str | None = None, app: Any = None) -> None:
        self._reader = Reader(dsn)
        self._results = None if results is None else Reader(results)
        self._queues = QueueViewStore(self._reader)
        self._tasks = TaskViewStore(self._reader, self._results)
        self._actions = ActionStore(self._reader)
        #: Sessions of the console that were ended before their time.
        self.ended_sessions = EndedSessionStore(self._reader)
        self._canvases = CanvasStore(self._reader, self._results)
        minutes = MinuteViewStore(self._reader)
        self._past = PastViews(minutes)
        self._limits = LimitViews(self._reader, self._results or self._reader)
        fleet = FleetViewStore(self._reader)
        of_results = fleet if self._results is None else FleetViewStore(self._results)
        self._fleet = Fleet(fleet, of_results, Lateness(app))
        held = LimitViewStore(self._reader)
        self._observer = Observer(self._queues, self._fleet, self._tasks, minutes, self._actions, held)

    def close(self) -> None:
        """Close the connections."""
        for reader in (self._reader, self._results):
            if reader is not None:
                reader.close()

    # -- at a glance

    def overview(self) -> Overview:
        """Queues, workers, dead letters, schedules and problems, at most a second old."""
        return self._observer.overview()

    def actions(self, limit: int = PAGE, before: int | None = None) -> list[Action]:
        """What people did by hand, the last begun first; before an id, for the next page."""
        return self._actions.actions(limit, before)

    def blocked(self) -> dict[str, datetime]:
        """The names of the tasks that no worker may begin, and since when an operator has blocked each."""
        return self._queues.blocked()

    def waiting_of_name(self, name: str, *, search_s: float | None = None) -> Count:
        """How many messages of tasks of this name wait, as far as one look finds them, 1,000 at most.

        Args:
            search_s: see `tasks`.
        """
        found = self.tasks(TaskFilter(state=State.WAITING, task=name), limit=1_001, search_s=search_s)
        return Count.of(sum(one.name == name for one in found.rows), 1_001)

    def may_act(self) -> bool:
        """Whether this login has the rights to act, as `celery_operator` and the tables' owner do."""
        return self._actions.may_act()

    def problems(self) -> tuple[Problem, ...]:
        """What needs attention, the most urgent first, then the oldest."""
        return self.overview().problems

    def workers(self) -> tuple[Worker, ...]:
        """The processes that consume, the lost ones first."""
        return self.overview().workers

    def workers_now(self) -> list[Worker]:
        """The same, read now: for an action, which depends on what another has just changed."""
        return self._fleet.workers()

    def worker(self, number: int, cursor: str | None = None) -> WorkerDetail | None:
        """One worker by its id; None if there is none."""
        for one in self.workers():
            if one.id == number:
                return WorkerDetail(one, self.tasks(TaskFilter(state=State.RUNNING, consumer=number), cursor))
        return None

    def schedules(self) -> tuple[Schedule, ...]:
        """The entries that a beat has seen, by name, with what became of the task that each has sent last."""
        return tuple(self._fleet.with_last_runs(self.overview().schedules))

    def schedule(self, entry: str) -> Schedule | None:
        """One entry, read now: for an action, which depends on what another has just changed."""
        found = [one for one in self._fleet.schedules() if one.entry == entry]
        return self._fleet.with_last_runs(found)[0] if found else None

    def beats(self) -> tuple[Beat, ...]:
        """The beats of the last day, the ones seen last first."""
        return self.overview().beats

    # -- one queue

    def queue(self, name: str) -> QueueDetail | None:
        """One queue; None if there is none of that name."""
        if "\0" in name:
            return None
        queue = self._queue(name)
        if queue is None:
            return None
        shares = MonitorStore(self._reader).waiting_by_tenant(name, cap=CAP)
        most = sorted(shares.items(), key=lambda one: (-one[1], str(one[0])))
        return QueueDetail(
            queue,
            tuple(TenantShare(None if tenant is None else str(tenant), waiting) for tenant, waiting in most),
            Count.of(sum(shares.values())),
            tuple(self._tasks.next_of_queue(name, _NEXT)),
            tuple(one for one in self.workers() if name in one.queues),
        )

    def has_queue(self, name: str) -> bool:
        """Whether there is a queue of that name."""
        return "\0" not in name and self._queues.exists(name)

    def _queue(self, name: str) -> Queue | None:
        """A queue as it is now; what runs and its dead letters may be a second older, as they are in the overview."""
        asked_at = datetime.now(UTC)
        now = self.overview()
        known = next((one for one in now.queues if one.name == name), None)
        if known is not None and now.read_at >= asked_at and is_counted(known):
            return known
        return self._queues.queue(name, known)

    # -- limits

    def limits(self, queue: str | None = None, cursor: str | None = None) -> Limits:
        """The limits of fair queues, or of one of them, and the keys of which most runs.

        Raises:
            CursorError: the cursor is not one of this list.
        """
        return self._limits.limits(queue, cursor)

    def limit(self, queue: str, key: str | None) -> Limit | None:
        """The limits of a key, of each key (`*`) or of a whole queue; None if there are none."""
        return None if "\0" in queue + (key or "") else self._limits.limit(queue, key)

    def standing(
        self, key: str, tenant: UUID | None = None, *, fair: Sequence[str] | None = None
    ) -> tuple[Standing, ...]:
        """How a key stands in the fair queues: its limits, what of it runs and waits, and for how long.

        Args:
            key: the key.
            tenant: the tenant whose ended tasks say how long new ones wait.
            fair: `Limits.fair`, where that was read already.
        """
        return self._limits.standing(key, tenant, fair)

    def past(self, span: Span = HOUR, queue: str | None = None) -> Past:
        """What workers have counted in the last hour, day or week, of all queues, or of one with how much waited."""
        if span is HOUR and queue is None:
            return self.overview().hour or self._past.of(span, queue)
        return self._past.of(span, queue)

    # -- tasks

    def tasks(
        self,
        which: TaskFilter | None = None,
        cursor: str | None = None,
        *,
        limit: int = PAGE,
        search_s: float | None = None,
    ) -> Page:
        """A page of tasks.

        The first page of those that run, of all queues and tenants, also has up to 200 that were acknowledged before
        they began, by what their workers report.

        Args:
            which: their conditions; all tasks by default.
            cursor: `Page.next` of the page before.
            limit: the length of a page.
            search_s: where few tasks meet the conditions, no further piece is searched after so many seconds; a second
                by default.

        Raises:
            CursorError: the cursor is not one of this list.
        """
        which = which or TaskFilter()
        found = page(self._tasks, which, cursor, limit, search_s)
        if cursor is None and acknowledged.tells(which):
            return acknowledged.with_acknowledged(found, self.workers(), which, self._fleet)
        return found

    def find(self, text: str) -> list[str]:
        """The ids of tasks that begin with a text; none for one of fewer than `SHORTEST_ID` characters."""
        if len(text) < SHORTEST_ID or "\0" in text:
            return []
        return self._tasks.ids(text, _MOST_IDS)

    def task(self, task_id: str, *, tenant: UUID | str | None = None) -> Task | None:
        """One task; None if nothing is stored of it.

        Args:
            task_id: its whole id.
            tenant: whose it has to be; None for any. Results do not name their tenant, so an ended task is only found
                without this.
        """
        if "\0" in task_id:
            return None
        status = TaskStatusStore(self._reader).of(task_id, None if self._results is None else self._stored)
        past = self._tasks.attempts_of(task_id)
        if status.phase is TaskPhase.UNKNOWN and not past:
            return None
        messages, dead = self._tasks.messages_of(task_id), self._tasks.dead_of(task_id)
        stored = self._tasks.result_of(task_id)
        if status.phase is TaskPhase.UNKNOWN and stored is None:
            row = attempt_row(past[0])
        else:
            row = row_of(status, messages, None if stored is None else stored.row, dead, past)
        if tenant is not None and row.tenant_id != str(tenant):
            return None
        if row.error is None and row.state in (State.FAILED, State.RETRYING):
            row = replace(row, error=next((one.error for one in past if one.error), None))
        return Task(
            row,
            status,
            None if stored is None else stored.status,
            attempts_of(messages, stored, dead, past),
            origin_of(self.payload(task_id), stored),
            traceback_of(stored, past),
            calls_of(stored, past),
            None if stored is None else stored.result,
            children_of(None if stored is None else stored.children),
            tuple(dead),
            never_ran(stored),
        )

    def canvas(self, task: Task) -> Canvas | None:
        """The chain, group or chord of a task, as far as results and messages tell; None if it is alone."""
        task_id = task.row.task_id
        return None if task_id is None else canvas_of(self._canvases, task_id, task.origin.root_id)

    def _stored(self, task_id: str) -> Stored:
        found = self._tasks.result_of(task_id)
        return Stored(None, None) if found is None else Stored(found.status, found.row.changed_at)

    def failures(self) -> list[Failures]:
        """What failed, was retried or was lost in the last hour, by task and error, the most first."""
        return list(self.overview().failures)

    def payload(self, task_id: str) -> str | None:
        """What the publisher wrote, while a message or a dead letter exists; None if it is longer than a megabyte."""
        return self._tasks.payload_of(task_id)

    # -- dead letters

    def count_dead(self, which: TaskFilter, most: int) -> int:
        """How many of the newest 10,000 dead letters meet the conditions, in one statement; `most` at most."""
        return self._tasks.count_dead(which, most)

    def dead_letters(self, *, tenant: UUID | str | None = None, queue: str | None = None) -> DeadLetters:
        """The dead letters by reason and task, the largest group first."""
        whose = None if tenant is None else str(tenant)
        groups = self._tasks.dead_groups(tenant=whose, queue=queue, cap=CAP - 1, groups=MOST_GROUPS)
        rejected = any(one.reason == str(REJECTED) for one in groups)
        unregistered = self._tasks.unregistered(cap=CAP - 1) if rejected else frozenset()
        return DeadLetters(DeadTotal.of(self._queues.dead_by_queue()), tuple(groups), unregistered)
