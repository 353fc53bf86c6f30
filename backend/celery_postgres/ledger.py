"""Acknowledgements that wait for their round trip."""

from __future__ import annotations

import threading
import time


class Ledger:
    """Filled by whichever thread ends a task, emptied by the next claim or by the attendant."""

    #: An ack that nobody took along for so long goes out alone: below it, a kill -9 repeats what just ended.
    FLUSH_AFTER_S = 0.005

    def __init__(self) -> None:
        self._lock = threading.RLock()  # QUIT ends tasks in its signal handler
        self._acks: list[tuple[int, int]] = []
        self._sent: set[tuple[int, int]] = set()
        self._oldest = 0.0

    def __len__(self) -> int:
        return len(self._acks)

    def add(self, message: int, fence: int) -> bool:
        """Note an ack; whether it is the first of a new batch."""
        with self._lock:
            first = not self._acks
            if first:
                self._oldest = time.monotonic()
            self._acks.append((message, fence))
            return first

    def age(self) -> float:
        """Seconds since the oldest was noted; 0 if there is none."""
        return time.monotonic() - self._oldest if self._acks else 0.0

    def take(self) -> list[tuple[int, int]]:
        """All of them, by id: whoever deletes in one order never deadlocks. The caller says then that they were
        `delivered`, or puts them back."""
        with self._lock:
            acks, self._acks = self._acks, []
            self._sent.update(acks)
        acks.sort()
        return acks

    def delivered(self, acks: list[tuple[int, int]]) -> None:
        self._sent.difference_update(acks)

    def put_back(self, acks: list[tuple[int, int]]) -> None:
        if acks:
            with self._lock:
                self._sent.difference_update(acks)
                if not self._acks:
                    self._oldest = time.monotonic()
                self._acks[:0] = acks

    def known(self) -> set[tuple[int, int]]:
        """Every ack that is not certain to have arrived."""
        with self._lock:
            return self._sent | set(self._acks)
