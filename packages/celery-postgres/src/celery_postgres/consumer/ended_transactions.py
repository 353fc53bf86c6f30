"""Which transactions have ended, by the snapshots of successive claims."""

from __future__ import annotations

import time
from collections import deque

from celery_postgres.database.snapshot import Snapshot


class EndedTransactions:
    """All below a number, except those that have run for longer than `LONG_S`, or `long_s`.

    Long ones are not waited for: one that an application has forgotten would hold the scan position back for hours, as
    it holds vacuum back.

    Attributes:
        below: every transaction with a lower number has ended or is long.
        next_id: of the latest claim's snapshot.
        long_ended: a long transaction has ended since the last full scan, and may have published below the position.
    """

    LONG_S = 2.0
    #: Seconds between two notes of how far the numbers were, at most.
    _STEP_S = 0.1

    def __init__(self, long_s: float = LONG_S) -> None:
        self._long_s, self._step_s = long_s, min(self._STEP_S, long_s / 2)
        self.below = self.next_id = 0
        self.long_ended = False
        #: Transactions with a lower number are long, if they still run.
        self._long_below = 0
        self._long: set[int] = set()
        self._noted: deque[tuple[float, int]] = deque()

    def note(self, snapshot: Snapshot, begun: float, *, full_scan: bool = False) -> None:
        """Note the snapshot of a claim.

        Args:
            snapshot: of the claim.
            begun: when the claim began, by the monotonic clock.
            full_scan: the claim was one.
        """
        now = time.monotonic()
        self.next_id = snapshot.next_id
        if not self._noted or self._noted[-1][0] <= now - self._step_s:
            self._noted.append((now, snapshot.next_id))
        while self._noted[0][0] <= begun - self._long_s:
            self._long_below = self._noted.popleft()[1]
        self.below = min((one for one in snapshot.running if one >= self._long_below), default=snapshot.next_id)
        self.long_ended = not full_scan and (self.long_ended or not self._long.issubset(snapshot.running))
        self._long = {one for one in snapshot.running if one < self._long_below}
