"""Where the scan of a claim begins.

While a long transaction is open, dead index entries cannot be removed, and a claim that starts at the lowest id reads
all of them again: 9,000 messages/s fall to 1,000 within 30 s. A claim that starts where ready messages can still be
stays at 20,000.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf

from celery_postgres.consumer.ended_transactions import EndedTransactions
from celery_postgres.database.message_store import PRIORITIES, ClaimedMessage


@dataclass(slots=True)
class _Lane:
    """One priority of a queue.

    Attributes:
        lowest: the scan begins here.
        resumed: it begins here instead, below `lowest`: the last full scan has not read all between the two.
        newest: when the latest claim brought a higher id than all before, and that id.
        seen: the same of earlier claims, and `EndedTransactions.next_id` of the claim after each. A snapshot does not
            list the transactions that began after the latest that has ended. That of the next claim does, because the
            claim that brought the id has ended, and has a number itself.
    """

    lowest: int = 0
    resumed: int | None = None
    newest: tuple[float, int] | None = None
    seen: deque[tuple[float, int, int]] = field(default_factory=deque)

    def note(self, next_id: int) -> None:
        """The claim after the one that brought `newest` has begun."""
        if self.newest is not None:
            self.seen.append((*self.newest, next_id))
            self.newest = None


class ScanPosition:
    """The lowest id that a ready message of one queue can have, for each priority.

    Publishers draw ids before they commit: with eight publishers 4.2 % of the rows become visible below an id that was
    already claimed. So the position passes an id only when a later claim has read past it, and when that claim began,
    all transactions had ended that ran when the id was first seen, except long ones. `PASS_S` have to be over as well:
    a publisher has an id for a moment before its transaction has a number.

    A full scan, which is due every `FULL_SCAN_S`, finds what is left below: the messages of transactions that ran for
    longer, and those whose rows somebody had locked for a moment.
    """

    PASS_S = 0.2
    FULL_SCAN_S = 4.0

    def __init__(self) -> None:
        self._lanes: dict[int, _Lane] = {}
        self._full_scan = 0.0

    def lowest_ids(self, *, full_scan: bool) -> list[int]:
        """The ids from which to scan, in the order of `PRIORITIES`."""
        if full_scan:
            self._full_scan = time.monotonic()
        lowest = [0] * len(PRIORITIES)
        for priority, lane in self._lanes.items():
            if full_scan:
                lane.resumed = 0
            lowest[PRIORITIES.index(priority)] = lane.lowest if lane.resumed is None else lane.resumed
        return lowest

    @property
    def full_scan_due(self) -> bool:
        return time.monotonic() - self._full_scan > self.FULL_SCAN_S

    def claimed(
        self,
        messages: Iterable[ClaimedMessage],
        ended: EndedTransactions,
        *,
        begun: float,
        all_of_them: bool,
        in_order: bool,
    ) -> None:
        """A claim has brought these messages of the queue.

        Args:
            ended: knows the claim's snapshot.
            begun: when the claim began, by the monotonic clock.
            all_of_them: the claim has left no ready message of the queue.
            in_order: what it has not brought, it has not read. Otherwise scheduled messages, or one that has failed
                before, may have taken the place of ready ones.
        """
        highest: dict[int, int] = {}
        for one in messages:
            if one.available_at is None:  # a scheduled message says nothing about the ids of ready ones
                highest[one.priority] = max(highest.get(one.priority, 0), one.id)
        # A claim takes the messages of a priority in the order of their ids, and before those of a lower one.
        last = min(highest, default=PRIORITIES[0])
        for priority, lane in self._lanes.items():
            lane.note(ended.next_id)
            if all_of_them or priority > last:
                self._read(lane, inf, begun, ended)
            elif priority in highest:
                self._read(lane, highest[priority], begun, ended)
            elif not in_order:
                self._perhaps_read(lane, begun)
        for priority, message in highest.items():
            lane = self._lanes.setdefault(priority, _Lane())
            if message > (lane.seen[-1][1] if lane.seen else lane.lowest):
                lane.newest = time.monotonic(), message

    def _read(self, lane: _Lane, to: float, begun: float, ended: EndedTransactions) -> None:
        """All ready messages up to this id are claimed."""
        if lane.resumed is not None:
            lane.resumed = None if to >= lane.lowest else int(to)
        while lane.seen:
            at, message, next_id = lane.seen[0]
            if message > to or at > begun - self.PASS_S or next_id > ended.below:
                return
            lane.lowest = lane.seen.popleft()[1]

    def _perhaps_read(self, lane: _Lane, begun: float) -> None:
        """Whether the lane was read is not known. It may have been, with all its dead entries: do not do that again."""
        lane.resumed = None
        while lane.seen and lane.seen[0][0] <= begun - self.FULL_SCAN_S:
            lane.lowest = lane.seen.popleft()[1]
