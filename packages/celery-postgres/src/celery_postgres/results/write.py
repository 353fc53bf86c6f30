"""What one task writes, and how the writes of several tasks are recorded together."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from celery import states

from celery_postgres.database import driver
from celery_postgres.database.attempt_store import EndedAttempt
from celery_postgres.database.message_store import Claim
from celery_postgres.database.result_store import Outcome, Part, ResultStore
from celery_postgres.errors import SchemaError, UnstorableResultError, is_lasting, loggable, primary
from celery_postgres.results.serializer import Pickle, dump

logger = logging.getLogger(__name__)

#: In the signature of a chord's body, at any depth.
_LINK_ERROR = '"link_error"'


@dataclass(slots=True)
class Write:
    """Everything that one task writes, stored completely or not at all.

    Attributes:
        claim: the message that it acknowledges.
        stored: set when it has been stored.
        pickle: how a failure is serialized that replaces a refused result.
        origin: of a write that came through the pipe: the child's number, and the number of its record.
        attempts: what is remembered beside the results, if the database can do it.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    claim: Claim | None = None
    stored: bool = False
    pickle: Pickle = Pickle.WRITE
    origin: tuple[int, int] | None = None
    attempts: list[EndedAttempt] = field(default_factory=list)

    @property
    def size(self) -> int:
        """About how many bytes it has."""
        size = 0  # loops, as each result is measured: 1 us, where generators take 3
        for outcome in self.outcomes:
            size += len(outcome.result or b"") + len(outcome.traceback or "")
            size += len(outcome.args or b"") + len(outcome.kwargs or b"")
        for part in self.parts:
            size += len(part.result or b"")
        for attempt in self.attempts:
            size += len(attempt.traceback or "")
        return size

    @property
    def is_end(self) -> bool:
        """Whether it is the end of a task, of which another process may do the rest: with a chord part, that is to send
        the body, and not to call errbacks, which a task may have in place of its own code."""
        for one in self.outcomes:
            if not one.final:
                return False
        return not self.parts or all(_LINK_ERROR not in one.body for one in self.parts)

    @property
    def is_plain(self) -> bool:
        """Whether it is the result of one task and nothing else, besides the message that it acknowledges."""
        return len(self.outcomes) == 1 and self.outcomes[0].final and not (self.parts or self.attempts)

    @property
    def urgent(self) -> bool:
        """Whether a client may be waiting for it."""
        return bool(self.parts) or any(one.final for one in self.outcomes)


def record(store: ResultStore, writes: list[Write]) -> list[str]:
    """Store writes in one commit, and then their attempts. Returns the chords whose body is due.

    A value that the database refuses, although it passed the serializer, must not take the whole batch along. So each
    write of a refused batch is stored alone, and the task of a refused write is recorded as failed.

    Raises:
        psycopg2.Error, SchemaError: the database cannot do it now. It has stored nothing, or everything and its answer
            was lost; storing it again changes nothing.
    """
    due = _record_each(store, writes)
    attempts = [one for write in writes for one in write.attempts]
    if attempts:
        try:
            store.attempts.record(attempts)
        except (driver.Error, SchemaError) as error:  # no result waits for what is only remembered
            logger.warning("Could not remember %d attempts: %s", len(attempts), loggable(error))
    return due


def _record_each(store: ResultStore, writes: list[Write]) -> list[str]:
    try:
        return _record(store, writes)
    except Exception as error:
        if not is_lasting(error):
            raise
        if len(writes) == 1:
            return _record_failure(store, writes[0], error)
    due: list[str] = []
    for write in writes:
        due += _record_each(store, [write])
    return due


def _record_failure(store: ResultStore, write: Write, error: Exception) -> list[str]:
    # Not with the text of the error, which may quote the value.
    description = {
        "exc_type": UnstorableResultError.__name__,
        "exc_message": [f"the database refused the result of this task: {type(error).__name__}"],
        "exc_module": UnstorableResultError.__module__,
    }
    result = dump(description, write.pickle)
    failed = Write(
        [
            Outcome(one.task_id, states.FAILURE if one.final else one.status, result, one.date_done)
            for one in write.outcomes
        ],
        [replace(one, status=states.FAILURE, result=result) for one in write.parts],
        claim=write.claim,
    )
    try:
        return _record(store, [failed])
    except Exception as second:
        if not is_lasting(second):
            raise
        logger.error(  # noqa: TRY400  # its traceback could quote the value
            "Cannot store even the failure of the tasks %s: %s",
            [one.task_id for one in write.outcomes],
            primary(second),
        )
        return _record(store, [Write(claim=write.claim)])


def _record(store: ResultStore, writes: list[Write]) -> list[str]:
    if len(writes) == 1 and len(writes[0].outcomes) == 1 and not writes[0].parts:
        with store.woken_if_slow(writes[0].outcomes):
            store.record_one(writes[0].outcomes[0], writes[0].claim)
        return []
    if not any(write.outcomes or write.parts or write.claim for write in writes):
        return []
    outcomes = collapsed(one for write in writes for one in write.outcomes)
    parts = {(one.chord_id, one.task_id): one for write in reversed(writes) for one in write.parts}
    with store.woken_if_slow(outcomes):
        return store.record(
            outcomes, parts.values(), sorted({write.claim for write in writes if write.claim is not None})
        )


def collapsed(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """One outcome for each task, as the statement `record` would leave it.

    That is the last one, except that SUCCESS stays, and that RETRY does not replace the state of a task that has ended.
    """
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
