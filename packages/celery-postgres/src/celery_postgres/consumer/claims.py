"""Claims and their acknowledgements."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict


class Early:
    """The latest acks of tasks that were acknowledged before they ran: these must not run again.

    A server that crashes forgets acks of its last 0.6 s, and often the claims as well, since nothing waits for the
    disk. Their messages are ready again, or claimed by a process that has ended them. What it has acked since its last
    sign of life, and `KEPT_S` before, it then acks again. A mark is what the publisher has put into the message: after
    a crash the same id may be another message's.
    """

    KEPT_S = 3.0
    MOST = 20_000

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._acked: OrderedDict[int, tuple[float, int, str]] = OrderedDict()

    def add(self, message: int, fence: int, mark: str) -> None:
        with self._lock:
            self._acked[message] = time.monotonic(), fence, mark
            if len(self._acked) > self.MOST:
                self._acked.popitem(last=False)

    def find(self, message: int) -> tuple[int, str] | None:
        """Its fence and mark, if it was acknowledged lately. Any thread may ask."""
        found = self._acked.get(message)
        return found and found[1:]

    def expire(self) -> None:
        """There was a sign of life: what is older than `KEPT_S` is certain."""
        limit = time.monotonic() - self.KEPT_S
        with self._lock:
            while self._acked and next(iter(self._acked.values()))[0] < limit:
                self._acked.popitem(last=False)

    def take(self) -> dict[int, tuple[int, str]]:
        """All of them: message → (fence, mark)."""
        with self._lock:
            acked, self._acked = self._acked, OrderedDict()
        return {message: (fence, mark) for message, (_, fence, mark) in acked.items()}


class Ledger:
    """Acknowledgements that wait for their round trip: noted by whichever thread ends a task, delivered with the next
    claim or by the attendant."""

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
