"""A task as its tenant sees it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from celery import states
from pydantic import AfterValidator, BaseModel, Field, PrivateAttr

from app.core.errors import LoggableError
from app.core.settings import get_settings
from app.db.submissions import Submitted
from celery_postgres import operations

logger = logging.getLogger(__name__)

#: The size of 4,300 decimal digits, the most that Python itself converts.
LONGEST_INTEGER_BITS = 14_284
#: The length of an exception's name.
LONGEST_NAME = 200

#: In UTC, whatever the time zone of the database's session.
Moment = Annotated[datetime, AfterValidator(lambda moment: moment.astimezone(UTC))]


class TaskError(BaseModel):
    """Why a task failed. `message` is set only where the kind of error promises to quote nothing."""

    type: str
    message: str | None = None


class Task(BaseModel):
    """A task of the tenant.

    `state` is Celery's, or UNKNOWN: neither a message nor a result exists any more, because the result has expired or
    the message was dead-lettered.
    """

    task_id: str
    name: str
    state: str
    created_at: Moment
    done_at: Moment | None = None
    result: Any = Field(None, description="What the task returned, if its state is SUCCESS.")
    error: TaskError | None = None
    _written: str | None = PrivateAttr(None)

    def written(self) -> str:
        """Encode as JSON. A result, which may be long, is encoded once."""
        return self._written or self.model_dump_json()

    @property
    def ended(self) -> bool:
        """Whether its state is final."""
        return self.state in states.READY_STATES


class TaskSummary(BaseModel):
    """A task in a list."""

    task_id: str
    name: str
    state: str
    created_at: Moment
    done_at: Moment | None = None


class TaskPage(BaseModel):
    """Tasks, newest first. `next_cursor` leads to the next page; it is null on the last."""

    items: list[TaskSummary]
    next_cursor: str | None = None


def task(found: Submitted) -> Task:
    """Return `found` with its result or its error."""
    shown = Task(
        task_id=found.task_id,
        name=found.name,
        state=found.state,
        created_at=found.created_at,
        done_at=_done_at(found),
    )
    if found.state not in states.READY_STATES:
        return shown
    try:
        value = operations.load_result(found.result, pickles=get_settings().celery_result_pickle)
        _check_integers(value)
        told = {"result": value} if found.state == states.SUCCESS else {"error": _error(value)}
        whole = shown.model_copy(update=told)
        whole._written = whole.model_dump_json()
    # Unreadable values: bytes that are not text, half of a surrogate pair, 300 levels, a UUID without its number. The
    # list has no end, and the writer is unknown.
    except Exception as error:
        # The error's text may quote the result, or name a class.
        logger.error("the result of task %s cannot be shown: %s", found.task_id, type(error).__name__)  # noqa: TRY400
        return shown.model_copy(update={"error": TaskError(type="UnreadableResult")})
    return whole


def summary(found: Submitted) -> TaskSummary:
    """Return `found` for a list."""
    return TaskSummary(
        task_id=found.task_id,
        name=found.name,
        state=found.state,
        created_at=found.created_at,
        done_at=_done_at(found),
    )


def error_type(found: Submitted) -> str | None:
    """The type of a failed task's error."""
    error = task(found).error
    return None if error is None else error.type


def _done_at(found: Submitted) -> datetime | None:
    return found.done_at if found.state in states.READY_STATES else None


def _check_integers(value: Any) -> None:
    """Raise `ValueError` for an integer that takes long to encode.

    The time grows with the square of its length; 200 kB take 4 s.
    """
    left, seen = [value], set()
    while left:
        one = left.pop()
        if isinstance(one, int):
            if one.bit_length() > LONGEST_INTEGER_BITS:
                raise ValueError("too long an integer")
        elif isinstance(one, dict | list | tuple | set | frozenset) and id(one) not in seen:
            seen.add(id(one))
            left += one
            if isinstance(one, dict):
                left += one.values()


def _error(value: Any) -> TaskError:
    """Build the error from what Celery stores of an exception: the names of a class and a module, and its arguments."""
    if not isinstance(value, Mapping):
        return TaskError(type="Unknown")
    name, module = str(value.get("exc_type")), str(value.get("exc_module"))
    if (module, name) not in _loggable():
        return TaskError(type=name[:LONGEST_NAME])
    message = value.get("exc_message")
    text = " ".join(str(part) for part in message) if isinstance(message, list | tuple) else str(message)
    return TaskError(type=name, message=text)


def _loggable() -> set[tuple[str, str]]:
    """The modules and names of the errors that promise to quote nothing."""
    found, left = set(), [LoggableError]
    while left:
        kind = left.pop()
        found.add((kind.__module__, kind.__name__))
        left += kind.__subclasses__()
    return found
