"""Tasks that run and have no message any more: they were acknowledged before, and only their workers tell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import timedelta

from celery_postgres.database.fleet_view_store import Worker
from celery_postgres.database.task_rows import State, TaskRow
from celery_postgres.database.task_view_store import TaskFilter
from celery_postgres.readmodel.fleet import Fleet
from celery_postgres.readmodel.pages import Page

#: Tasks that workers report, the longest running first: each is looked for among the messages.
MOST = 200
#: For so long they had run when they were reported, 1.2 s ago at most: most of the shorter ones have ended since.
LONG = timedelta(seconds=2)


def tells(which: TaskFilter) -> bool:
    """Whether workers tell which tasks meet these conditions: they report no queue and no tenant."""
    return which.state is State.RUNNING and which.queue is None and which.tenant is None


def with_acknowledged(found: Page, workers: Iterable[Worker], which: TaskFilter, fleet: Fleet) -> Page:
    """The first page of what runs, with what its workers alone know."""
    listed = {row.task_id for row in found.rows}
    known = [row for row in _reported(workers, which) if row.task_id not in listed][:MOST]
    claimed = fleet.with_messages([row.task_id for row in known if row.task_id is not None])
    rows = [*found.rows, *(row for row in known if row.task_id not in claimed)]
    return replace(found, rows=tuple(sorted(rows, key=_since)))


def _reported(workers: Iterable[Worker], which: TaskFilter) -> Sequence[TaskRow]:
    rows = {
        one.task_id: TaskRow(
            one.task_id, one.task, State.RUNNING, one.since, worker=worker.hostname, consumer=worker.id
        )
        for worker in workers
        if not worker.lost and which.consumer in (None, worker.id)
        for one in worker.running
        if (which.task is None or which.task in one.task)
        and (worker.seen_at is None or worker.seen_at - one.since >= LONG)
    }
    return sorted(rows.values(), key=_since)


def _since(row: TaskRow) -> float:
    return row.changed_at.timestamp() if row.changed_at is not None else 0.0
