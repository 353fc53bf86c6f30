"""Pages of tasks, from one source or merged from several."""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from celery_postgres.database.task_rows import ENDED, State, TaskRow
from celery_postgres.database.task_view_store import Found, TaskFilter, TaskViewStore
from celery_postgres.errors import CeleryPostgresError

#: A search that finds little goes on for so long, and then says how far it came.
SEARCH_S = 1.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_Read = Callable[[TaskFilter, tuple[Any, ...] | None, int], Found]


@dataclass(frozen=True, slots=True)
class _Source:
    """What a list is read from; a place in it is an id, or a time and an id (`parts`).

    Attributes:
        once: a page reads it once, whatever that finds: most of what it reads is of another source.
    """

    read: _Read
    parts: int
    once: bool = False


class CursorError(CeleryPostgresError):
    """A cursor that no page has given."""


@dataclass(frozen=True, slots=True)
class Page:
    """Tasks, in the order of their list.

    Attributes:
        rows: the tasks.
        next: the cursor of the next page; None on the last.
        searched_until: where the search stopped before the page was full: nothing older was looked at.
    """

    rows: tuple[TaskRow, ...]
    next: str | None = None
    searched_until: datetime | None = None


def page(
    store: TaskViewStore, which: TaskFilter, cursor: str | None, limit: int, search_s: float | None = None
) -> Page:
    """A page of the tasks that meet `which`.

    Waiting, ended and dead tasks come with the last change first, scheduled ones with the next due first, running ones
    with the longest claimed first.

    Raises:
        CursorError: the cursor is not one of a page.
    """
    sources = _sources(store, which.state)
    places = _places(cursor, sources)
    until = time.monotonic() + (SEARCH_S if search_s is None else search_s)
    found = [
        _read_on(source.read, which, place, limit, 0.0 if source.once else until) if place != _OVER else Found([])
        for source, place in zip(sources, places, strict=True)
    ]
    rows, taken = _merged([one.rows for one in found], limit)
    rows = _without_doubles(rows)
    after = [_place(one, count, place) for one, count, place in zip(found, taken, places, strict=True)]
    short = sum(taken) < limit
    stops = [one.searched_until for one in found if one.searched_until is not None]
    return Page(
        tuple(rows),
        None if all(one == _OVER for one in after) else _cursor(after),
        max(stops) if short and stops else None,
    )


#: The place of a source that has no more rows.
_OVER: tuple[Any, ...] = ("over",)


def _sources(store: TaskViewStore, state: State | None) -> list[_Source]:
    messages, ended, dead = _Source(store.messages, 1), _Source(store.ended, 2), _Source(store.dead, 2)
    unstored = _Source(store.unstored, 1, once=True)
    if state is None:
        return [messages, ended, unstored, dead]
    if state in (State.FAILED, State.REVOKED):
        return [ended, unstored]
    others = {
        State.WAITING: messages,
        State.SCHEDULED: _Source(store.scheduled, 2),
        State.RUNNING: _Source(store.running, 2),
        State.DEAD: dead,
        State.LOST: unstored,
    }
    return [ended if state in ENDED else others[state]]


def _read_on(read: _Read, which: TaskFilter, place: tuple[Any, ...] | None, limit: int, until: float) -> Found:
    """Read until there are `limit` rows, the source ends, or it is later than `until`; at least once."""
    rows: list[TaskRow] = []
    while True:
        found = read(which, place, limit - len(rows))
        rows += found.rows
        if len(rows) >= limit or found.after is None or time.monotonic() > until:
            return Found(rows, found.after, found.searched_until)
        place = found.after


def _merged(lists: list[list[TaskRow]], limit: int) -> tuple[list[TaskRow], list[int]]:
    """The first `limit` rows of several lists, the last changed first, and how many of each list they are."""
    if len(lists) == 1:
        return lists[0][:limit], [len(lists[0][:limit])]
    rows: list[TaskRow] = []
    taken = [0] * len(lists)
    while len(rows) < limit:
        left = [place for place, one in enumerate(lists) if taken[place] < len(one)]
        if not left:
            break
        place = max(left, key=lambda place: lists[place][taken[place]].changed_at or _EPOCH)
        rows.append(lists[place][taken[place]])
        taken[place] += 1
    return rows, taken


def _without_doubles(rows: list[TaskRow]) -> list[TaskRow]:
    """Without the results of tasks whose letters are listed: of one that a worker rejected, or did not know."""
    dead = {row.task_id for row in rows if row.state is State.DEAD and row.task_id is not None}
    return [row for row in rows if row.task_id not in dead or row.state not in (State.FAILED, State.REVOKED)]


def _place(found: Found, taken: int, before: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    """Where a source goes on after `taken` of its rows, having begun at `before`."""
    if before == _OVER:
        return _OVER
    if taken == len(found.rows):
        return _OVER if found.after is None else found.after
    return found.rows[taken - 1].position if taken else before


def _cursor(places: list[tuple[Any, ...] | None]) -> str:
    """The places as text for an address: the base64 of JSON."""
    plain = [None if place is None else [_plain(part) for part in place] for place in places]
    return base64.urlsafe_b64encode(json.dumps(plain, separators=(",", ":")).encode()).decode().rstrip("=")


def _plain(part: Any) -> Any:
    return part.isoformat() if isinstance(part, datetime) else part


def _places(cursor: str | None, sources: list[_Source]) -> list[tuple[Any, ...] | None]:
    if cursor is None:
        return [None] * len(sources)
    try:
        places = json.loads(base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)))
        return [
            None if place is None else _parts(place, source.parts)
            for place, source in zip(places, sources, strict=True)
        ]
    except (ValueError, TypeError, RecursionError, binascii.Error):
        raise CursorError("the cursor is not one that this list has given: start from the first page") from None


def _parts(place: list[Any], count: int) -> tuple[Any, ...]:
    """Raises ValueError or TypeError if it is no place."""
    if place == list(_OVER):
        return _OVER
    *times, number = place
    if len(place) != count or type(number) is not int or not -(2**63) <= number < 2**63:
        raise ValueError("no place")
    return (*(datetime.fromisoformat(time) for time in times), number)
