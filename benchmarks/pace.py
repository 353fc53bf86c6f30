"""How long a run takes: what each sample may take at most, and what is left."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median
from types import FrameType

#: Seconds of a sample of which nothing is known.
_UNKNOWN_S = 15.0
#: What passes between two samples: until the machine is calm.
_BETWEEN_S = 0.5
#: Seconds that a sample gets to stop what it has started.
_ENDING_S = 90.0

#: Where a process that begins again finds when its run must end.
_UNTIL = "BENCH_UNTIL"

#: (cell, variant)
Question = tuple[str, str]


class LateError(Exception):
    """A sample took longer than it may."""


def expected(question: Question, took_s: Mapping[Question, float]) -> float:
    """Return the seconds of a sample: what the last one took, else the median of its cell.

    Args:
        question: its cell and variant.
        took_s: of the samples that there are.
    """
    cell = [seconds for (name, _), seconds in took_s.items() if name == question[0]]
    return _BETWEEN_S + took_s.get(question, median(cell) if cell else _UNKNOWN_S)


def minutes(questions: Sequence[Question], took_s: Mapping[Question, float]) -> float:
    """Return how long these samples will take."""
    return sum(expected(question, took_s) for question in questions) / 60


@contextmanager
def deadline(seconds: float, give_up: Callable[[], None]) -> Iterator[None]:
    """Raise ``LateError`` in the block after so many seconds, which ends what waits in Python.

    A call in C that never returns, such as that of a driver whose server hangs, would not see it: then ``give_up`` is
    called, from another thread.  Only in the main thread; elsewhere the block has no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(number: int, frame: FrameType | None) -> None:
        raise LateError(f"it was not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, late)
    watchdog = threading.Timer(seconds + _ENDING_S, give_up)
    watchdog.daemon = True
    watchdog.start()
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        watchdog.cancel()


def begin_again(arguments: Sequence[str], end: float, started: Callable[[], set[int]]) -> None:
    """Kill what this process has started, and become the same command: it continues after the sample that hung.

    Args:
        arguments: of the command.
        end: what ``until`` has returned.
        started: returns the process ids of all that runs below this one.
    """
    os.environ[_UNTIL] = str(end)
    for pid in started() - {os.getpid()}:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "benchmarks", *arguments])  # noqa: S606  no shell is wanted


def begun_again() -> bool:
    """Return whether this process continues a run that hung."""
    return _UNTIL in os.environ


def until(limit_minutes: float | None) -> float:
    """Return the monotonic time at which a run must have ended: the same after it has begun again."""
    limit = float("inf") if limit_minutes is None else time.monotonic() + limit_minutes * 60
    return float(os.environ.get(_UNTIL, limit))
