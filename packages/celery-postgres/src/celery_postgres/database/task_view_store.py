"""Lists of tasks: messages, results and dead letters, each a page that reads a bounded number of rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from celery import states

from celery_postgres.database.history_store import Failures, HistoryStore, PastAttempt
from celery_postgres.database.store import Runner, Store
from celery_postgres.database.task_rows import (
    ENDED,
    DeadLetterGroup,
    State,
    StoredResult,
    TaskRow,
    attempt_row,
    dead_row,
    message_row,
    patterns,
    result_row,
    spellings,
    unescaped,
)

#: Rows that one statement reads at most.
SCANNED = 10_000
#: The same of results and attempts of one tenant: each is in another page of the table, which may have to be fetched.
SCANNED_OF_TENANT = 2_000
#: Queues whose scheduled messages are looked for, where no queue is named.
_QUEUES = 1_000
#: Scheduled messages that are read of each of them. Where a queue is named, `SCANNED` of it.
_DUE = 100
_LAST_ID = 2**63 - 1
#: In the future, because a worker's clock may be ahead; PostgreSQL's `infinity` is no time in Python.
_LATEST = datetime(9999, 12, 30, tzinfo=UTC)
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
#: Messages and dead letters that are shown of one task.
_OF_A_TASK = 20


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks: those that meet every condition that is given.

    Attributes:
        state: where they are; None for any.
        task: a part of the task's name, as it is written (upper and lower case differ).
        queue: the whole name of the queue.
        tenant: the tenant's id.
        since: changed at this time or later.
        until: changed before this time.
        reason: of dead letters, the whole reason.
        whole_task: of dead letters, the whole name; empty for those whose name is not known.
        consumer: of running tasks, the consumer that has claimed them; of lost ones, the one that they were lost with.
    """

    state: State | None = None
    task: str | None = None
    queue: str | None = None
    tenant: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    reason: str | None = None
    whole_task: str | None = None
    consumer: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """Rows of one source, in its order.

    Attributes:
        rows: at most as many as were asked for.
        after: where to go on; None at the end of the source.
        searched_until: the time of the last row that was read, where that is not the last of `rows`.
    """

    rows: list[TaskRow]
    after: tuple[Any, ...] | None = None
    searched_until: datetime | None = None


class TaskViewStore(Store):
    """Read lists of tasks. `after` is the `Found.after` of the page before, or None for the first.

    Args:
        runner: for the broker's database.
        results: for the database of the results, where that is another one.
    """

    def __init__(self, runner: Runner, results: Runner | None = None) -> None:
        super().__init__(runner)
        self._run_results = (results or runner).run
        self._history = HistoryStore(results or runner)
        self._histories = [self._history] if results is None else [self._history, HistoryStore(runner)]

    def messages(self, which: TaskFilter, after: tuple[Any, ...] | None, limit: int) -> Found:
        """Messages, the last published first."""
        (before,) = after or (_LAST_ID,)
        state = None if which.state is None else str(which.state)
        asked = {"before": before, "state": state, "tenant": which.tenant, "since": which.since, "until": which.until}
        asked |= {"names": _patterns(which.task), "scanned": SCANNED, "limit": limit}
        if which.queue is None:
            rows = self._run("view_messages", **asked)
        else:
            rows = self._run("view_messages_of_queue", queue=which.queue, **asked)
        found = [message_row(row) for row in rows]
        if len(found) == limit:
            return Found(found, found[-1].position)
        if which.queue is None:
            last = self._run("view_messages_end", before=before, scanned=SCANNED)
        else:
            last = self._run("view_messages_of_queue_end", queue=which.queue, before=before, scanned=SCANNED)
        for number, published_at in last:
            return Found(found, (number,), published_at)
        return Found(found)

    def scheduled(self, which: TaskFilter, after: tuple[Any, ...] | None, limit: int) -> Found:
        """Scheduled messages, the next due first: of each queue the first `_DUE`, of one that is named `SCANNED`.

        A page goes on within those that come after `after`; of more than that many with the same time, only the first
        are found.
        """
        due, number = after or (_EARLIEST, 0)
        scanned = SCANNED if which.queue is not None else _DUE
        if after is None and which.task is None and which.tenant is None:
            scanned = min(scanned, limit)  # each that is read is listed, or comes after those that are
        rows = self._run(
            "view_scheduled",
            queue=which.queue,
            after=due,
            after_id=number,
            tenant=which.tenant,
            names=_patterns(which.task),
            queues=_QUEUES,
            scanned=scanned,
            limit=limit,
        )
        found = [message_row(row) for row in rows]
        return Found(found, (found[-1].due_at, *found[-1].position) if len(found) == limit else None)

    def running(self, which: TaskFilter, after: tuple[Any, ...] | None, limit: int) -> Found:
        """Claimed messages, the longest claimed first."""
        since, number = after or (_EARLIEST, 0)
        rows = self._run(
            "view_running",
            queue=which.queue,
            consumer=which.consumer,
            after=since,
            after_id=number,
            tenant=which.tenant,
            names=_patterns(which.task),
            scanned=SCANNED,
            limit=limit,
        )
        found = [message_row(row) for row in rows]
        return Found(found, (found[-1].changed_at, *found[-1].position) if len(found) == limit else None)

    def ended(self, which: TaskFilter, after: tuple[Any, ...] | None, limit: int) -> Found:
        """Stored results, the last ended first."""
        before, number = after or (_utc(which.until or _LATEST), 0 if which.until else _LAST_ID)
        statuses = list(ENDED.get(which.state, _FINAL))
        bounds = {"before": before, "before_id": number, "since": _utc(which.since), "scanned": SCANNED}
        name, end = "view_ended", "view_ended_end"
        if which.tenant is not None:
            name, end = "view_ended_of_tenant", "view_ended_of_tenant_end"
            bounds |= {"tenant": which.tenant, "scanned": SCANNED_OF_TENANT}
        asked: dict[str, Any] = {"task": which.task, "queue": which.queue, "limit": limit}
        if states.SUCCESS in statuses:
            asked["statuses"] = statuses
        else:
            name, end = _OF_FAILED[name]
            bounds["statuses"] = statuses
            if which.task is None and which.queue is None:
                bounds["scanned"] = limit
        found = [result_row(row) for row in self._run_results(name, **asked, **bounds)]
        if len(found) == limit:
            return Found(found, found[-1].position)
        for done_at, last in self._run_results(end, **bounds):
            return Found(found, (done_at, last), done_at.replace(tzinfo=UTC))
        return Found(found)

    def unstored(self, which: TaskFilter, after: tuple[Any, ...] | None, limit: int) -> Found:
        """Tasks of which no result is kept, by the attempt that ended them, the last recorded first."""
        (before,) = after or (_LAST_ID,)
        wanted = [str(state) for state in (State.FAILED, State.REVOKED, State.LOST) if which.state in (None, state)]
        scanned = SCANNED if which.tenant is None else SCANNED_OF_TENANT
        history = self._histories[-1] if which.state is State.LOST else self._history  # workers write that
        attempts, end = history.ended(
            which.tenant, before=before, states=wanted, scanned=scanned, limit=limit, task=which.task,
            queue=which.queue, since=which.since, until=which.until, consumer=which.consumer,
        )  # fmt: skip
        found = [attempt_row(one) for one in attempts]
        if len(found) == limit:
            return Found(found, found[-1].position)
        return Found(found) if end is None else Found(found, (end[0],), end[1])

    def dead(self, which: TaskFilter, after: tuple[Any, ...] | None, limit: int) -> Found:
        """Dead letters, the newest first."""
        before, number = after or (which.until or _LATEST, 0 if which.until else _LAST_ID)
        bounds = {"before": before, "before_id": number, "since": which.since, "scanned": SCANNED}
        rows = self._run(
            "view_dead",
            reason=which.reason,
            names=_patterns(which.task),
            whole_names=None if which.whole_task is None else spellings(which.whole_task),
            queue=which.queue,
            tenant=which.tenant,
            limit=limit,
            **bounds,
        )
        found = [dead_row(row) for row in rows]
        if len(found) == limit:
            return Found(found, found[-1].position)
        for died_at, last in self._run("view_dead_end", **bounds):
            return Found(found, (died_at, last), died_at)
        return Found(found)

    def count_dead(self, which: TaskFilter, most: int) -> int:
        """How many dead letters `dead` would list, `most` at most."""
        ((count,),) = self._run(
            "view_dead_count",
            before=which.until or _LATEST,
            reason=which.reason,
            whole_names=None if which.whole_task is None else spellings(which.whole_task),
            queue=which.queue,
            scanned=SCANNED,
        )
        return min(int(count), most)

    def dead_groups(self, *, tenant: str | None, queue: str | None, cap: int, groups: int) -> list[DeadLetterGroup]:
        """The newest `cap` dead letters by reason and task, the largest group first."""
        rows = self._run("view_dead_groups", tenant=tenant, queue=queue, cap=cap, groups=groups)
        return [
            DeadLetterGroup(
                reason, unescaped(task), count, first, last, tenants, hour, quarter, tuple(queues or ()), newest
            )
            for reason, task, count, first, last, tenants, hour, quarter, queues, newest in rows
        ]

    def next_of_queue(self, queue: str, limit: int) -> list[TaskRow]:
        """What of a queue runs next, about."""
        return [message_row(row) for row in self._run("view_next_of_queue", queue=queue, limit=limit)]

    # -- one task

    def ids(self, prefix: str, limit: int) -> list[str]:
        """Ids of tasks that begin with `prefix`, at most `limit`."""
        runs = [self._run] if self._run_results == self._run else [self._run, self._run_results]
        return sorted({task_id for run in runs for (task_id,) in run("view_ids", prefix=prefix, limit=limit)})[:limit]

    def messages_of(self, task_id: str) -> list[TaskRow]:
        """The messages of a task, the last published first."""
        return [message_row(row) for row in self._run("view_messages_of_task", task_id=task_id, limit=_OF_A_TASK)]

    def dead_of(self, task_id: str) -> list[TaskRow]:
        """The dead letters of a task, the newest first."""
        return [dead_row(row) for row in self._run("view_dead_of_task", task_id=task_id, limit=_OF_A_TASK)]

    def result_of(self, task_id: str) -> StoredResult | None:
        """What is stored of a task."""
        for row in self._run_results("view_result_of_task", task_id=task_id):
            result, children = (None if value is None else bytes(value) for value in row[13:15])
            return StoredResult(result_row(row), row[3], row[17], result, children, *row[15:17], *row[11:13])
        return None

    def attempts_of(self, task_id: str) -> list[PastAttempt]:
        """The attempts that are remembered of a task, the last first."""
        found = [one for history in self._histories for one in history.of_task(task_id)]
        return sorted(found, key=lambda one: one.ended_at or _EARLIEST, reverse=True)

    def failures(self, since: datetime, *, cap: int, groups: int) -> list[Failures]:
        """What failed since a time, by task and error, the most first."""
        return self._history.failures(since, cap=cap, groups=groups)

    def unregistered(self, *, cap: int) -> frozenset[str]:
        """The names of tasks that some worker did not know, of the newest `cap` attempts."""
        return self._history.unregistered(cap=cap)

    def payload_of(self, task_id: str) -> str | None:
        """What the publisher wrote of a task; None if it is gone, or longer than a megabyte."""
        for (payload,) in self._run("view_payload_of_task", task_id=task_id):
            return str(payload)
        return None


#: The statements for tasks that did not succeed, which have indexes of their own.
_OF_FAILED = {
    "view_ended": ("view_failed", "view_failed_end"),
    "view_ended_of_tenant": ("view_failed_of_tenant", "view_failed_of_tenant_end"),
}
_FINAL = tuple(status for state in (State.SUCCEEDED, State.FAILED, State.REVOKED) for status in ENDED[state])


def _patterns(part: str | None) -> list[str] | None:
    return None if part is None else patterns(part)


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC).replace(tzinfo=None)
