"""How a rate is made of starts."""

from __future__ import annotations

import pytest

from benchmarks.figures import rate

MS = 1_000_000


def started(*at_ns: int) -> list[tuple[int, int, int]]:
    return [(number, at, at + 1) for number, at in enumerate(at_ns, 1)]


def test_tasks_that_follow_each_other_are_counted_from_the_first_to_the_last() -> None:
    assert rate(started(*range(0, 1001 * MS, MS))) == pytest.approx(1_000)


def test_of_batches_the_last_is_not_counted_whose_time_is_not_over() -> None:
    batches = [second * 1000 * MS + position for second in range(5) for position in range(500)]
    assert rate(started(*batches)) == pytest.approx(500, rel=1e-3)


def test_of_two_batches_the_time_from_one_to_the_other_counts() -> None:
    batches = [second * 1000 * MS + position for second in range(2) for position in range(500)]
    assert rate(started(*batches), skip_s=1.0) == pytest.approx(500, rel=1e-3)


def test_a_hiccup_within_a_batch_does_not_begin_another() -> None:
    batches = [
        second * 1000 * MS + position * 1000 + 200_000 * (position > 400)
        for second in range(3)
        for position in range(500)
    ]
    assert rate(started(*batches)) == pytest.approx(500, rel=1e-3)


def test_a_pause_now_and_then_counts_as_what_it_is() -> None:
    starts, at = [], 0
    for number in range(10_000):
        at += 50 * MS if number in (500, 600, 7_000) else MS
        starts.append(at)
    assert rate(started(*starts)) == pytest.approx(10_000 / 10.147, rel=0.01)


def test_a_slow_beginning_is_left_out_and_at_most_a_quarter_of_the_time() -> None:
    slow, fast = range(0, 1000 * MS, 100 * MS), range(1000 * MS, 5001 * MS, MS)
    assert rate(started(*slow, *fast), skip_s=1.0) == pytest.approx(1_000)
    assert rate(started(0, 1 * MS, 2 * MS, 3 * MS, 4 * MS), skip_s=1.0) == pytest.approx(1_000)


@pytest.mark.parametrize("starts", [(), (5,), (5, 5)])
def test_what_is_too_little_has_no_rate(starts: tuple[int, ...]) -> None:
    assert rate(started(*starts)) == 0.0
