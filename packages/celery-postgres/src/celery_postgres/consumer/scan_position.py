"""Where the scan of a claim begins.

While a long transaction is open, dead index entries cannot be removed, and a claim that starts at the lowest id reads
all of them again: 9,000 messages/s fall to 1,000 within 30 s. A claim that starts where ready messages can still be
stays at 23,000.
"""

from __future__ import annotations

import time
from collections import deque

from celery_postgres.database.message_store import PRIORITIES


class ScanPosition:
    """The lowest id that a ready message of one queue can have, for each priority.

    Publishers draw ids before they commit: with eight publishers 4.2 % of the rows become visible below an id that was
    already claimed. So the position never passes an id first seen less than `TRAIL_S` ago, and a full scan, which is
    due every `FULL_SCAN_S`, finds the messages of publishers that commit later than that.
    """

    TRAIL_S = 2.0
    FULL_SCAN_S = 4.0

    def __init__(self) -> None:
        self._lowest: dict[int, int] = {}
        self._claimed: dict[int, deque[tuple[float, int]]] = {}
        self._full_scan = 0.0

    def lowest_ids(self, *, full_scan: bool) -> list[int]:
        """The ids from which to scan, in the order of `PRIORITIES`."""
        if full_scan:
            self._full_scan = time.monotonic()
            return [0] * len(PRIORITIES)
        limit = time.monotonic() - self.TRAIL_S
        for priority, claimed in self._claimed.items():
            while claimed and claimed[0][0] <= limit:
                self._lowest[priority] = max(self._lowest.get(priority, 0), claimed.popleft()[1])
        return [self._lowest.get(priority, 0) for priority in PRIORITIES]

    @property
    def full_scan_due(self) -> bool:
        return time.monotonic() - self._full_scan > self.FULL_SCAN_S

    def claimed(self, priority: int, highest: int) -> None:
        """A claim has brought ready messages of this priority up to this id."""
        claimed = self._claimed.setdefault(priority, deque())
        if not claimed or highest > claimed[-1][1]:
            claimed.append((time.monotonic(), highest))
