"""What became of tasks, on its way to the database."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from celery import states
from psycopg2 import Binary

from celery_postgres.errors import UnstorableResultError, is_lasting, primary
from celery_postgres.results.serializer import Pickle, dump

if TYPE_CHECKING:
    from celery_postgres.database.pool import Sessions

logger = logging.getLogger(__name__)

Claim = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A row of `celery_taskmeta`."""

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

    @property
    def final(self) -> bool:
        return self.status in states.READY_STATES


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a chord that has returned. `result` is None if it is in `celery_taskmeta`."""

    chord_id: str
    task_id: str
    position: int | None
    status: str
    result: bytes | None
    body: str


@dataclass(slots=True)
class Write:
    """What one task has to say, all of it or nothing; `claim` is the message that it settles. `stored`: a writer has
    stored it."""

    outcomes: list[Outcome] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    claim: Claim | None = None
    stored: bool = False
    pickle: Pickle = Pickle.WRITE

    @property
    def size(self) -> int:
        """About how many bytes it has."""
        values = [value for one in self.outcomes for value in (one.result, one.traceback, one.args, one.kwargs)]
        return sum(len(value) for value in (*values, *(one.result for one in self.parts)) if value)

    @property
    def urgent(self) -> bool:
        """Whether somebody may be waiting for it."""
        return bool(self.parts) or any(one.final for one in self.outcomes)


def record(sessions: Sessions, writes: list[Write]) -> list[str]:
    """Write everything in one transaction; the chords whose bodies are due now.

    Where the database refuses a value, each is written alone, and the task of the one that is refused has failed.

    Raises:
        psycopg2.Error, SchemaError: that passes. Nothing was written, or all of it was; to write it again changes
            nothing.
    """
    try:
        return _record(sessions, writes)
    except Exception as error:
        if not is_lasting(error):
            raise
        if len(writes) == 1:
            return _record_failure(sessions, writes[0], error)
    due: list[str] = []
    for write in writes:
        due += record(sessions, [write])
    return due


def _record_failure(sessions: Sessions, write: Write, error: Exception) -> list[str]:
    # Not in the error's own words, which may quote the value.
    told = {
        "exc_type": UnstorableResultError.__name__,
        "exc_message": [f"the database refused the result of this task: {type(error).__name__}"],
        "exc_module": UnstorableResultError.__module__,
    }
    result = dump(told, write.pickle)
    failed = Write(
        [
            Outcome(one.task_id, states.FAILURE if one.final else one.status, result, one.date_done)
            for one in write.outcomes
        ],
        [replace(one, status=states.FAILURE, result=result) for one in write.parts],
        write.claim,
    )
    try:
        return _record(sessions, [failed])
    except Exception as second:
        if not is_lasting(second):
            raise
        logger.error(  # noqa: TRY400  # its stack could quote the value
            "what became of task %s cannot be stored at all: %s",
            [one.task_id for one in write.outcomes],
            primary(second),
        )
        return _record(sessions, [Write(claim=write.claim)])


def _record(sessions: Sessions, writes: list[Write]) -> list[str]:
    if len(writes) == 1 and len(writes[0].outcomes) == 1 and not writes[0].parts:
        _record_one(sessions, writes[0].outcomes[0], writes[0].claim or (None, None))
        return []
    outcomes = _latest(one for write in writes for one in write.outcomes)
    parts = {(one.chord_id, one.task_id): one for write in reversed(writes) for one in write.parts}.values()
    acks = sorted({write.claim for write in writes if write.claim is not None})
    ((due, _),) = sessions.run(
        "record",
        task_ids=[one.task_id for one in outcomes],
        statuses=[one.status for one in outcomes],
        results=[_binary(one.result) for one in outcomes],
        dates=[one.date_done for one in outcomes],
        tracebacks=[one.traceback for one in outcomes],
        children=[_binary(one.children) for one in outcomes],
        names=[one.name for one in outcomes],
        args=[_binary(one.args) for one in outcomes],
        kwargs=[_binary(one.kwargs) for one in outcomes],
        workers=[one.worker for one in outcomes],
        retries=[one.retries for one in outcomes],
        queues=[one.queue for one in outcomes],
        final=[one.final for one in outcomes],
        part_chords=[one.chord_id for one in parts],
        part_tasks=[one.task_id for one in parts],
        part_positions=[one.position for one in parts],
        part_statuses=[one.status for one in parts],
        part_results=[_binary(one.result) for one in parts],
        part_bodies=[one.body for one in parts],
        acked_ids=[message for message, _ in acks],
        acked_fences=[fence for _, fence in acks],
    )
    return due or []


def _record_one(sessions: Sessions, one: Outcome, claim: Claim | tuple[None, None]) -> None:
    sessions.run(
        "record_one",
        task_id=one.task_id,
        status=one.status,
        result=_binary(one.result),
        date_done=one.date_done,
        traceback=one.traceback,
        children=_binary(one.children),
        task_name=one.name,
        args=_binary(one.args),
        kwargs=_binary(one.kwargs),
        worker=one.worker,
        retries=one.retries,
        queue=one.queue,
        final=one.final,
        acked_id=claim[0],
        acked_fence=claim[1],
    )


def _latest(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """One for each task: the last, except that a success stays, and that RETRY undoes no end: as in `record`."""
    latest: dict[str, Outcome] = {}
    for one in outcomes:
        known = latest.get(one.task_id)
        if (
            known is None
            or one.status == states.SUCCESS
            or not (known.status == states.SUCCESS or (known.final and one.status == states.RETRY))
        ):
            latest[one.task_id] = one
    return list(latest.values())


def _binary(data: bytes | None) -> Any:
    return None if data is None else Binary(data)


def text(value: Any) -> str:
    """PostgreSQL's text has no NUL, and no half of a surrogate pair."""
    return str(value).replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def short(value: Any) -> str | None:
    """For stock's columns of 155 characters that describe and do not identify."""
    return None if value is None else text(value)[:155]


def utc(moment: datetime | None) -> datetime | None:
    """As stock stores it: without a zone."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment is not None and moment.tzinfo else moment


def integer(value: Any) -> int | None:
    """A header's number; None for what is none."""
    return value if isinstance(value, int) else None
