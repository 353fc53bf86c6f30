"""``publish MODE …`` for programs whose call for one task is a plain function."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.systems import sized

#: Publishes before the clock starts: connections, caches, prepared statements.
WARM_UP = 200

#: The same for calls that are timed one by one; their tasks run, and are not in the answer.
SETTLING = 20

#: Tasks handed over together.
BATCH = 1_000

One = Callable[[int, float, str], object]
Many = Callable[[Sequence[int], float, str], object]


def answer(words: Sequence[str], one: One, many: Many | None) -> Any:
    """What ``publish`` prints.

    Args:
        words: the mode and its arguments.
        one: publishes one task (number, seconds, padding).
        many: publishes several at once; None where the system has no call for it.
    """
    mode, first, *rest = words
    if mode == "one_by_one":
        count, limit_s, size = rest
        padding = sized(int(size))
        return rate(int(first), int(count), float(limit_s), 1, lambda numbers: one(numbers[0], 0.0, padding))
    if mode == "in_bulk":
        if many is None:
            return None
        count, limit_s, size, seconds = rest
        padding = sized(int(size))
        return rate(
            int(first), int(count), float(limit_s), BATCH, lambda numbers: many(numbers, float(seconds), padding)
        )
    if mode == "paced":
        count, shortest_s, longest_s = rest
        return paced(int(first), int(count), float(shortest_s), float(longest_s), one)
    if mode == "steady":
        each_second, seconds = rest
        return steady(int(first), float(each_second), float(seconds), one)
    if mode == "together":
        begin, seconds = rest
        return together(int(first), float(begin), float(seconds), one)
    raise SystemExit(f"publish: no mode {mode!r}")


def rate(first: int, count: int, limit_s: float, batch: int, send: Callable[[Sequence[int]], object]) -> Any:
    """Publish numbers from ``first`` on, ``batch`` at a time, as fast as it goes; of more than ``WARM_UP`` the first
    so many do not count."""
    warm = 0 if count <= WARM_UP else WARM_UP
    for start in range(0, warm, batch):
        send(range(first + start, first + min(start + batch, warm)))
    number, count = first + warm, count - warm
    cpu, begin = time.process_time(), time.perf_counter()
    done = 0
    while done < count and time.perf_counter() - begin < limit_s:
        numbers = range(number + done, number + done + min(batch, count - done))
        send(numbers)
        done += len(numbers)
    seconds = time.perf_counter() - begin
    return {"published": done, "seconds": seconds, "rate": done / seconds, "cpu_s": time.process_time() - cpu}


def paced(first: int, count: int, shortest_s: float, longest_s: float, one: One) -> list[tuple[int, int, int]]:
    """One by one, with a random pause before each: the longer the pause, the deeper the sleep of a worker."""
    dice = random.Random(first)  # noqa: S311
    published = []
    first = _settle(first, one)
    for number in range(first, first + count):
        time.sleep(dice.uniform(shortest_s, longest_s))
        begin = time.monotonic_ns()
        one(number, 0.0, "")
        published.append((number, begin, time.monotonic_ns()))
    return published


def steady(first: int, rate: float, seconds: float, one: One) -> list[tuple[int, int, int]]:
    """One by one on a schedule: a call that is late does not move the ones after it."""
    first = _settle(first, one)
    origin = time.monotonic_ns()
    published = []
    for position in range(int(rate * seconds)):
        due = origin + int(position / rate * 1e9)
        if (early := due - time.monotonic_ns()) > 0:
            time.sleep(early / 1e9)
        one(first + position, 0.0, "")
        published.append((first + position, due, time.monotonic_ns()))
    return published


def together(first: int, begin: float, seconds: float, one: One) -> Any:
    """One by one for so long, from ``begin`` on by the monotonic clock, which all processes of a machine share."""
    first = _settle(first, one)
    time.sleep(max(0.0, begin - time.monotonic()))
    cpu, started = time.process_time(), time.monotonic()
    done = 0
    while time.monotonic() < begin + seconds:
        one(first + done, 0.0, "")
        done += 1
    took = time.monotonic() - started
    late = started - begin
    return {"published": done, "rate": done / took, "cpu_s": time.process_time() - cpu, "late_s": late}


def _settle(first: int, one: One) -> int:
    """Connect, and what else only a first call does; the number after those that it took."""
    for number in range(first, first + SETTLING):
        one(number, 0.0, "")
    return first + SETTLING
