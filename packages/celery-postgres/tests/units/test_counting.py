"""What a process counts, before it is written."""

from __future__ import annotations

import time

import pytest

from celery_postgres.consumer import counting
from celery_postgres.consumer.counting import Counting, Tally, progress_of
from celery_postgres.database.histogram import class_of
from celery_postgres.database.minute_store import MinuteRow

NOW = time.monotonic
SYNCHRONOUS = 1_800_000_000.0


@pytest.fixture
def tally() -> Tally:
    """One that knows the database's clock."""
    made = Tally()
    made.written(SYNCHRONOUS)
    return made


def only(rows: list[MinuteRow]) -> MinuteRow:
    (row,) = rows
    return row


def test_an_attempt_is_counted_with_its_wait_and_its_length(tally: Tally) -> None:
    progress = progress_of(tally, "q", {"published_at": SYNCHRONOUS - 500.0, "due_at": SYNCHRONOUS - 45.0})
    progress.began("a.task", NOW())
    progress.ended("done", 4.0)
    progress.ended("failed", 5.0)  # Celery may say twice that it has ended
    row = only(tally.changed(7))
    assert (row.minute, row.consumer, row.queue, row.name) == (int(SYNCHRONOUS // 60), 7, "q", "a.task")
    assert (row.started, row.done, row.failed, row.retried) == (1, 1, 0, 0)
    assert (row.waited[class_of(45.5)], sum(row.waited)) == (1, 1)
    assert (row.ran[class_of(4.0)], sum(row.ran)) == (1, 1)


@pytest.mark.parametrize("properties", [{}, {"published_at": "yesterday"}, {"published_at": None, "due_at": True}])
def test_a_wait_that_is_not_known_is_not_counted(tally: Tally, properties: dict[str, object]) -> None:
    progress_of(tally, "q", properties).began("a.task", NOW())
    row = only(tally.changed(7))
    assert (row.started, sum(row.waited)) == (1, 0)


def test_what_never_began_does_not_end(tally: Tally) -> None:
    progress_of(tally, "q", {}).ended("failed")
    assert tally.changed(7) == []


def test_only_what_has_changed_is_written_again_and_the_row_keeps_its_consumer(tally: Tally) -> None:
    tally.began("q", "one", NOW(), None)
    tally.began("q", "two", NOW(), None)
    assert [row.name for row in tally.changed(7)] == ["one", "two"]
    tally.ended("q", "two", "done", 1.0)
    again = only(tally.changed(8))
    assert (again.name, again.consumer, again.started, again.done) == ("two", 7, 1, 1)
    assert tally.changed(8) == []
    tally.not_written([again])
    assert only(tally.changed(8)) == again


def test_a_clock_that_goes_back_adds_to_the_minutes_that_were_written(tally: Tally) -> None:
    tally.began("q", "n", NOW(), None)
    first = only(tally.changed(7))
    tally.written(SYNCHRONOUS + 60)
    tally.began("q", "n", NOW(), None)
    assert only(tally.changed(7)).minute == first.minute + 1
    tally.written(SYNCHRONOUS)
    tally.began("q", "n", NOW(), None)
    row = only(tally.changed(7))
    assert (row.minute, row.started) == (first.minute, 2)


def test_minutes_that_the_database_does_not_take_are_forgotten_in_the_end(tally: Tally) -> None:
    for minute in range(2 * counting.MOST_MINUTES):
        tally._ahead_s = SYNCHRONOUS + minute * 60 - NOW()
        tally.began("q", "n", NOW(), None)
        tally.not_written(tally.changed(7))
    assert len(tally.changed(7)) == counting.MOST_MINUTES + 1


def test_names_without_an_end_are_counted_together(tally: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "MOST_ROWS", 3)
    for number in range(10):
        tally.began(f"q{number}", "n", NOW(), None)
        tally.began("q0", "n", NOW(), None)
    assert [(row.queue, row.started) for row in tally.changed(7)] == [("", 7), ("q0", 11), ("q1", 1), ("q2", 1)]


def test_names_that_look_alike_share_a_row_that_a_table_can_hold(tally: Tally) -> None:
    for name in ("a\0b", "a\ud800b", "a\nb", "é" * 500):
        tally.began("q", name, NOW(), None)
    assert [(row.name, row.started) for row in tally.changed(7)] == [("a?b", 3), ("é" * 200, 1)]


def test_counting_can_be_switched_off() -> None:
    assert Counting(counts=False).tally is None
    assert Counting(counts=True).tally is not None
