"""The tasks of one tenant, as the console lists them: what it submitted, with the state of each."""

from __future__ import annotations

from uuid import UUID

from celery import states
from sqlalchemy import Connection

from app.db import submissions
from app.db.submissions import UNKNOWN, Submitted
from app.http import cursors, views
from app.http.tasks import broker
from celery_postgres import operations
from celery_postgres.readmodel import ENDED, LOST_FOR_GOOD, CursorError, Page, State, TaskFilter, TaskRow

#: Submissions that one page looks at, in pieces.
SCANNED = 1_000
_PIECE = 100
_STATES = {celery: state for state, celerys in ENDED.items() for celery in celerys}
_PHASES = {
    operations.TaskPhase.SCHEDULED: State.SCHEDULED,
    operations.TaskPhase.WAITING: State.WAITING,
    operations.TaskPhase.REVOKED: State.REVOKED,
    operations.TaskPhase.CLAIMED: State.RUNNING,
    operations.TaskPhase.RUNNING: State.RUNNING,
    operations.TaskPhase.DEAD_LETTERED: State.DEAD,
    operations.TaskPhase.LOST: State.LOST,
}


def page(connection: Connection, tenant: UUID, which: TaskFilter, cursor: str | None, limit: int) -> Page:
    """The tenant's tasks that meet `which`, the last submitted first. Those of which nothing is kept are left out.

    Raises:
        CursorError: the cursor is not one of a page.
    """
    after = None if cursor is None else cursors.read(cursor)
    if cursor is not None and after is None:
        raise CursorError("this server did not issue this cursor")
    rows: list[TaskRow] = []
    for _ in range(SCANNED // _PIECE):
        found = submissions.newest(connection, tenant, _PIECE, after)
        for one in found:
            if which.since is not None and one.created_at < which.since:
                return Page(tuple(rows))
            after = one.created_at, one.task_id
            row = _row(one, which)
            if row is not None:
                rows.append(row)
            if len(rows) == limit:
                return Page(tuple(rows), cursors.written(*after))
        if len(found) < _PIECE:
            return Page(tuple(rows))
    assert after is not None  # noqa: S101  # the pieces were full
    return Page(tuple(rows), cursors.written(*after), searched_until=after[0])


def _row(one: Submitted, which: TaskFilter) -> TaskRow | None:
    """The task, if it meets the conditions and something is kept of it."""
    if which.task is not None and which.task not in one.name:
        return None
    state = _STATES.get(one.state)
    # Only what has not ended needs a look of its own: where is its message?
    if state is not None and which.state not in (None, state):
        return None
    if state is None and which.state in ENDED:
        return None
    if state is not None:
        error = views.error_type(one) if one.state == states.FAILURE else None
        return _kept(TaskRow(one.task_id, one.name, state, one.done_at, error=error), which)
    status = broker().state(one.task_id)
    phase = _PHASES.get(status.phase)
    if phase is None or (phase is State.RUNNING and one.state == UNKNOWN):
        return None
    row = TaskRow(
        one.task_id, one.name, phase, status.since, status.queue, due_at=status.eta, failures=status.failures or 0,
        error=LOST_FOR_GOOD if phase is State.LOST else status.reason,
    )  # fmt: skip
    return _kept(row, which)


def _kept(row: TaskRow, which: TaskFilter) -> TaskRow | None:
    wanted = which.state in (None, row.state) and which.queue in (None, row.queue)
    return row if wanted else None
