"""A task as its tenant sees it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from celery import states
from celery.exceptions import SecurityError
from pydantic import AfterValidator, BaseModel, Field
from pydantic_core import PydanticSerializationError

from app.core.errors import LoggableError
from app.db.submissions import Submitted
from celery_postgres.values import load

logger = logging.getLogger(__name__)

#: In UTC, whatever zone the database's session is in.
Moment = Annotated[datetime, AfterValidator(lambda moment: moment.astimezone(UTC))]


class TaskError(BaseModel):
    """Why a task failed. `message` only where the kind of error promises to quote nothing."""

    type: str
    message: str | None = None


class Task(BaseModel):
    """A task of the tenant.

    `state` is Celery's, or UNKNOWN: there is neither a message nor a result any more, because the result has expired
    or the message has become a dead letter.
    """

    task_id: str
    name: str
    state: str
    created_at: Moment
    done_at: Moment | None = None
    result: Any = Field(None, description="What the task returned, if its state is SUCCESS.")
    error: TaskError | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in states.READY_STATES


class TaskSummary(BaseModel):
    """A task in a list."""

    task_id: str
    name: str
    state: str
    created_at: Moment
    done_at: Moment | None = None


class TaskPage(BaseModel):
    """Tasks, the newest first. `next_cursor` is for the page after this one; null on the last."""

    items: list[TaskSummary]
    next_cursor: str | None = None


def task(found: Submitted) -> Task:
    """`found` with its result or its error."""
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
        value = load(found.result) if found.result is not None else None
    except SecurityError:
        logger.error("the result of task %s may not be read", found.task_id)  # noqa: TRY400  # its words name a class
        return shown.model_copy(update={"error": TaskError(type="UnreadableResult")})
    if found.state == states.SUCCESS:
        whole = shown.model_copy(update={"result": value})
        try:
            whole.model_dump_json()
        except PydanticSerializationError:  # bytes that are no text, half of a surrogate pair, 300 levels
            logger.error("the result of task %s has no form in JSON", found.task_id)  # noqa: TRY400  # it may be quoted
            return shown.model_copy(update={"error": TaskError(type="UnreadableResult")})
        return whole
    return shown.model_copy(update={"error": _error(value)})


def summary(found: Submitted) -> TaskSummary:
    """`found` for a list."""
    return TaskSummary(
        task_id=found.task_id,
        name=found.name,
        state=found.state,
        created_at=found.created_at,
        done_at=_done_at(found),
    )


def _done_at(found: Submitted) -> datetime | None:
    if found.date_done is None or found.state not in states.READY_STATES:
        return None
    return found.date_done.replace(tzinfo=UTC)


def _error(value: Any) -> TaskError:
    """From what Celery stores of an exception: names of a class and a module, and its arguments."""
    if not isinstance(value, Mapping):
        return TaskError(type="Unknown")
    name, module, message = (value.get(part) for part in ("exc_type", "exc_module", "exc_message"))
    kind = getattr(sys.modules.get(str(module)), str(name), None)
    quotes_nothing = isinstance(kind, type) and issubclass(kind, LoggableError)
    text = " ".join(str(part) for part in message) if isinstance(message, list | tuple) else str(message)
    return TaskError(type=str(name), message=text if quotes_nothing else None)
