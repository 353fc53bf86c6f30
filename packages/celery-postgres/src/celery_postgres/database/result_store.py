"""The result store: states and results of tasks, saved groups, and the listeners that wait for results."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from celery import states

from celery_postgres.database.array_literals import binaries, booleans, floats, texts, timestamps
from celery_postgres.database.attempt_store import AttemptStore
from celery_postgres.database.message_store import Claim
from celery_postgres.database.session import Row
from celery_postgres.database.slow_commits import woken_if_slow
from celery_postgres.database.store import Runner, Store

#: How far a cleanup by state has come: the date and the id of the last row, as PostgreSQL writes them.
Position = tuple[str, int]
#: Before the first row.
FIRST: Position = ("-infinity", 0)


@dataclass(slots=True)  # not frozen: a child and its main process make one for each task, in 1 us instead of 4
class Outcome:
    """A row of `celery_taskmeta`: the state of a task and, once it has ended, its result. It is not changed.

    Attributes:
        result: serialized, as the task returned it or as Celery describes its exception.
        date_done: when the state was stored, in UTC and without a time zone.
        children: as JSON, the tasks that this one has started.
        args, kwargs: encoded by the application's result serializer; only with `result_extended`.
        name, worker, retries, queue: of the task; unless `describe` is off, as all that follow.
        tenant_id: the tenant in its headers.
        root_id, parent_id: of the canvas that it belongs to; no `root_id` if it is its own.
        published_at, due_at, started_at: of this attempt, in seconds since 1970; `due_at` if it was scheduled.
    """

    task_id: str
    status: str
    result: bytes | None
    date_done: datetime | None
    traceback: str | None = None
    children: bytes | None = None
    name: str | None = None
    args: bytes | None = None
    kwargs: bytes | None = None
    worker: str | None = None
    retries: int | None = None
    queue: str | None = None
    tenant_id: str | None = None
    root_id: str | None = None
    parent_id: str | None = None
    published_at: float | None = None
    due_at: float | None = None
    started_at: float | None = None

    @property
    def final(self) -> bool:
        """Whether the task has ended."""
        return self.status in states.READY_STATES


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a chord that has returned.

    Attributes:
        position: its index in the header.
        result: serialized; None if it is in `celery_taskmeta`.
        body: the signature of the chord's body, as JSON.
    """

    chord_id: str
    task_id: str
    position: int | None
    status: str
    result: bytes | None
    body: str


@dataclass(frozen=True, slots=True)
class SavedGroup:
    """A row of `celery_tasksetmeta`: a group that was saved under its id. `result` is serialized."""

    group_id: str
    result: bytes
    date_done: datetime | None


class ResultStore(Store):
    """Record, read and delete results, and register who waits for them."""

    #: Rows that one statement deletes at most.
    BATCH = 1000

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner)
        self.attempts = AttemptStore(runner)

    # -- recording

    def record(self, outcomes: Sequence[Outcome], parts: Collection[Part], claims: Collection[Claim]) -> list[str]:
        """Store outcomes and chord parts and acknowledge messages, in one commit.

        Args:
            outcomes: at most one of each task.
            parts: at most one of each chord and task.
            claims: the messages to acknowledge; those that this process no longer owns stay.

        Returns:
            The ids of the chords whose last part this was.
        """
        ((due, _),) = self._run(
            "record",
            task_ids=texts([one.task_id for one in outcomes]),
            statuses=texts([one.status for one in outcomes]),
            results=binaries([one.result for one in outcomes]),
            dates=timestamps([one.date_done for one in outcomes]),
            tracebacks=texts([one.traceback for one in outcomes]),
            children=binaries([one.children for one in outcomes]),
            names=texts([one.name for one in outcomes]),
            args=binaries([one.args for one in outcomes]),
            kwargs=binaries([one.kwargs for one in outcomes]),
            workers=texts([one.worker for one in outcomes]),
            retries=[one.retries for one in outcomes],
            queues=texts([one.queue for one in outcomes]),
            tenant_ids=texts([one.tenant_id for one in outcomes]),
            root_ids=texts([one.root_id for one in outcomes]),
            parent_ids=texts([one.parent_id for one in outcomes]),
            published_at=floats([one.published_at for one in outcomes]),
            due_at=floats([one.due_at for one in outcomes]),
            started_at=floats([one.started_at for one in outcomes]),
            final=booleans([one.final for one in outcomes]),
            part_chords=texts([one.chord_id for one in parts]),
            part_tasks=texts([one.task_id for one in parts]),
            part_positions=[one.position for one in parts],
            part_statuses=texts([one.status for one in parts]),
            part_results=binaries([one.result for one in parts]),
            # JSON is full of quotes, which a literal escapes and the driver does not: 0.77 us each instead of 0.59.
            part_bodies=[one.body for one in parts],
            acked_ids=[message for message, _ in claims],
            acked_fences=[fence for _, fence in claims],
        )
        return due or []

    def record_one(self, outcome: Outcome, claim: Claim | None, sleeper: int | None = None) -> None:
        """`record` for one outcome that is not a chord part, in half of the time.

        Args:
            sleeper: the consumer whose thread this is: publishers notify it from now on, and it claims next.
        """
        message, fence = claim or (None, None)
        name, more = ("record_one", {}) if sleeper is None else ("record_and_sleep", {"consumer": sleeper})
        self._run(
            name,
            task_id=outcome.task_id,
            status=outcome.status,
            result=outcome.result,
            date_done=outcome.date_done,
            traceback=outcome.traceback,
            children=outcome.children,
            task_name=outcome.name,
            args=outcome.args,
            kwargs=outcome.kwargs,
            worker=outcome.worker,
            retries=outcome.retries,
            queue=outcome.queue,
            tenant_id=outcome.tenant_id,
            root_id=outcome.root_id,
            parent_id=outcome.parent_id,
            published_at=outcome.published_at,
            due_at=outcome.due_at,
            started_at=outcome.started_at,
            final=outcome.final,
            acked_id=message,
            acked_fence=fence,
            **more,
        )

    def woken_if_slow(self, outcomes: Iterable[Outcome]) -> AbstractContextManager[None]:
        """A block that records these; if it takes long, listeners that registered meanwhile are notified."""
        ended = [one.task_id for one in outcomes if one.final]
        return woken_if_slow(self._run, "notify_waiters", task_ids=ended)

    # -- reading

    def result(self, task_id: str) -> Outcome | None:
        for row in self._run("result", task_id=task_id):
            return _outcome(row)
        return None

    def result_or_message(self, task_id: str) -> Outcome | bool | None:
        """The outcome of a task; without one, whether its message still waits; None if it has neither. The broker must
        be in the same database."""
        for *row, waits in self._run("result_or_message", task_id=task_id):
            return _outcome(tuple(row)) if waits is None else bool(waits)
        return None

    def results(self, task_ids: Sequence[str]) -> list[Outcome]:
        """The outcomes of those tasks that have one."""
        return [_outcome(row) for row in self._run("results", task_ids=task_ids)]

    def exists(self, task_id: str) -> bool:
        """Whether a state is stored."""
        return bool(self._run("result_exists", task_id=task_id))

    def forget(self, task_id: str) -> None:
        self._run("forget_result", task_id=task_id)

    # -- groups

    def save_group(self, group: SavedGroup) -> None:
        self._run("save_group", group_id=group.group_id, result=group.result, date_done=group.date_done)

    def group(self, group_id: str) -> SavedGroup | None:
        for taskset_id, result, date_done in self._run("restore_group", group_id=group_id):
            return SavedGroup(taskset_id, bytes(result), date_done)
        return None

    def delete_group(self, group_id: str) -> None:
        self._run("delete_group", group_id=group_id)

    # -- expiry

    def drop_old_results(self, seconds: float) -> bool:
        """Delete one batch of the results older than `seconds`. Returns whether there may be more."""
        return self._drop_old("drop_old_results", seconds)

    def drop_old_of(self, seconds: float, *, failures: bool, after: Position) -> Position | None:
        """Look at one batch of the results older than `seconds`, from a position on, and delete the failures in it, or
        all others. Returns the new position; None if there are no more."""
        date, number = after
        for date_done, last in self._run(
            "drop_old_results_of",
            seconds=seconds,
            failures=failures,
            after_date=date,
            after_id=number,
            batch=self.BATCH,
        ):
            return date_done, last
        return None

    def drop_old_groups(self, seconds: float) -> bool:
        """Delete one batch of the saved groups older than `seconds`. Returns whether there may be more."""
        return self._drop_old("drop_old_groups", seconds)

    def _drop_old(self, name: str, seconds: float) -> bool:
        ((count,),) = self._run(name, seconds=seconds, batch=self.BATCH)
        return bool(count == self.BATCH)

    def drop_old_waiters(self, seconds: float) -> None:
        """Delete the registrations older than `seconds`."""
        self._run("drop_old_waiters", seconds=seconds)

    # -- waiters

    def await_results(self, listener: int, slots: Mapping[str, int]) -> None:
        """Register a listener for tasks.

        Args:
            listener: its number; it listens on the channel `celery_result_<number>`.
            slots: for each task id the number that its notification carries.
        """
        self._run("await_results", listener=listener, task_ids=list(slots), slots=list(slots.values()))

    def stop_waiting(self, listener: int, task_ids: Iterable[str]) -> None:
        """Remove the registrations of a listener for tasks."""
        self._run("stop_waiting", listener=listener, task_ids=list(task_ids))


def _outcome(row: Row) -> Outcome:
    task_id, status, result, date_done, traceback, children, name, args, kwargs, worker, retries, queue = row
    return Outcome(
        task_id, status, _bytes(result), date_done, traceback, _bytes(children), name, _bytes(args), _bytes(kwargs),
        worker, retries, queue,
    )  # fmt: skip


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)
