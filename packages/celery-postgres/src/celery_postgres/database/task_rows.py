"""One task in a list, whichever table it was found in."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from celery import states

from celery_postgres.database.history_store import LOST_EARLY, PastAttempt


class State(StrEnum):
    """Where a task is, in the words of the views; `celery_states` has Celery's own."""

    WAITING = "waiting"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REVOKED = "revoked"
    DEAD = "dead"
    #: It ran in a worker that was lost, and was acknowledged before: it does not run again.
    LOST = "lost"


#: Celery's states that a list of ended tasks shows as each of these.
ENDED: dict[State | None, tuple[str, ...]] = {
    State.RETRYING: (states.RETRY,),
    State.SUCCEEDED: (states.SUCCESS,),
    State.FAILED: (states.FAILURE,),
    State.REVOKED: (states.REVOKED, states.REJECTED, states.IGNORED),
}
_STATE_OF = {celery: state for state, celerys in ENDED.items() if state for celery in celerys}


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task in a list. What its table does not know is None; texts are a producer's, so treat them as hostile.

    Attributes:
        task_id: Celery's id; None for a message without one.
        name: the task's name; of an ended task unless the option `describe` was off.
        state: where it is.
        changed_at: since when: published, claimed, ended or dead-lettered.
        queue: where its message is or was.
        tenant_id: the tenant in its headers.
        published_at: when its message was written.
        due_at: of a scheduled task, when it may run.
        worker: the machine or the node that runs or ran it.
        consumer: the consumer that has claimed it.
        failures: how often a delivery failed; of an ended task, how often it was retried.
        error: of a failed or retrying task, the exception's type; of a dead letter, the whole reason. No value.
        dead_letter: the id of its dead letter.
        bytes: the size of a dead letter's payload.
        waited_s: of an ended task, how long its last attempt waited since it was published, or due.
        ran_s: how long that ran, by its worker's clock.
        position: where a list that ends with this row goes on.
    """

    task_id: str | None
    name: str | None
    state: State
    changed_at: datetime | None
    queue: str | None = None
    tenant_id: str | None = None
    published_at: datetime | None = None
    due_at: datetime | None = None
    worker: str | None = None
    consumer: int | None = None
    failures: int = 0
    error: str | None = None
    dead_letter: int | None = None
    bytes: int | None = None
    waited_s: float | None = None
    ran_s: float | None = None
    position: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredResult:
    """What the result backend has of a task: `row`, and what only its own page shows.

    Attributes:
        status: Celery's state.
        traceback: of a failure; it may quote values.
        result: the bytes of its result, for `operations.load_result`.
        children: the ids of what it sent, as Celery stores them.
        root_id, parent_id: of the canvas that it belongs to; no root if it is its own.
        due_at, started_at: of its last attempt.
    """

    row: TaskRow
    status: str
    traceback: str | None
    result: bytes | None
    children: bytes | None
    root_id: str | None = None
    parent_id: str | None = None
    due_at: datetime | None = None
    started_at: datetime | None = None


def state_of(status: str) -> State:
    """The state that a result's status means; one that Celery has not ended is running."""
    return _STATE_OF.get(status, State.RUNNING)


@dataclass(frozen=True, slots=True)
class DeadLetterGroup:
    """Dead letters of one reason and one task, within the newest 10,000.

    Attributes:
        reason: why they were set aside.
        task: the task's name; None where it is not known.
        count: how many there are.
        first_at, last_at: when the oldest and the newest of them was set aside.
        tenants: how many tenants they are of.
        last_hour, last_15_min: how many came in that time.
        queues: at most 10 queues that they came from.
        newest: the id of the newest.
    """

    reason: str
    task: str | None
    count: int
    first_at: datetime
    last_at: datetime
    tenants: int
    last_hour: int
    last_15_min: int
    queues: tuple[str, ...]
    newest: int


def message_row(row: tuple[Any, ...]) -> TaskRow:
    """From the fragment `message_columns`."""
    number, task_id, name, state, queue, tenant, published, available, claimed, failures, consumer, host, *_ = row
    return TaskRow(
        task_id,
        unescaped(name),
        State(state),
        (claimed or published) if state == State.RUNNING else published,
        queue,
        tenant,
        published,
        available if state == State.SCHEDULED else None,
        host,
        consumer,
        failures,
        position=(number,),
    )


def result_row(row: tuple[Any, ...]) -> TaskRow:
    """From `view_ended` and the first columns of `view_result_of_task`."""
    number, task_id, name, status, queue, worker, retries, done_at, error = row[:9]
    tenant_id, published_at, due_at, started_at = row[9:13]
    return TaskRow(
        task_id,
        name,
        state_of(status),
        None if done_at is None else done_at.replace(tzinfo=UTC),
        queue,
        tenant_id,
        published_at,
        worker=worker,
        failures=retries or 0,
        error=error,
        waited_s=waited_s(published_at, due_at, started_at),
        ran_s=None if done_at is None else between_s(started_at, done_at.replace(tzinfo=UTC)),
        position=(done_at, number),
    )


_OF_ATTEMPTS = {"retried": State.RETRYING, "revoked": State.REVOKED, "dead": State.DEAD}


#: The error of such an attempt, as views show it.
LOST_FOR_GOOD = "worker lost, not run again"


def attempt_row(one: PastAttempt) -> TaskRow:
    """From an attempt. One that was lost with its worker, or failed outside the task, has failed with `worker lost`.

    One that was acknowledged before is lost.
    """
    lost = one.state == "lost"
    for_good = lost and one.error == LOST_EARLY
    return TaskRow(
        one.task_id,
        unescaped(one.name),
        State.LOST if for_good else _OF_ATTEMPTS.get(one.state, State.FAILED),
        one.ended_at,
        one.queue,
        one.tenant_id,
        one.published_at,
        worker=one.worker,
        failures=one.retries or 0,
        error=LOST_FOR_GOOD if for_good else "worker lost" if lost else one.error,
        waited_s=waited_s(one.published_at, one.due_at, one.started_at),
        ran_s=between_s(one.started_at, one.ended_at),
        position=(one.id,),
    )


def waited_s(published_at: datetime | None, due_at: datetime | None, started_at: datetime | None) -> float | None:
    """How long a task waited for a worker: since it was published, or due."""
    return between_s(due_at or published_at, started_at)


def between_s(begin: datetime | None, end: datetime | None) -> float | None:
    """The seconds between two times. Of two machines' clocks the second may be behind: then it is 0."""
    return None if begin is None or end is None else max((end - begin).total_seconds(), 0.0)


def dead_row(row: tuple[Any, ...]) -> TaskRow:
    """From `view_dead` and `view_dead_of_task`."""
    number, task_id, name, queue, tenant, published, died_at, failures, reason, size = row
    return TaskRow(
        task_id,
        unescaped(name),
        State.DEAD,
        died_at,
        queue,
        tenant,
        published,
        failures=failures,
        error=reason,
        dead_letter=number,
        bytes=size,
        position=(died_at, number),
    )


def unescaped(name: str | None) -> str | None:
    """A name as it stands in JSON, without its escapes."""
    if name is None or "\\" not in name:
        return name
    try:
        value = json.loads(f'"{name}"')
        value.encode()
    except (ValueError, UnicodeEncodeError):
        return name
    return str(value)


def spellings(name: str) -> list[str]:
    """A name as it may stand in JSON: some encoders escape what is not ASCII, and some keep it."""
    forms = (name, json.dumps(name)[1:-1], json.dumps(name, ensure_ascii=False)[1:-1])
    return list(dict.fromkeys(forms))


def patterns(part: str) -> list[str]:
    """Patterns of LIKE for a part of a name, as it may stand in JSON."""
    return ["%" + re.sub(r"([\\%_])", r"\\\1", one) + "%" for one in spellings(part)]
