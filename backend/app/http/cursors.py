"""Cursors of lists of a tenant's tasks: where the page after ends with a task."""

from __future__ import annotations

import base64
import binascii
import json
from datetime import UTC, datetime


def written(created_at: datetime, task_id: str) -> str:
    """The cursor of the page that follows this task."""
    return base64.urlsafe_b64encode(json.dumps([created_at.isoformat(), task_id]).encode()).decode().rstrip("=")


def read(cursor: str) -> tuple[datetime, str] | None:
    """The task that a cursor names; None if `written` did not make it."""
    try:
        created_at, task_id = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        moment = datetime.fromisoformat(created_at)
        # Python accepts offsets that PostgreSQL does not.
        said = None if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, TypeError, OverflowError, binascii.Error, RecursionError):
        return None
    if said is None or not isinstance(task_id, str) or not task_id.isascii() or "\0" in task_id:
        return None
    return said, task_id
