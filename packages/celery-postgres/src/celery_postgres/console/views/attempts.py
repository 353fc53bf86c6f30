"""The attempts at one task, on one scale of time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from celery_postgres.console.formatting import duration
from celery_postgres.console.views.rows import reason_says
from celery_postgres.readmodel import Attempt, State

#: As wide as the picture of one attempt.
_WIDTH = 1000
_NARROWEST = 3


def attempt_rows(attempts: Sequence[Attempt], *, staff: bool) -> dict[str, Any]:
    """The rows of the table, and the length of its scale. Attempts of which no time is known have no picture."""
    shown = [one for one in attempts if not (one.began_at is None and one.ended_at is None)]
    now = datetime.now(UTC)
    begins = [
        moment for one in shown for moment in (one.published_at, one.began_at, one.ended_at) if moment is not None
    ]
    first = min(begins, default=now)
    last = max([*begins, *(now for one in shown if one.ended_at is None)], default=now)
    length_s = (last - first).total_seconds()
    return {
        "scale": duration(length_s),
        "rows": [_row(one, first, last, staff=staff) | {"number": number} for one, number in _numbered(shown)],
    }


def _numbered(attempts: Sequence[Attempt]) -> list[tuple[Attempt, int | None]]:
    """Each with its number; a dead letter is the end of an attempt, and has none."""
    numbers = itertools.count(1)
    return [(one, None if one.state is State.DEAD else next(numbers)) for one in attempts]


def _row(one: Attempt, first: datetime, last: datetime, *, staff: bool) -> dict[str, Any]:
    bad = one.state in (State.FAILED, State.DEAD, State.LOST)
    error = reason_says(one.error or "") if one.state is State.DEAD else one.error
    return {
        "worker": (one.worker or "") if staff else "",
        "waited": duration(one.waited_s),
        "ran": duration(one.ran_s),
        "end": error or str(one.state).capitalize(),
        "tone": "bad" if bad else "warn" if one.state is State.RETRYING else "",
        "wait_bar": _bar(one.due_at or one.published_at, one.began_at, first, last),
        "run_bar": _bar(one.began_at, one.ended_at or last, first, last),
        "fill": "f-bad" if bad else "f-acc",
    }


def _bar(begin: datetime | None, end: datetime | None, first: datetime, last: datetime) -> dict[str, str] | None:
    """Where it begins and how wide it is, as attributes of a rectangle."""
    whole_s = (last - first).total_seconds()
    if begin is None or end is None or end < begin or whole_s <= 0:
        return None
    x = min((begin - first).total_seconds() / whole_s * _WIDTH, _WIDTH - _NARROWEST)
    width = max((end - begin).total_seconds() / whole_s * _WIDTH, _NARROWEST)
    return {"x": f"{x:.1f}", "width": f"{min(width, _WIDTH - x):.1f}"}
