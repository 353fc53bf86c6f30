"""What a process counts, before it is written."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from celery_postgres.consumer import counting
from celery_postgres.consumer.counting import Counting, Tally, TaskProgress, progress_of
from celery_postgres.database.histogram import class_of
from celery_postgres.database.minute_store import MERGED_AFTER_S, MinuteRow

NOW = time.monotonic
SYNCHRONOUS = 1_800_000_030.0


@pytest.fixture
def tally() -> Tally:
    """One that knows the database's clock."""
    made = Tally()
    made.written(SYNCHRONOUS)
    return made


def began(tally: Tally, queue: str, name: str) -> TaskProgress:
    progress = progress_of(tally, queue, {})
    progress.began(name, NOW())
    return progress


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
    began(tally, "q", "one")
    two = began(tally, "q", "two")
    assert [row.name for row in tally.changed(7)] == ["one", "two"]
    two.ended("done", 0.1)
    again = only(tally.changed(8))
    assert (again.name, again.consumer, again.started, again.done) == ("two", 7, 1, 1)
    assert tally.changed(8) == []
    tally.not_written([again])
    assert only(tally.changed(8)) == again


def test_a_clock_that_goes_back_adds_to_the_minutes_that_were_written(tally: Tally) -> None:
    began(tally, "q", "n")
    first = only(tally.changed(7))
    tally.written(SYNCHRONOUS + 60)
    began(tally, "q", "n")
    assert only(tally.changed(7)).minute == first.minute + 1
    tally.written(SYNCHRONOUS)
    began(tally, "q", "n")
    row = only(tally.changed(7))
    assert (row.minute, row.started) == (first.minute, 2)


def test_minutes_that_the_database_does_not_take_are_forgotten_in_the_end(tally: Tally) -> None:
    for minute in range(2 * counting.MOST_MINUTES):
        tally._ahead_s = SYNCHRONOUS + minute * 60 - NOW()
        began(tally, "q", "n")
        tally.not_written(tally.changed(7))
    assert len(tally.changed(7)) == counting.MOST_MINUTES + 1


def test_a_clock_that_goes_on_counts_what_happened_before_in_its_minute(tally: Tally) -> None:
    progress = progress_of(tally, "q", {})
    progress.began("n", NOW() - 50 - SYNCHRONOUS % 60)
    progress.ended("failed")
    minutes = {(row.minute - int(SYNCHRONOUS // 60), row.started, row.failed) for row in tally.changed(7)}
    assert minutes == {(-1, 1, 0), (0, 0, 1)}


@pytest.mark.parametrize(("at_s", "minute"), [(-3_600.0, -2), (3_600.0, 0)])
def test_what_comes_late_or_from_another_clock_counts_in_a_minute_that_is_not_added_up_yet(
    tally: Tally, at_s: float, minute: int
) -> None:
    progress_of(tally, "q", {}).began("n", NOW() + at_s)
    row = only(tally.changed(7))
    assert row.minute == int(SYNCHRONOUS // 60) + minute
    assert (int(SYNCHRONOUS // 60) - row.minute) * 60 < MERGED_AFTER_S


def test_tasks_are_counted_before_they_are_many(tally: Tally) -> None:
    for _ in range(3 * counting.AT_ONCE - 1):
        began(tally, "q", "n").ended("done", 1.0)
    assert (len(tally.begun), len(tally.over)) == (counting.AT_ONCE - 1, counting.AT_ONCE - 1)
    row = only(tally.changed(7))
    assert (row.started, row.done, sum(row.ran)) == (3 * counting.AT_ONCE - 1,) * 3


def test_threads_that_count_at_once_lose_nothing(tally: Tally) -> None:
    each = 20 * counting.AT_ONCE

    def work() -> None:
        for number in range(each):
            began(tally, "q", f"n{number % 3}").ended("retried", 0.1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        tally.changed(7)
    for thread in threads:
        thread.join()
    tally.not_written(list(tally._rows.values()))
    found = sum(row.started + row.retried for row in tally.changed(7))
    assert found == 2 * 4 * each


def test_a_signal_handler_may_end_a_task_while_others_are_counted(tally: Tally) -> None:
    """It may run between any two steps; here, whenever a row is looked for."""
    find, ended = tally._row, []

    def interrupted(*arguments: Any) -> MinuteRow:
        if not ended:
            ended.extend(began(tally, "q", "other") for _ in range(counting.AT_ONCE))
            for one in ended:
                one.ended("done", 0.1)
        return find(*arguments)

    tally._row = interrupted  # type: ignore[method-assign]
    began(tally, "q", "n").ended("done", 0.1)
    tally.changed(7)
    rows = {row.name: (row.started, row.done) for row in tally.changed(7)}
    assert rows["other"] == (counting.AT_ONCE, counting.AT_ONCE)


def test_names_without_an_end_are_counted_together(tally: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "MOST_ROWS", 3)
    for number in range(10):
        began(tally, f"q{number}", "n")
        began(tally, "q0", "n")
    assert [(row.queue, row.started) for row in tally.changed(7)] == [("", 7), ("q0", 11), ("q1", 1), ("q2", 1)]


def test_names_that_look_alike_share_a_row_that_a_table_can_hold(tally: Tally) -> None:
    for name in ("a\0b", "a\ud800b", "a\nb", "é" * 500):
        began(tally, "q", name)
    assert [(row.name, row.started) for row in tally.changed(7)] == [("a?b", 3), ("é" * 200, 1)]


def test_counting_can_be_switched_off() -> None:
    assert Counting(counts=False).tally is None
    assert Counting(counts=True).tally is not None
