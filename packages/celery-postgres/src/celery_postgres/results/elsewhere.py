"""The stored state of a task whose results are not in the broker's database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from celery import states
from celery.backends.base import DisabledBackend

from celery_postgres.database.task_status_store import Elsewhere, Stored
from celery_postgres.results.backend import DatabaseBackend


def results_elsewhere(app: Any) -> Elsewhere | None:
    """What reads them; None if they are in the broker's database, or the application stores none.

    Args:
        app: the Celery application; None for the broker's database alone.
    """
    if app is None or isinstance(app.backend, DisabledBackend):
        return None
    if isinstance(app.backend, DatabaseBackend) and app.backend.shares_broker():
        return None

    def read(task_id: str) -> Stored:
        meta = app.backend.get_task_meta(task_id, cache=False)
        state = None if meta["status"] == states.PENDING else meta["status"]
        return Stored(state, _aware(meta.get("date_done")))

    return read


def _aware(value: Any) -> datetime | None:
    """Backends keep the time as text or as a datetime, in UTC."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    return value if value.tzinfo else value.replace(tzinfo=UTC)
