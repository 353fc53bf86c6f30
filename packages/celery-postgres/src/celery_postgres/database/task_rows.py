"""One task in a list, whichever table it was found in."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from celery import states


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
    position: tuple[Any, ...] = ()


def state_of(status: str) -> State:
    """The state that a result's status means; one that Celery has not ended is running."""
    return _STATE_OF.get(status, State.RUNNING)


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
    number, task_id, name, status, queue, worker, retries, done_at, traceback = row[:9]
    return TaskRow(
        task_id,
        name,
        state_of(status),
        None if done_at is None else done_at.replace(tzinfo=UTC),
        queue,
        worker=worker,
        failures=retries or 0,
        error=error_type(traceback),
        position=(done_at, number),
    )


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


_LAST_FRAME = re.compile(r'^  File "[^\n]*"', re.MULTILINE)
_TYPE = re.compile(r"^([A-Za-z_][\w.]{0,200})(?::|$)", re.MULTILINE)


def error_type(traceback: str | None) -> str | None:
    """The type of the exception that a traceback ends with, without the message, which may quote values."""
    if not traceback:
        return None
    frames = [frame.end() for frame in _LAST_FRAME.finditer(traceback)]
    found = _TYPE.search(traceback, frames[-1] if frames else 0)
    return None if found is None else found[1].rpartition(".")[2]


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
