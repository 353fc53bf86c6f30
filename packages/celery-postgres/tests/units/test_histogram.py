"""Durations counted by classes."""

from __future__ import annotations

import random
import statistics

import pytest

from celery_postgres.database.histogram import BOUNDS_S, CLASSES, class_of, percentile


def counted(durations: list[float]) -> list[int]:
    counts = [0] * CLASSES
    for one in durations:
        counts[class_of(one)] += 1
    return counts


def test_a_duration_is_in_the_class_that_ends_with_it() -> None:
    assert [class_of(bound) for bound in BOUNDS_S] == list(range(CLASSES - 1))
    assert (class_of(0.0), class_of(BOUNDS_S[-1] + 1), class_of(float("inf"))) == (0, CLASSES - 1, CLASSES - 1)


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_percentile_is_within_the_class_of_the_exact_one(share: float) -> None:
    numbers = random.Random(4711)  # noqa: S311
    durations = [numbers.lognormvariate(1, 2) for _ in range(10_000)]
    exact = statistics.quantiles(durations, n=100)[round(share * 100) - 1]
    found = percentile(counted(durations), share)
    assert found is not None
    assert class_of(found) == class_of(exact)


def test_percentiles_at_the_ends() -> None:
    assert percentile([0] * CLASSES, 0.5) is None
    assert percentile(counted([7200.0]), 0.5) == BOUNDS_S[-1]
    assert percentile(counted([0.002]), 1.0) == pytest.approx(BOUNDS_S[0])
