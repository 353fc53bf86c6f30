"""Values as the columns of Celery's tables can hold them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

#: Widths of stock Celery's columns: of an id, and of anything that only describes; of a state.
LONGEST_ID, LONGEST_STATE = 155, 50


def text(value: Any) -> str:
    """PostgreSQL's text has no NUL, and UTF-8 no half of a surrogate pair."""
    if type(value) is str and value.isascii() and "\0" not in value:  # nearly all, in a fifth of the time
        return value
    return str(value).replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def short(value: Any) -> str | None:
    """The text, cut to the width of the columns that describe and do not identify."""
    return None if value is None else text(value)[:LONGEST_ID]


def utc(moment: datetime | None) -> datetime | None:
    """As stock Celery stores it: in UTC, without a time zone."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment is not None and moment.tzinfo else moment


def integer(value: Any) -> int | None:
    """A number from a header; None if it is not one."""
    return value if isinstance(value, int) else None
