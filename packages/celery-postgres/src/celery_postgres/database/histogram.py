"""Durations counted by classes, and the percentiles of such counts."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

#: The longest duration of each class, in seconds. Stored counts go by them: they never change.
BOUNDS_S = (0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
#: One more: what is longer than all of them.
CLASSES = len(BOUNDS_S) + 1


def class_of(seconds: float) -> int:
    """The class of a duration."""
    return bisect_left(BOUNDS_S, seconds)


def percentile(counts: Sequence[int], share: float) -> float | None:
    """The duration in seconds that this share of the counted ones does not exceed; None if nothing was counted.

    Within a class it is estimated as if the logarithms were spread evenly, so it is wrong by less than the class is
    wide. In the last class it is that class' beginning: what is known is that it is longer.
    """
    total = sum(counts)
    if total == 0:
        return None
    rank, below = share * total, 0
    for number, count in enumerate(counts):
        if count and below + count >= rank:
            if number == len(BOUNDS_S):
                return BOUNDS_S[-1]
            low = BOUNDS_S[number - 1] if number else BOUNDS_S[0] / 3
            return math.exp(math.log(low) + math.log(BOUNDS_S[number] / low) * (rank - below) / count)
        below += count
    return BOUNDS_S[-1]
