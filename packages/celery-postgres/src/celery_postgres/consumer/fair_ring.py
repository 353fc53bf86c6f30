"""Whose turn it is among the keys of a fair queue.

Deficit round robin: in a turn a key may give as many messages as its weight, or more where few keys are there, so that
no place stays empty. What a claim had no place for is owed to the key, which keeps its place in the ring.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from celery_postgres.database.flow import Closed, ReadyKey, Turn


@dataclass(frozen=True, slots=True)
class Taken:
    """What a claim has brought of a key: how many messages, and the highest id."""

    count: int
    highest_id: int


@dataclass(slots=True)
class _Lane:
    """A key that has, or may have, ready messages.

    Attributes:
        first: by priority, where the scan begins.
        owed: what the latest claim had no place for.
        opens: until when its limit has closed it; None if it is in the ring.
        in_order: its messages run one after another.
    """

    weight: int
    first: dict[int, int] = field(default_factory=dict)
    owed: int = 0
    opens: float | None = None
    in_order: bool = False

    @property
    def priority(self) -> int:
        return max(self.first)

    def turn(self, key: int, rounds: int) -> Turn:
        if self.in_order:
            # From the beginning: a retry keeps its place, before what was claimed since. One more than it may give, so
            # that it is closed until that one is acknowledged.
            return Turn(key, self.priority, 0, 2, in_order=True)
        return Turn(key, self.priority, self.first[self.priority], self.owed or self.weight * rounds)


class FairRing:
    """The keys of a queue, in the order of their turns."""

    #: Keys in one claim. Each costs the server 10 to 20 us beside its messages.
    LANES = 64
    #: A key that is closed is asked again after so long at the latest: another consumer may have acknowledged, and an
    #: operator may have changed the limit.
    PARKED_S = 1.0
    #: With more closed keys each of them is asked less often: to ask one costs the server some 30 us.
    PARKED = 500
    #: Keys that are asked again without knowing that they are open are asked together, so often in a second.
    OPENINGS = 32
    #: Keys in the ring from which on one that has had its turn leaves it. The next page of keys brings it back.
    MOST = 20_000

    def __init__(self) -> None:
        #: By key and priority, where the scan began when the key left the ring; of the latest ones.
        self._left: dict[tuple[int, int], int] = {}
        self._open: dict[int, _Lane] = {}
        self._closed: dict[int, _Lane] = {}
        self._openings: list[tuple[float, int]] = []
        #: Until when the limits of the whole queue have closed it.
        self._opens: float | None = None

    def __bool__(self) -> bool:
        """Whether a key may have its turn now."""
        if self._opens is not None:
            if time.monotonic() < self._opens:
                return False
            self._opens = None
        self._open_due()
        return bool(self._open)

    def __len__(self) -> int:
        return len(self._open) + len(self._closed)

    @property
    def any_closed(self) -> bool:
        """Whether a key waits for its limits, or all keys for those of the queue."""
        return bool(self._closed) or self._opens is not None

    def found(self, keys: Iterable[ReadyKey]) -> None:
        """These keys have ready messages, none below their first id that is not known already. New keys come last."""
        for one in keys:
            lane = self._open.get(one.key) or self._closed.get(one.key)
            if lane is None:
                lane = self._open[one.key] = _Lane(one.weight)
            lane.weight, lane.in_order = one.weight, lane.in_order or one.in_order
            lane.first[one.priority] = min(one.first_id, lane.first.get(one.priority, one.first_id))

    def came(self, one: ReadyKey) -> None:
        """A message of this key came; there may be older ones, unless the key was known before."""
        lane = self._open.get(one.key) or self._closed.get(one.key)
        if lane is None or one.priority not in lane.first:
            known = self._left.get((one.key, one.priority), 0)
            one = replace(one, first_id=min(known, one.first_id))
        self.found([one])

    def turns(self, places: int) -> list[Turn]:
        """Who comes next, for a claim of so many messages. The shares together may be more than that."""
        self._open_due()
        chosen: list[tuple[int, _Lane]] = []
        weights = 0
        for key, lane in self._open.items():
            if len(chosen) == self.LANES or weights >= places:
                break
            chosen.append((key, lane))
            weights += lane.owed or lane.weight
        rounds = max(1, -(-places // weights)) if weights else 0
        return [lane.turn(key, rounds) for key, lane in chosen]

    def took(
        self, turns: Sequence[Turn], taken: Mapping[int, Taken], closed: Mapping[int, Closed], *, full: bool
    ) -> None:
        """A claim has brought this, by key.

        Args:
            turns: what was asked for.
            taken: what was claimed.
            closed: which limits allowed less than the share.
            full: the claim had no place for more. Then the last of those who gave something, and those after it, may
                have more than they gave.
        """
        last = max((at for at, turn in enumerate(turns) if turn.key in taken), default=-1)
        for at, turn in enumerate(turns):
            lane = self._open[turn.key]
            given = taken.get(turn.key)
            count = 0 if given is None else given.count
            if given is not None:
                lane.first[turn.priority] = given.highest_id + 1
            limit = closed.get(turn.key)
            if full and at >= last and count < turn.share:
                lane.owed = turn.share - count
            elif limit is not None and count >= limit.places:
                self._close(turn.key, lane, limit.opens_in_s)
            else:
                if count < turn.share:
                    self._leave(turn.key, turn.priority, lane)  # others hold the rest, if there is any
                self._to_the_end(turn.key, lane)

    def acknowledged(self, key: int) -> None:
        """A message of this key was acknowledged: its limit, and that of the queue, may allow another."""
        self._opens = None
        lane = self._closed.get(key)
        if lane is not None:
            self._reopen(key, lane)

    def close(self, opens_in_s: float | None) -> None:
        """The limits of the whole queue allow no more, for so long or until an acknowledgement."""
        self._opens = time.monotonic() + (self.PARKED_S if opens_in_s is None else min(opens_in_s, self.PARKED_S))

    @property
    def opens_at(self) -> float | None:
        """When the queue, or the next closed key, is to be asked again, by the monotonic clock."""
        return self._next_opening() if self._opens is None else self._opens

    def _next_opening(self) -> float | None:
        while self._openings:
            at, key = self._openings[0]
            if key in self._closed and self._closed[key].opens == at:
                return at
            heapq.heappop(self._openings)
        return None

    def _open_due(self) -> None:
        now = time.monotonic()
        while (at := self._next_opening()) is not None and at <= now:
            key = heapq.heappop(self._openings)[1]
            self._reopen(key, self._closed[key])

    def _close(self, key: int, lane: _Lane, opens_in_s: float | None) -> None:
        del self._open[key]
        self._closed[key] = lane
        # Whole fractions of a second: so those for which this is a guess are asked together.
        most = time.monotonic() + self.PARKED_S * max(1.0, len(self._closed) / self.PARKED)
        most = math.ceil(most * self.OPENINGS) / self.OPENINGS
        lane.owed, lane.opens = 0, most if opens_in_s is None else min(time.monotonic() + opens_in_s, most)
        heapq.heappush(self._openings, (lane.opens, key))

    def _reopen(self, key: int, lane: _Lane) -> None:
        del self._closed[key]
        lane.opens = None
        self._open[key] = lane

    def _to_the_end(self, key: int, lane: _Lane) -> None:
        lane.owed = 0
        if len(self) >= self.MOST:
            for priority in list(lane.first):
                self._leave(key, priority, lane)
        del self._open[key]
        if lane.first:
            self._open[key] = lane

    def _leave(self, key: int, priority: int, lane: _Lane) -> None:
        self._left.pop((key, priority), None)
        self._left[key, priority] = lane.first.pop(priority)
        if len(self._left) > self.MOST:
            del self._left[next(iter(self._left))]
