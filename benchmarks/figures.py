"""From samples to figures: rates of journals, medians, ratios of neighbors, percentiles."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks.samples import Results
from environment.testkit.journal import Record

# -- of a journal

#: A pause between two batches is so many times the usual distance of two starts, and a hundredth of the time; batches
#: that are fetched more often than that are not counted wrong by more.
_PAUSE = 20


def rate(records: Sequence[Record], skip_s: float = 0.0) -> float:
    """Return tasks a second, by their starts.

    For tasks that come in batches it is measured from the start of one batch to that of another, without the tasks of
    the last: five batches of 5,000 are done in four times the time between two, and would count a quarter too much.

    Args:
        records: of one worker or several.
        skip_s: seconds at the beginning to leave out, in which a worker adapts its batch size and has not stored its
            first results yet; a quarter of the time at most.
    """
    starts = sorted(start for _, start, _ in records)
    if len(starts) < 2:
        return 0.0
    length = starts[-1] - starts[0]
    begin = starts[0] + min(skip_s * 1e9, length / 4)
    begins = _batches(starts)
    late = [position for position in begins if starts[position] >= begin]
    for candidates in (late, begins):
        if len(candidates) > 1 and starts[candidates[-1]] - starts[candidates[0]] >= 0.4 * length:
            first, last = candidates[0], candidates[-1]
            break
    else:
        first, last = next(position for position, start in enumerate(starts) if start >= begin), len(starts) - 1
    span = starts[last] - starts[first]
    return (last - first) / span * 1e9 if span else 0.0


def _batches(starts: list[int]) -> list[int]:
    """Return the positions at which batches begin."""
    gaps = [after - before for before, after in itertools.pairwise(starts)]
    pause = max(_PAUSE * sorted(gaps)[len(gaps) // 2], (starts[-1] - starts[0]) / 100)
    return [0, *(position for position, gap in enumerate(gaps, 1) if gap >= pause)]


def window(records: Sequence[Record], spent: dict[str, float]) -> dict[str, Any]:
    """Return the rate without the first second, and the processor time of worker and server per task.

    Other processes change the rate, and hardly the processor time.
    """
    if not records:
        return {"rate": 0.0, "tasks": 0, "cpu_us": None}
    cpu_us = (spent["worker"] + spent["server"]) / len(records) * 1e6
    return {"rate": rate(records, 1.0), "tasks": len(records), "cpu_us": cpu_us}


def curve(records: Sequence[Record], bucket_s: float = 1.0) -> list[int]:
    """Return how many tasks started in each bucket, from the first one on; leaves out the last, incomplete bucket."""
    starts = sorted(start for _, start, _ in records)
    counts: dict[int, int] = {}
    for start in starts:
        bucket = int((start - starts[0]) / 1e9 / bucket_s)
        counts[bucket] = counts.get(bucket, 0) + 1
    return [counts.get(bucket, 0) for bucket in range(max(counts))] if counts else []


# -- of samples


def values(results: Results, variant: str, key: str) -> list[float]:
    """Return a number of all samples of a variant that have it."""
    return [float(sample[key]) for sample in results.get(variant, []) if sample.get(key) is not None]


def middle(results: Results, variant: str, key: str) -> float | None:
    """Return its median, or None without samples."""
    found = values(results, variant, key)
    return median(found) if found else None


def ratios(results: Results, variant: str, other: str, key: str) -> list[float]:
    """Return the ratios to another variant, of samples made one after the other: a disturbance slows both."""
    pairs = zip(results.get(variant, []), results.get(other, []), strict=False)
    return [one[key] / two[key] for one, two in pairs if one.get(key) and two.get(key)]


def percentile(numbers: Sequence[float], share: float) -> float:
    """Return the smallest number that at least this share of them does not exceed."""
    ordered = sorted(numbers)
    return ordered[min(len(ordered) - 1, max(0, -(-len(ordered) * share // 1).__int__() - 1))]


def summary(numbers: Sequence[float]) -> dict[str, Any]:
    """Return percentiles of milliseconds; ``quantiles`` for a plot, in steps of 2 %."""
    if not numbers:
        return {"count": 0, "p50": None, "p99": None, "worst": None, "quantiles": []}
    ordered = sorted(numbers)
    return {
        "count": len(ordered),
        "p50": round(percentile(ordered, 0.5), 3),
        "p99": round(percentile(ordered, 0.99), 3),
        "worst": round(ordered[-1], 3),
        "quantiles": [round(percentile(ordered, step / 50), 3) for step in range(51)],
    }


# -- for people


def shown(number: float | None) -> str:
    """Return a number with three significant digits; a dash for None."""
    if number is None:
        return "-"
    if number >= 100:
        return f"{number:,.0f}"
    if number == 0:
        return "0"
    return f"{number:.1f}" if number >= 1 else f"{number:.2f}"


def with_spread(results: Results, variant: str, key: str) -> str:
    """Return the median, and of several samples the lowest and the highest."""
    found = values(results, variant, key)
    if len(found) < 2:
        return shown(middle(results, variant, key))
    return f"{shown(median(found))} <sub>{shown(min(found))} … {shown(max(found))}</sub>"
