"""How late the entries of a schedule are, which only the application knows: a table has their last runs alone."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import Any

from celery.beat import ScheduleEntry
from celery.schedules import maybe_schedule

from celery_postgres.readmodel.schedule_words import words


def overdue_s(app: Any, name: str, known: Any, last_run_at: datetime) -> float:
    """For how many seconds an entry should have been sent; 0 if it is not due.

    Args:
        app: the Celery application, whose time zone counts.
        name: of the entry.
        known: its value in `beat_schedule`.
        last_run_at: when it was last sent.

    Raises:
        Exception: what the entry or its schedule raises: an entry with which beat would not start.
    """
    entry = known if isinstance(known, ScheduleEntry) else ScheduleEntry(name=name, app=app, **known)
    # As beat itself: a crontab's hours are those of the zone that this time is in, and what is too late for
    # `beat_cron_starting_deadline` is not due any more.
    last_run_at = last_run_at.astimezone(app.timezone)
    schedule: Any = entry.schedule
    due, _ = schedule.is_due(last_run_at)
    return max(0.0, -schedule.remaining_estimate(last_run_at).total_seconds()) if due else 0.0


class Lateness:
    """The entries of an application's `beat_schedule`. Not those that Celery adds by itself: where a beat ran once and
    none is wanted, they would be late forever.

    Args:
        app: the Celery application; None if it is not known, and then nothing is late.
    """

    def __init__(self, app: Any = None) -> None:
        self._app = app

    def of(self, entry: str, last_run_at: datetime) -> float | None:
        """For how many seconds an entry should have been sent; None if the application does not have it."""
        known = None if self._app is None else (self._app.conf.beat_schedule or {}).get(entry)
        if known is not None:
            with suppress(Exception):
                return overdue_s(self._app, entry, known, last_run_at)
        return None

    def describe(self, entry: str) -> tuple[str | None, str | None]:
        """The task and the schedule of an entry, as texts; None for what is not known."""
        known = None if self._app is None else (self._app.conf.beat_schedule or {}).get(entry)
        if isinstance(known, ScheduleEntry):
            return known.task, words(known.schedule)
        if isinstance(known, dict):
            return str(known.get("task") or "") or None, words(
                maybe_schedule(known["schedule"])
            ) if "schedule" in known else None
        return None, None
