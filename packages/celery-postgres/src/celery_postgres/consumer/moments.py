"""When a task was published, when it was due, and when it began: in seconds since 1970, where they are known.

The first two come with the claim, by the database's clock, and reach the process that runs the task as properties of
its message, in every pool. The start is by the worker's clock.
"""

from __future__ import annotations

from typing import Any

from celery_postgres.compat import task_start
from celery_postgres.database.message_store import ClaimedMessage

_PUBLISHED, _DUE = "published_at", "due_at"
#: The year 5138. Another transport may deliver properties of these names.
_LATEST = 1e11


def note(properties: dict[str, Any], message: ClaimedMessage) -> None:
    """Note in the properties of a message when it was published, and until when it was scheduled, if it was."""
    published_at = properties[_PUBLISHED] = message.published_at
    properties.pop(_DUE, None)
    if message.available_at is not None and published_at is not None:
        due_at = message.available_at.timestamp()
        if due_at > published_at:  # a ready message of a fair queue has the time of its publishing
            properties[_DUE] = due_at


def published_at(request: Any) -> float | None:
    """When the message of this attempt was published."""
    return _moment((getattr(request, "properties", None) or {}).get(_PUBLISHED))


def due_at(request: Any) -> float | None:
    """Until when the message was scheduled; None if it was ready at once."""
    return _moment((getattr(request, "properties", None) or {}).get(_DUE))


def started_at(request: Any) -> float | None:
    """When the attempt began."""
    return task_start.began_at(request)


def _moment(value: Any) -> float | None:
    return value if type(value) is float and 0 < value < _LATEST else None
