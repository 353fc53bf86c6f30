"""Charts of the last hour: what is drawn, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from celery_postgres.console import charts
from celery_postgres.console.views.past import overview_charts, queue_charts
from celery_postgres.database.histogram import CLASSES, class_of
from celery_postgres.readmodel import DAY, HOUR, WEEK, Count, Depth, Minute, Queue, Span
from celery_postgres.readmodel.past import past

NOW = datetime(2026, 11, 30, 3, 14, 33, tzinfo=UTC)


def at(ago: int) -> datetime:
    return NOW.replace(second=0) - timedelta(minutes=ago)


def minute(ago: int, started: int, failed: int = 0, waited_s: float = 0.02) -> Minute:
    waited = [0] * CLASSES
    waited[class_of(waited_s)] = started
    return Minute(at(ago), started, started - failed, failed, 0, tuple(waited))


def queue(waiting: int, *, or_more: bool = False) -> Queue:
    return Queue("q", False, False, Count(waiting, or_more), 5.0, Count(0), Count(0), 1, 0)


def test_an_hour_without_a_task_has_no_charts() -> None:
    assert overview_charts(past(HOUR, NOW, [])) == []
    assert queue_charts(past(HOUR, NOW, []), queue(0)) == []


def test_a_chart_has_a_sentence_a_table_and_a_bar_for_each_minute() -> None:
    hour = past(HOUR, NOW, [minute(ago, 100 + ago, failed=ago == 3) for ago in range(60)])
    finished, wait, failed = overview_charts(hour, [(at(30), "it was paused"), (at(90), "long ago")])
    assert (finished.value, finished.top, finished.detail) == ("101", "200", "7,770 in the hour")
    assert finished.sentence == "Finished tasks a minute, last hour: median 130, at most 159, 101 in the last minute"
    assert len(finished.bars) == len(finished.rows) == 60
    assert [bar.kind for bar in finished.bars][-2:] == ["f-past", "f-acc"]
    assert all(bar.y >= 0 and bar.y + bar.height == pytest.approx(100) for bar in finished.bars)
    assert [(mark.text, mark.x) for mark in finished.marks] == [("it was paused", 48.3)]
    assert len(failed.bars) == 1
    assert wait.target is None  # far above the plot
    assert wait.rows[0][1] == ("28 ms", "17 ms")


@pytest.mark.parametrize(
    ("span", "sentence", "begins"),
    [
        (DAY, "Finished tasks an hour, last day: median 0, at most 5, 5 in the last hour", "29 04:00"),
        (WEEK, "Finished tasks in 3 hours, last week: median 0, at most 5, 5 in the last 3 hours", "23 06:00"),
    ],
)
def test_a_day_and_a_week_have_longer_bars(span: Span, sentence: str, begins: str) -> None:
    step = minute(0, 5)
    steps = [replace(step, at=span.begins(NOW) + number * span.step) for number in (0, span.steps - 2)]
    long = past(span, NOW, steps, [Depth(one.at, Count(7), 1.0) for one in steps])
    finished, wait, _ = overview_charts(long, [(NOW, "what changed is known of an hour")])
    assert finished.sentence == sentence
    assert (finished.marks, len(finished.rows)) == ((), span.steps)
    assert f"{finished.times[0]:%d %H:%M}" == begins
    assert wait.detail.startswith("median 17 ms"), "of the whole time"
    first, last = finished.bars
    assert first.x > 0
    assert last.x + last.width < 240 - last.width
    waiting, _, _ = queue_charts(long, queue(3))
    assert waiting.sentence.endswith(f"; known at 2 of {span.steps} times")


def test_a_minute_without_a_wait_breaks_the_line_and_a_single_one_is_seen() -> None:
    line = charts.line([1.0, 2.0, None, 4.0], 4.0, "k")
    assert line.parts == ("2,75 6,50", "12.5,0 15.5,0")


def test_a_long_wait_is_drawn_beside_its_target() -> None:
    hour = past(HOUR, NOW, [minute(1, 10, waited_s=600.0)])
    _, wait, _ = overview_charts(hour)
    assert wait.target is not None
    assert 0 < wait.target < 100


@pytest.mark.parametrize(
    ("depths", "waiting", "says", "came"),
    [
        ([10, 110, 210], queue(210), "grows by 100 a minute", "120 / 20"),
        ([210, 110, 10], queue(10), "empty in about 6.0 s", "0 / 20"),
        ([10, 10, 10], queue(10), "steady", "20 / 20"),
        ([10_001, 10_001, 10_001], queue(10_000, or_more=True), "empty in 20 h 50 min or more", "- / 20"),
        ([], queue(5), "", "- / 20"),
    ],
)
def test_a_queue_says_what_comes_in_and_when_it_is_empty(
    depths: list[int], waiting: Queue, says: str, came: str
) -> None:
    minutes = [minute(ago, 20 if ago == 1 else 5) for ago in range(1, 6)]
    known = [Depth(at(len(depths) - 1 - n), Count.of(depth), 1.0) for n, depth in enumerate(depths)]
    _, in_and_out, _ = queue_charts(past(HOUR, NOW, minutes, known), waiting)
    assert (in_and_out.detail, in_and_out.value) == (says, came)


def test_the_top_of_an_axis_is_a_round_number() -> None:
    assert [charts.round_up(value) for value in (0, 10, 11, 290, 1_001, 99_999)] == [10, 10, 15, 300, 1_500, 100_000]
    assert [charts.round_up_s(value) for value in (0.02, 61.0, 1e6)] == [0.1, 120.0, 1e6]
