"""Where one task is: its message, its stored state and its dead letter, as one answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

from celery import states

from celery_postgres.database.store import Store


class TaskPhase(StrEnum):
    """What becomes of a task, in this order."""

    #: Nothing is stored of it: it was never published, or not yet committed; it was acknowledged early and has not
    #: ended; or its result was ignored, forgotten or has expired.
    UNKNOWN = "unknown"
    #: Its message waits for its time, `TaskStatus.eta`.
    SCHEDULED = "scheduled"
    #: Its message is ready, and nobody has claimed it.
    WAITING = "waiting"
    #: It was canceled while it waited; a worker will discard the message and store REVOKED.
    REVOKED = "revoked"
    #: A consumer has claimed its message, and no start is stored.
    CLAIMED = "claimed"
    #: It has started: STARTED (`task_track_started`) or a state of its own is stored.
    RUNNING = "running"
    #: Its final state is stored: `TaskStatus.state`.
    FINISHED = "finished"
    #: Its message is a dead letter: `TaskStatus.reason`.
    DEAD_LETTERED = "dead-lettered"
    #: It ran in a worker that was lost, and was acknowledged before, so it does not run again: `TaskStatus.reason`.
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """What is known of a task. What does not apply to its phase is None.

    Attributes:
        task_id: its id.
        phase: where it is.
        state: Celery's state, as stored by the result backend.
        since: when the phase began: published, claimed, stored or dead-lettered.
        eta: before this time no consumer claims the message.
        queue: the queue of its message or dead letter.
        paused: whether that queue is paused.
        consumed: whether anybody consumes that queue.
        failures: how often a delivery of the message has failed.
        consumer: the consumer that has claimed it; None also for a stock one.
        hostname: the machine of that consumer; None if its process is gone.
        pid: its process on that machine.
        dead_letter: the id of its dead letter. A finished task has one if it was rejected, or not known.
        reason: why it became one, or how it was lost.
    """

    task_id: str
    phase: TaskPhase
    state: str | None = None
    since: datetime | None = None
    eta: datetime | None = None
    queue: str | None = None
    paused: bool | None = None
    consumed: bool | None = None
    failures: int | None = None
    consumer: int | None = None
    hostname: str | None = None
    pid: int | None = None
    dead_letter: int | None = None
    reason: str | None = None


class Stored(NamedTuple):
    """What a result backend has of a task: Celery's state and when it was stored."""

    state: str | None
    at: datetime | None


#: Reads the stored state of a task in another database.
Elsewhere = Callable[[str], Stored]


class _Found(NamedTuple):
    """A row of `status_of_task`."""

    state: str | None
    stored_at: datetime | None
    visible: bool | None
    revoked: bool
    scheduled: bool
    eta: datetime | None
    enqueued_at: datetime | None
    claimed_at: datetime | None
    failures: int
    consumer: int | None
    queue: str | None
    paused: bool | None
    consumed: bool
    hostname: str | None
    pid: int | None
    dead_letter: int | None
    died_at: datetime | None
    dead_queue: str | None
    dead_failures: int | None
    reason: str | None
    lost_at: datetime | None
    lost_by: str | None


#: Stored states that show no run: the message was published for another attempt, or nobody has begun it.
_NOT_BEGUN = frozenset({None, states.PENDING, states.RECEIVED, states.RETRY})


class TaskStatusStore(Store):
    """Ask where a task is."""

    def of(self, task_id: str, elsewhere: Elsewhere | None = None) -> TaskStatus:
        """What is known of a task, from one snapshot of the database.

        Args:
            task_id: its id.
            elsewhere: reads its stored state, if results are not in the broker's database. It is asked first: then a
                task that ends meanwhile is at worst reported as unfinished.
        """
        stored = None if elsewhere is None else elsewhere(task_id)
        ((*row,),) = self._run("status_of_task", task_id=task_id)
        found = _Found(*row)
        if found.stored_at is not None:
            found = found._replace(stored_at=found.stored_at.replace(tzinfo=UTC))
        if stored is not None:
            found = found._replace(state=stored.state, stored_at=stored.at)
        return _status(task_id, found)


def _phase(found: _Found) -> TaskPhase:
    if found.state in states.READY_STATES:
        return TaskPhase.FINISHED
    if found.visible:
        waiting = TaskPhase.SCHEDULED if found.scheduled else TaskPhase.WAITING
        return TaskPhase.REVOKED if found.revoked else waiting
    if found.visible is not None:
        return TaskPhase.RUNNING if found.state not in _NOT_BEGUN and not _of_earlier_run(found) else TaskPhase.CLAIMED
    if found.dead_letter is not None:
        return TaskPhase.DEAD_LETTERED
    if found.lost_at is not None:
        return TaskPhase.LOST
    return TaskPhase.UNKNOWN if found.state is None else TaskPhase.RUNNING


def _of_earlier_run(found: _Found) -> bool:
    """Whether the stored state is of a run whose worker died. Times are compared only after a failure: the worker's
    clock may differ from the server's."""
    at, claimed_at = found.stored_at, found.claimed_at
    return found.failures > 0 and at is not None and claimed_at is not None and at < claimed_at


def _status(task_id: str, found: _Found) -> TaskStatus:
    phase = _phase(found)
    if phase is TaskPhase.UNKNOWN:
        return TaskStatus(task_id, phase, found.state, found.stored_at)
    if phase in (TaskPhase.FINISHED, TaskPhase.DEAD_LETTERED):
        return TaskStatus(
            task_id,
            phase,
            found.state,
            found.stored_at if phase is TaskPhase.FINISHED else found.died_at,
            queue=found.dead_queue,
            failures=found.dead_failures,
            dead_letter=found.dead_letter,
            reason=found.reason,
        )
    if phase is TaskPhase.LOST:
        reason = (
            f"it was running on {found.lost_by} when that worker was lost; acknowledged early, it does not run again"
        )
        return TaskStatus(task_id, phase, found.state, found.lost_at, reason=reason)
    if found.visible is None:
        return TaskStatus(task_id, phase, found.state, found.stored_at)
    begun = found.stored_at if phase is TaskPhase.RUNNING else found.claimed_at
    return TaskStatus(
        task_id,
        phase,
        found.state,
        found.enqueued_at if found.visible else begun,
        found.eta if phase is TaskPhase.SCHEDULED else None,
        found.queue,
        found.paused,
        found.consumed,
        found.failures,
        found.consumer,
        found.hostname,
        found.pid,
    )
