"""Charts of the last hour: what is drawn, and what is said of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from celery_postgres.console import charts
from celery_postgres.console.views.last_hour import overview_charts, queue_charts
from celery_postgres.database.histogram import CLASSES, class_of
from celery_postgres.readmodel import Count, Depth, Minute, Queue
from celery_postgres.readmodel.last_hour import last_hour

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
    assert overview_charts(last_hour(NOW, [])) == []
    assert queue_charts(last_hour(NOW, []), queue(0)) == []


def test_a_chart_has_a_sentence_a_table_and_a_bar_for_each_minute() -> None:
    hour = last_hour(NOW, [minute(ago, 100 + ago, failed=ago == 3) for ago in range(60)])
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


def test_a_minute_without_a_wait_breaks_the_line_and_a_single_one_is_seen() -> None:
    line = charts.line([1.0, 2.0, None, 4.0], 4.0, "k")
    assert line.parts == ("2,75 6,50", "12.5,0 15.5,0")


def test_a_long_wait_is_drawn_beside_its_target() -> None:
    hour = last_hour(NOW, [minute(1, 10, waited_s=600.0)])
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
    _, in_and_out, _ = queue_charts(last_hour(NOW, minutes, known), waiting)
    assert (in_and_out.detail, in_and_out.value) == (says, came)


def test_the_top_of_an_axis_is_a_round_number() -> None:
    assert [charts.round_up(value) for value in (0, 10, 11, 290, 1_001, 99_999)] == [10, 10, 15, 300, 1_500, 100_000]
    assert [charts.round_up_s(value) for value in (0.02, 61.0, 1e6)] == [0.1, 120.0, 1e6]
