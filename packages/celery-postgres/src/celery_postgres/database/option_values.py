"""Checks of single options: each returns the value, or raises an `OptionError` that names the option and its bounds."""

from __future__ import annotations

import re
from typing import Any

from celery_postgres.database.address import direct_dsn
from celery_postgres.errors import OptionError

#: The longest time: PostgreSQL counts milliseconds in 32 bits.
MOST_S = 2_147_483
_DURATION = re.compile(r"\s*\d+(\.\d+)?\s*(us|ms|s|min|h|d)?\s*")
#: Characters of a version.
_LONGEST_LABEL = 64


def whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """A whole number within bounds."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= least and (most is None or value <= most):
        return value
    bounds = f"{least} or more" if most is None else f"from {least} to {most}"
    raise OptionError(f"{name} is a whole number, {bounds}")


def switch(name: str, value: Any) -> bool:
    """True or False."""
    if isinstance(value, bool):
        return value
    raise OptionError(f"{name} is True or False")


def label(name: str, value: Any) -> str | None:
    """A short text; None for an empty one, as of an environment variable that is not set."""
    if isinstance(value, str) and value.isprintable() and len(value) <= _LONGEST_LABEL:
        return value or None
    raise OptionError(f"{name} is a text of at most {_LONGEST_LABEL} printable characters")


def seconds(name: str, value: Any, least: float, most: int = MOST_S) -> float:
    """A number of seconds within bounds."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and least <= value <= most:
        return float(value)
    raise OptionError(f"{name} is a number of seconds, from {least:g} to {most}")


def duration(name: str, value: Any) -> str:
    """A time in PostgreSQL's notation."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_S * 1000:
        return str(value)
    if isinstance(value, str) and _DURATION.fullmatch(value):
        return value
    raise OptionError(f"{name} is a time as PostgreSQL writes it ('30s', '500ms'), or a number of milliseconds")


def address(name: str, value: Any) -> str | None:
    """A direct address, as libpq's connection string; None for an empty one."""
    if not isinstance(value, str):
        raise OptionError(f"{name} is a text")
    try:
        return direct_dsn(value, name) if value else None
    except ValueError as error:
        raise OptionError(str(error)) from None
