"""The charts of the last hour, of all queues and of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from celery_postgres.console import charts
from celery_postgres.console.charts import Chart
from celery_postgres.console.formatting import count, duration
from celery_postgres.readmodel import LastHour, Minute, Queue
from celery_postgres.readmodel.thresholds import LATE_S

_UNKNOWN = "-"
_TARGET_S = LATE_S.warning


def overview_charts(hour: LastHour, events: Sequence[tuple[datetime, str]] = ()) -> list[Chart]:
    """What finished, how long it waited, and what failed. Nothing if no worker has counted anything."""
    if not any(one.started or one.finished or one.retried for one in hour.minutes):
        return []
    marks = charts.marks(events, hour.minutes[0].at, len(hour.minutes))
    finished = _bars(
        hour, "Finished tasks", lambda one: one.finished, ("f-past", "f-acc"), f"{count(hour.finished)} in the hour"
    )
    share = f"{hour.failed / hour.finished:.1%} of finished" if hour.finished else "nothing finished"
    failed = _bars(hour, "Failed tasks", lambda one: one.failed, ("f-badpast", "f-bad"), share)
    return [_marked(one, marks) for one in (finished, wait_chart(hour), failed)]


def queue_charts(hour: LastHour, queue: Queue) -> list[Chart]:
    """What waits, what comes in and goes out, and how long tasks wait. Nothing if nothing was counted."""
    if not any(one.started for one in hour.minutes) and not any(hour.depths):
        return []
    return [_waiting(hour, queue), _in_and_out(hour, queue), wait_chart(hour)]


def _marked(chart: Chart, marks: tuple[charts.Mark, ...]) -> Chart:
    return replace(chart, marks=marks)


def _bars(hour: LastHour, title: str, value: Callable[[Minute], int], kinds: tuple[str, str], detail: str) -> Chart:
    values = [value(one) for one in hour.minutes]
    top = charts.round_up(max(values))
    return Chart(
        title,
        count(values[-2]),
        "a minute",
        detail,
        f"{title} a minute, last hour: {charts.course(values[:-1])}",
        count(top),
        _times(hour),
        (title,),
        tuple((one.at, (count(number),)) for one, number in zip(hour.minutes, values, strict=True)),
        bars=charts.bars(values, top, kinds),
    )


def wait_chart(hour: LastHour) -> Chart:
    """How long tasks waited before they started: the 95th percentile and the median."""
    high, middle = ([one.waited_s(share) for one in hour.minutes] for share in (0.95, 0.5))
    known = [value for value in high if value is not None]
    top = charts.round_up_s(max(known, default=1.0))
    now, median = hour.waited_s(0.95), hour.waited_s(0.5)
    target = charts.height_of(_TARGET_S, top) if top >= _TARGET_S else None
    return Chart(
        "Wait before a task starts, 95th percentile",
        _duration(now),
        "",
        f"median {_duration(median)}, target {duration(_TARGET_S)}",
        f"Wait before a task starts, 95th percentile, last hour: {charts.course(known, durations=True)}; "
        f"target {duration(_TARGET_S)}",
        duration(top),
        _times(hour),
        ("95 %", "Median"),
        tuple((one.at, (_duration(a), _duration(b))) for one, a, b in zip(hour.minutes, high, middle, strict=True)),
        lines=(charts.line(middle, top, "k-soft"), charts.line(high, top, "k-acc")),
        target=target,
        legend=(("k-acc", "95 %"), ("k-soft", "median")),
    )


def _waiting(hour: LastHour, queue: Queue) -> Chart:
    values = [None if one is None else one.waiting.number for one in hour.depths]
    shown = [_UNKNOWN if one is None else count(one.waiting) for one in hour.depths]
    top = charts.round_up(max((value for value in values if value is not None), default=0))
    oldest = (
        f"oldest {duration(queue.oldest_s)}" if queue.waiting.number and queue.oldest_s is not None else "none waits"
    )
    known = [value for value in values if value is not None]
    return Chart(
        "Waiting",
        count(queue.waiting),
        "tasks",
        oldest,
        f"Waiting tasks as each minute began, last hour: {charts.course(known)}",
        count(top),
        _times(hour),
        ("Waiting",),
        tuple((one.at, (text,)) for one, text in zip(hour.minutes, shown, strict=True)),
        bars=charts.bars(values, top, ("f-past", "f-acc")),
    )


def _in_and_out(hour: LastHour, queue: Queue) -> Chart:
    out = [one.started for one in hour.whole]
    came = list(hour.came[:-1])
    top = charts.round_up(max([*out, *(value for value in came if value is not None)]))
    known = [value for value in came if value is not None]
    return Chart(
        "In and out",
        f"{_UNKNOWN if came[-1] is None else count(came[-1])} / {count(out[-1])}",
        "a minute",
        course_of(hour, queue),
        f"Tasks that came in a minute, last hour: {charts.course(known) if known else 'not known'}; "
        f"tasks that began: {charts.course(out)}",
        count(top),
        _times(hour),
        ("In", "Out"),
        tuple(
            (one.at, (_UNKNOWN if a is None else count(a), count(b)))
            for one, a, b in zip(hour.whole, came, out, strict=True)
        ),
        lines=(charts.line(came, top, "k-soft"), charts.line(out, top, "k-acc")),
        legend=(("k-soft", "in"), ("k-acc", "out")),
    )


def course_of(hour: LastHour, queue: Queue) -> str:
    """Whether the queue grows, or when it is empty at this rate."""
    grows_by = hour.grows_by
    if queue.waiting.or_more:
        return f"empty in {duration(queue.waiting.number / hour.out * 60)} or more" if hour.out else "nothing begins"
    if grows_by is None:
        return ""
    if grows_by <= -1:
        return (
            f"empty in about {duration(queue.waiting.number / -grows_by * 60)}" if queue.waiting.number else "drained"
        )
    return f"grows by {grows_by:,.0f} a minute" if grows_by >= 1 else "steady"


def _times(hour: LastHour) -> tuple[datetime, datetime, datetime]:
    return hour.minutes[0].at, hour.minutes[len(hour.minutes) // 2].at, hour.minutes[-1].at


def _duration(seconds: float | None) -> str:
    return _UNKNOWN if seconds is None else duration(seconds)
