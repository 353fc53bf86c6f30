"""One task: where it is, what became of each attempt, and where it came from."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from celery_postgres.database.envelope import parse_time
from celery_postgres.database.history_store import PastAttempt
from celery_postgres.database.payload import decode
from celery_postgres.database.task_rows import State, StoredResult, TaskRow, attempt_row, between_s, waited_s
from celery_postgres.database.task_status_store import TaskPhase, TaskStatus
from celery_postgres.readmodel.calls import leading_calls

#: Arguments that are listed, and characters of a name or a type.
_MOST_ARGUMENTS, _LONGEST = 50, 100


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a task, as far as the tables know.

    Attributes:
        state: how it ended, or RUNNING.
        began_at: when it began, or when a consumer claimed the message of one that runs or was lost.
        ended_at: when its end was recorded.
        worker: who ran it.
        error: the type of its exception, `worker lost`, or the reason of its dead letter.
        lost: how many attempts before this one left no record but a count: their workers died, or failed outside the
            task.
        published_at, due_at: of its message.
    """

    state: State
    began_at: datetime | None = None
    ended_at: datetime | None = None
    worker: str | None = None
    error: str | None = None
    lost: int = 0
    published_at: datetime | None = None
    due_at: datetime | None = None

    @property
    def waited_s(self) -> float | None:
        """How long it waited since it was published, or due."""
        return waited_s(self.published_at, self.due_at, self.began_at)

    @property
    def ran_s(self) -> float | None:
        """How long it ran, once it has ended."""
        return between_s(self.began_at, self.ended_at)


@dataclass(frozen=True, slots=True)
class Origin:
    """What the headers of a message say about its task; only while a message or a dead letter exists.

    Attributes:
        root_id, parent_id, group_id: of the canvas that it belongs to.
        retries: how often Celery has retried it.
        publisher: the process that published it.
        correlation_id: the header of that name, for a log store.
        expires_at: after this it is not begun.
        ignores_result: whether its success is not stored.
        arguments: the name and the type of each argument, and no value: `0: int`, `tenant_id: str`.
    """

    root_id: str | None = None
    parent_id: str | None = None
    group_id: str | None = None
    retries: int = 0
    publisher: str | None = None
    correlation_id: str | None = None
    expires_at: datetime | None = None
    ignores_result: bool = False
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """One task.

    Attributes:
        row: as in a list of tasks.
        status: its phase, with its queue and its consumer.
        celery_state: Celery's state, as stored; None without a result.
        attempts: the oldest first.
        origin: from its headers.
        traceback: of its failure. It may quote values, so show it to those who may see arguments.
        calls: those that led to its failure, with their source lines and no message.
        result: the bytes of its result or its exception, for `operations.load_result`; the same care.
        children: ids of the tasks that it sent.
        dead_letters: its dead letters, the newest first.
        never_ran: it failed because its parent did, before it was sent.
    """

    row: TaskRow
    status: TaskStatus
    celery_state: str | None
    attempts: tuple[Attempt, ...]
    origin: Origin
    traceback: str | None = None
    calls: str = ""
    result: bytes | None = None
    children: tuple[str, ...] = ()
    dead_letters: tuple[TaskRow, ...] = ()
    never_ran: bool = False


#: A result and its attempt have the times at which one after the other was made, in one process.
_SAME_END_S = 1.0
_PHASES = {
    TaskPhase.SCHEDULED: State.SCHEDULED,
    TaskPhase.WAITING: State.WAITING,
    TaskPhase.REVOKED: State.REVOKED,
    TaskPhase.CLAIMED: State.RUNNING,
    TaskPhase.RUNNING: State.RUNNING,
    TaskPhase.DEAD_LETTERED: State.DEAD,
    TaskPhase.LOST: State.LOST,
}


def row_of(
    status: TaskStatus,
    messages: list[TaskRow],
    stored: TaskRow | None,
    dead: list[TaskRow],
    past: Sequence[PastAttempt] = (),
) -> TaskRow:
    """The row that stands for a task, whose phase decides which table's it is."""
    if status.phase is TaskPhase.FINISHED and stored is not None:
        # The result of a task that its worker rejected, or did not know. The letter says more, and can run again.
        return dead[0] if dead and stored.state in (State.FAILED, State.REVOKED) else stored
    if status.phase is TaskPhase.DEAD_LETTERED and dead:
        return dead[0]
    if status.phase is TaskPhase.LOST:
        lost = [row for row in map(attempt_row, past) if row.state is State.LOST]
        return lost[0] if lost else TaskRow(status.task_id, None, State.LOST, status.since)
    if messages:
        return replace(messages[0], state=State.REVOKED) if status.phase is TaskPhase.REVOKED else messages[0]
    known = stored or (dead[0] if dead else None)
    return known or TaskRow(status.task_id, None, _PHASES.get(status.phase, State.RUNNING), status.since, status.queue)


def attempts_of(
    messages: list[TaskRow], stored: StoredResult | None, dead: list[TaskRow], past: list[PastAttempt]
) -> tuple[Attempt, ...]:
    """The attempts that left a record, the oldest first.

    Args:
        past: the attempts that are remembered. The one whose end the result is, and those that became one of the dead
            letters, stand there once.
    """
    found = []
    if stored is not None and stored.row.state is not State.RUNNING and not never_ran(stored):
        row = stored.row
        error = row.error or next((one.error for one in past if _is_of(one, stored)), None)
        found.append(
            Attempt(
                row.state, stored.started_at, row.changed_at, row.worker, error,
                published_at=row.published_at, due_at=stored.due_at,
            )
        )  # fmt: skip
    died = {one.changed_at for one in dead}
    told = [one for one in past if not (_is_of(one, stored) or (one.state == "dead" and one.ended_at in died))]
    found += [_past(one) for one in told if attempt_row(one).state is not State.LOST or not _has_ended(one, stored)]
    lost = sum(one.state == "lost" and attempt_row(one).state is not State.LOST for one in past)
    found += [
        Attempt(State.DEAD, None, one.changed_at, None, one.error, lost=max(one.failures - lost, 0)) for one in dead
    ]
    for message in messages:
        untold = max(message.failures - lost, 0)
        if message.state is State.RUNNING:
            found.append(
                Attempt(
                    State.RUNNING, message.changed_at, None, message.worker, lost=untold,
                    published_at=message.published_at, due_at=message.due_at,
                )
            )  # fmt: skip
        elif untold:
            found.append(Attempt(message.state, None, None, None, lost=untold))
    return tuple(sorted(found, key=lambda one: (one.ended_at is None, str(one.ended_at or one.began_at or ""))))


def never_ran(stored: StoredResult | None) -> bool:
    """Whether a stored failure is that of the task before it: no worker ran this one."""
    if stored is None or stored.row.state is not State.FAILED or stored.parent_id is None:
        return False
    return stored.row.worker is None and stored.started_at is None


def traceback_of(stored: StoredResult | None, past: list[PastAttempt]) -> str | None:
    """Of the last attempt, as long as anything has it."""
    if stored is not None:
        return stored.traceback
    return past[0].traceback if past else None


def calls_of(stored: StoredResult | None, past: list[PastAttempt]) -> str:
    """The calls of the last attempt. What is remembered of it has those of the error itself, taken from its frames; the
    text in a result begins with those of the error's first cause."""
    known = [one.traceback for one in past[:1] if stored is None or _is_of(one, stored)]
    texts = (*known, None if stored is None else stored.traceback)
    return next((calls for calls in map(leading_calls, texts) if calls), "")


def _past(one: PastAttempt) -> Attempt:
    row = attempt_row(one)
    return Attempt(
        row.state, one.started_at, one.ended_at, one.worker, row.error, published_at=one.published_at, due_at=one.due_at
    )


def _has_ended(one: PastAttempt, stored: StoredResult | None) -> bool:
    """Whether an attempt that was taken for lost has ended: its worker, or a child of it, lived on."""
    if stored is None or stored.row.state in (State.RUNNING, State.RETRYING):
        return False
    return stored.started_at is None or one.ended_at is None or stored.started_at < one.ended_at


def _is_of(one: PastAttempt, stored: StoredResult | None) -> bool:
    """Whether the stored state is the end of this attempt."""
    if stored is None or one.state == "lost" or attempt_row(one).state is not stored.row.state:
        return False
    apart_s = between_s(stored.row.changed_at, one.ended_at)
    return apart_s is not None and apart_s < _SAME_END_S


def origin_of(payload: str | None, stored: StoredResult | None = None) -> Origin:
    """What the headers and the body of a payload say, or else the result. Nothing that a producer may write raises."""
    if payload is None and stored is not None:
        return Origin(root_id=stored.root_id, parent_id=stored.parent_id, retries=stored.row.failures)
    if payload is None:
        return Origin()
    try:
        message = decode(payload)
    except ValueError:
        return Origin()
    headers = message.get("headers") or {}
    properties = message["properties"]
    retries = headers.get("retries")
    return Origin(
        root_id=_text(headers.get("root_id")),
        parent_id=_text(headers.get("parent_id")),
        group_id=_text(headers.get("group")),
        retries=retries if type(retries) is int else 0,
        publisher=_text(headers.get("origin")),
        correlation_id=_text(headers.get("correlation_id")) or _text(properties.get("correlation_id")),
        expires_at=parse_time(headers.get("expires")),
        ignores_result=headers.get("ignore_result") is True,
        arguments=_arguments(message, properties),
    )


def children_of(children: bytes | None) -> tuple[str, ...]:
    """The ids in what Celery stores of the tasks that a task has sent: nested pairs of an id and its parent."""
    if not children:
        return ()
    try:
        found = json.loads(children)
    except (ValueError, RecursionError):
        return ()
    ids: list[str] = []
    left = [found]
    while left and len(ids) < 1_000:
        one = left.pop()
        if isinstance(one, str):
            ids.append(one[:_LONGEST])
        elif isinstance(one, list):
            left += one[::-1]
    return tuple(ids)


def _text(value: Any) -> str | None:
    return value[:250] if isinstance(value, str) and value else None


def _arguments(message: dict[str, Any], properties: dict[str, Any]) -> tuple[str, ...]:
    """The names and types of a task's arguments, if its body is JSON that is not compressed."""
    try:
        body: Any = message.get("body")
        text = base64.b64decode(body) if properties.get("body_encoding") == "base64" else body
        args, kwargs, *_ = json.loads(text)
        named = [*enumerate(args), *kwargs.items()]
    except (ValueError, TypeError, AttributeError, RecursionError):
        return ()
    shown = [f"{str(name)[:_LONGEST]}: {type(value).__name__}" for name, value in named[:_MOST_ARGUMENTS]]
    return (*shown, f"{len(named) - _MOST_ARGUMENTS} more") if len(named) > _MOST_ARGUMENTS else tuple(shown)
