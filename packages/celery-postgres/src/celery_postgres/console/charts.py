"""Charts as shapes for the templates: one column is a minute, or a longer step. Nothing here is text from outside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from celery_postgres.console.formatting import count, duration

#: The plot: the highest value is 100 high. An hour has a column for each minute.
WIDTH, HEIGHT, _COLUMNS = 240, 100, 60
_DURATIONS_S = (0.1, 0.3, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400)


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle."""

    x: float
    y: float
    width: float
    height: float
    kind: str


@dataclass(frozen=True, slots=True)
class Line:
    """A polyline; one that is broken where a value is missing has several parts."""

    parts: tuple[str, ...]
    kind: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened: a vertical line."""

    at: datetime
    text: str
    x: float


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure.

    Attributes:
        title, value, unit, detail: above the plot.
        sentence: what the plot shows, for those who do not see it.
        top: what the highest line stands for.
        times: when it begins, its middle, and its end.
        heads, rows: the same as a table: a moment, then texts.
        target: how high a target lies, if it is within the plot.
    """

    title: str
    value: str
    unit: str
    detail: str
    sentence: str
    top: str
    times: tuple[datetime, datetime, datetime]
    heads: tuple[str, ...]
    rows: tuple[tuple[datetime, tuple[str, ...]], ...]
    bars: tuple[Bar, ...] = ()
    lines: tuple[Line, ...] = ()
    target: float | None = None
    marks: tuple[Mark, ...] = ()
    legend: tuple[tuple[str, str], ...] = field(default=())


def bars(values: Sequence[int | None], top: float, kinds: tuple[str, str]) -> tuple[Bar, ...]:
    """A bar for each value that is not zero; the last one, which is not over yet, is of the second kind."""
    found, step = [], WIDTH / len(values)
    for number, value in enumerate(values):
        if value:
            height = round(max(1.0, value / top * HEIGHT), 1)
            kind = kinds[number == len(values) - 1]
            x = round((number + 0.125) * step, 2)
            found.append(Bar(x, round(HEIGHT - height, 1), round(step * 0.75, 2), height, kind))
    return tuple(found)


def line(values: Sequence[float | None], top: float, kind: str, columns: int = _COLUMNS) -> Line:
    """A line through the middles of the columns; where a value is missing it is broken."""
    step = WIDTH / columns
    parts: list[list[str]] = [[]]
    for number, value in enumerate(values):
        if value is None:
            parts.append([])
        else:
            parts[-1].append(f"{round((number + 0.5) * step, 2):g},{height_of(value, top):g}")
    # A single point would not be seen.
    return Line(tuple(" ".join(part if len(part) > 1 else _dash(part[0])) for part in parts if part), kind)


def _dash(point: str) -> list[str]:
    x, _, y = point.partition(",")
    return [f"{float(x) - 1.5:g},{y}", f"{float(x) + 1.5:g},{y}"]


def height_of(value: float, top: float) -> float:
    """The distance of a value from the plot's upper edge."""
    return round(HEIGHT - min(value / top, 1.0) * HEIGHT, 1)


def marks(events: Sequence[tuple[datetime, str]], since: datetime, minutes: int) -> tuple[Mark, ...]:
    """Those of the events that lie within the plot."""
    found = []
    for at, text in events:
        share = (at - since).total_seconds() / 60 / minutes
        if 0 <= share <= 1:
            found.append(Mark(at, text, round(share * 100, 1)))
    return tuple(found)


def round_up(value: float) -> int:
    """The next round number: the top of an axis, at least 10."""
    if value <= 10:
        return 10
    scale = 10 ** math.floor(math.log10(value))
    return int(next(step * scale for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * scale >= value))


def round_up_s(seconds: float) -> float:
    """The next usual duration."""
    return next((float(step) for step in _DURATIONS_S if step >= seconds), seconds)


def course(values: Sequence[float], each: str = "minute", *, durations: bool = False) -> str:
    """`median 1,830, at most 1,905, 1,374 in the last minute`."""
    if not values:
        return "nothing"
    write = duration if durations else lambda value: count(round(value))
    middle = sorted(values)[len(values) // 2]
    return f"median {write(middle)}, at most {write(max(values))}, {write(values[-1])} in the last {each}"
