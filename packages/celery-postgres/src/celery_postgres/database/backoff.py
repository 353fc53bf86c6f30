"""Uneven pauses, and how long to pause between two attempts at something that fails."""

from __future__ import annotations

import random
import time

from celery_postgres.database.per_process import PerProcess

#: Not Python's own generator: our threads must not disturb the sequence of a program that has seeded it.
_random = PerProcess(random.Random)


def uniform(lowest: float, highest: float) -> float:
    """`random.uniform`, so that many processes do not act at the same moment."""
    return _random.value.uniform(lowest, highest)


class Backoff:
    """The pauses between attempts: doubling from `first_s` to `longest_s`, and uneven, so that a hundred processes do
    not return to a server at the same moment.

    A pause ends when its time is over. Other events (a queue, a descriptor, more work) do not remove the cause, so a
    thread that waits for them too goes on waiting while time is `left`, unless it is to stop.

    Attributes:
        failing: whether the latest attempt failed.
    """

    FIRST_S, LONGEST_S = 0.05, 2.0

    def __init__(self, first_s: float = FIRST_S, longest_s: float = LONGEST_S) -> None:
        self._first_s, self._longest_s = first_s, longest_s
        self._pause_s = first_s
        self._until = 0.0
        self.failing = False

    def failed(self) -> float:
        """Note a failure; returns the seconds until the next attempt."""
        now = time.monotonic()
        if now - self._until > self._longest_s:
            # Only then: a server that accepts connections and ends each of them does not work again.
            self._pause_s = self._first_s
        pause = self._pause_s * uniform(0.75, 1)
        self._pause_s = min(self._pause_s * 2, self._longest_s)
        self._until = now + pause
        self.failing = True
        return pause

    def succeeded(self) -> None:
        """Note a success. The next failure pauses from `first_s` on, unless it comes within `longest_s`."""
        self.failing = False

    @property
    def left(self) -> float:
        """The seconds until the next attempt; 0 if it may be made now."""
        return max(0.0, self._until - time.monotonic()) if self.failing else 0.0
