"""When an entry of a schedule runs, in words and as a time."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from celery.schedules import crontab, schedule, solar

from celery_postgres.database.names import printable
from celery_postgres.readmodel.words import duration

_MINUTE_S = 60


def words(when: Any) -> str:
    """`every 5 min`, `daily at 03:00`, `cron 0 7 * * 1-5`: the hours of a crontab are those of the beat's time zone.

    Args:
        when: a schedule of Celery, or of another kind.
    """
    if isinstance(when, crontab):
        return _crontab(*(str(getattr(when, f"_orig_{name}")) for name in _FIELDS))
    if isinstance(when, solar):
        return f"at {when.event.replace('_', ' ')}, latitude {when.lat}, longitude {when.lon}"
    if type(when) is schedule:
        every: Any = when
        seconds = every.run_every.total_seconds()
        return f"every {seconds:g} s" if seconds < _MINUTE_S else f"every {duration(seconds)}"
    return printable(f"by {type(when).__name__}")


_FIELDS = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")


def _crontab(minute: str, hour: str, day: str, month: str, weekday: str) -> str:
    at = f"{int(hour):02}:{int(minute):02}" if _is_number(hour) and _is_number(minute) else ""
    if (day, month, weekday) == ("*", "*", "*"):
        if at:
            return f"daily at {at}"
        if hour == "*" and _is_number(minute):
            return f"hourly at :{int(minute):02}"
        if hour == "*" and minute == "*":
            return "every minute"
        if hour == "*" and minute.startswith("*/") and _is_number(minute[2:]):
            return f"every {int(minute[2:])} min"
    return printable(f"cron {minute} {hour} {day} {month} {weekday}")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def next_run(when: Any, last_run_at: datetime, now: datetime) -> datetime | None:
    """When an entry is due, which may be in the past; None if its schedule does not know.

    Args:
        when: its schedule.
        last_run_at: from when it counts.
        now: by the clock of the beat.
    """
    with suppress(Exception):  # a kind of schedule that Celery does not have may raise what it likes
        due, seconds = when.is_due(last_run_at)
        return now + (when.remaining_estimate(last_run_at) if due else timedelta(seconds=float(seconds)))
    return None
