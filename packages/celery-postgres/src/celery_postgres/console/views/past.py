"""The charts of the last hour, day or week, of all queues and of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from celery_postgres.console import charts
from celery_postgres.console.charts import Chart
from celery_postgres.console.formatting import count, duration
from celery_postgres.console.looking import Look, NotThereError
from celery_postgres.readmodel import HOUR, SPANS, Minute, Past, Queue, Span
from celery_postgres.readmodel.thresholds import LATE_S

_UNKNOWN = "-"
_TARGET_S = LATE_S.warning
#: What one bar is, the head of the table's first column, and how a moment is written.
_WORDS = {
    "hour": ("a minute", "Minute", "minute"),
    "day": ("an hour", "Hour", "minute"),
    "week": ("3 hours", "From", "day"),
}


def asked(look: Look) -> Span:
    """The span that the address names, or the last hour."""
    span = SPANS.get(look.asked("span") or HOUR.name)
    if span is None:
        raise NotThereError("Charts show the last hour, day or week.")
    return span


def described(look: Look, path: str, span: Span) -> dict[str, Any]:
    """What a template says of the charts of a span, with the way to the others."""
    bar, head, form = _WORDS[span.name]
    choices = [
        {
            "name": name.capitalize(),
            "link": look.again(path, span=None if name == HOUR.name else name),
            "chosen": name == span.name,
        }
        for name in SPANS
    ]
    return {"name": span.name, "each": span.each, "bar": bar, "head": head, "form": form, "choices": choices}


def overview_charts(past: Past, events: Sequence[tuple[datetime, str]] = ()) -> list[Chart]:
    """What finished, how long it waited, and what failed. Nothing if no worker has counted anything."""
    if not any(one.started or one.finished or one.retried for one in past.steps):
        return []
    # What changed is known of an hour.
    marks = charts.marks(events, past.steps[0].at, len(past.steps)) if past.span is HOUR else ()
    total = f"{count(past.finished)} in the {past.span.name}"
    finished = _bars(past, "Finished tasks", lambda one: one.finished, ("f-past", "f-acc"), total)
    share = f"{past.failed / past.finished:.1%} of finished" if past.finished else "nothing finished"
    failed = _bars(past, "Failed tasks", lambda one: one.failed, ("f-badpast", "f-bad"), share)
    return [_marked(one, marks) for one in (finished, wait_chart(past), failed)]


def queue_charts(past: Past, queue: Queue) -> list[Chart]:
    """What waits, what comes in and goes out, and how long tasks wait. Nothing if nothing was counted."""
    if not any(one.started for one in past.steps) and not any(past.depths):
        return []
    return [_waiting(past, queue), _in_and_out(past, queue), wait_chart(past)]


def _marked(chart: Chart, marks: tuple[charts.Mark, ...]) -> Chart:
    return replace(chart, marks=marks)


def _bars(past: Past, title: str, value: Callable[[Minute], int], kinds: tuple[str, str], detail: str) -> Chart:
    values = [value(one) for one in past.steps]
    top = charts.round_up(max(values))
    return Chart(
        title,
        count(values[-2]),
        past.span.rate,
        detail,
        f"{title} {past.span.rate}, last {past.span.name}: {charts.course(values[:-1], past.span.each)}",
        count(top),
        _times(past),
        (title,),
        tuple((one.at, (count(number),)) for one, number in zip(past.steps, values, strict=True)),
        bars=charts.bars(values, top, kinds),
    )


def wait_chart(past: Past) -> Chart:
    """How long tasks waited before they started: the 95th percentile and the median."""
    high, middle = ([one.waited_s(share) for one in past.steps] for share in (0.95, 0.5))
    known = [value for value in high if value is not None]
    top = charts.round_up_s(max(known, default=1.0))
    now, median = past.waited_s(0.95), past.waited_s(0.5)
    target = charts.height_of(_TARGET_S, top) if top >= _TARGET_S else None
    return Chart(
        "Wait before a task starts, 95th percentile",
        _duration(now),
        "",
        f"median {_duration(median)}, target {duration(_TARGET_S)}",
        f"Wait before a task starts, 95th percentile, last {past.span.name}: "
        f"{charts.course(known, past.span.each, durations=True)}; target {duration(_TARGET_S)}",
        duration(top),
        _times(past),
        ("95 %", "Median"),
        tuple((one.at, (_duration(a), _duration(b))) for one, a, b in zip(past.steps, high, middle, strict=True)),
        lines=(charts.line(middle, top, "k-soft", len(high)), charts.line(high, top, "k-acc", len(high))),
        target=target,
        legend=(("k-acc", "95 %"), ("k-soft", "median")),
    )


def _waiting(past: Past, queue: Queue) -> Chart:
    values = [None if one is None else one.waiting.number for one in past.depths]
    shown = [_UNKNOWN if one is None else count(one.waiting) for one in past.depths]
    top = charts.round_up(max((value for value in values if value is not None), default=0))
    oldest = (
        f"oldest {duration(queue.oldest_s)}" if queue.waiting.number and queue.oldest_s is not None else "none waits"
    )
    known = [value for value in values if value is not None]
    gaps = (
        f"; known at {len(known)} of {len(values)} times" if len(known) < len(values) and past.span is not HOUR else ""
    )
    return Chart(
        "Waiting",
        count(queue.waiting),
        "tasks",
        oldest,
        f"Waiting tasks, every {past.span.each}, last {past.span.name}: {charts.course(known, past.span.each)}{gaps}",
        count(top),
        _times(past),
        ("Waiting",),
        tuple((one.at, (text,)) for one, text in zip(past.steps, shown, strict=True)),
        bars=charts.bars(values, top, ("f-past", "f-acc")),
    )


def _in_and_out(past: Past, queue: Queue) -> Chart:
    out, columns = [one.started for one in past.whole], len(past.steps)
    came = list(past.came[:-1])
    top = charts.round_up(max([*out, *(value for value in came if value is not None)]))
    known = [value for value in came if value is not None]
    return Chart(
        "In and out",
        f"{_UNKNOWN if came[-1] is None else count(came[-1])} / {count(out[-1])}",
        past.span.rate,
        course_of(past, queue),
        f"Tasks that came {past.span.rate}, last {past.span.name}: "
        f"{charts.course(known, past.span.each) if known else 'not known'}; "
        f"tasks that began: {charts.course(out, past.span.each)}",
        count(top),
        _times(past),
        ("In", "Out"),
        tuple(
            (one.at, (_UNKNOWN if a is None else count(a), count(b)))
            for one, a, b in zip(past.whole, came, out, strict=True)
        ),
        lines=(charts.line(came, top, "k-soft", columns), charts.line(out, top, "k-acc", columns)),
        legend=(("k-soft", "in"), ("k-acc", "out")),
    )


def course_of(past: Past, queue: Queue) -> str:
    """Whether the queue grows, or when it is empty at this rate."""
    grows_by, step_s = past.grows_by, past.span.step.total_seconds()
    if queue.waiting.or_more:
        return (
            f"empty in {duration(queue.waiting.number / past.out * step_s)} or more" if past.out else "nothing begins"
        )
    if grows_by is None:
        return ""
    if grows_by <= -1:
        return (
            f"empty in about {duration(queue.waiting.number / -grows_by * step_s)}"
            if queue.waiting.number
            else "drained"
        )
    return f"grows by {grows_by:,.0f} {past.span.rate}" if grows_by >= 1 else "steady"


def _times(past: Past) -> tuple[datetime, datetime, datetime]:
    return past.steps[0].at, past.steps[len(past.steps) // 2].at, past.steps[-1].at


def _duration(seconds: float | None) -> str:
    return _UNKNOWN if seconds is None else duration(seconds)
