"""Whose turn it is among the keys of a fair queue.

Deficit round robin: in a turn a key may give as many messages as its weight, or a few times that, or more where few
keys are there, so that no place stays empty. What a claim had no place for is owed to the key, which keeps its place in
the ring.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

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

    def share(self, rounds: int) -> int:
        """The most that it may give in its turn."""
        return self.owed or self.weight * rounds

    def turn(self, key: int, rounds: int, since: float) -> Turn:
        if self.in_order:
            # From the beginning: a retry keeps its place, before what was claimed since. One more than it may give, so
            # that it is closed until that one is acknowledged.
            return Turn(key, self.priority, 0, 2, in_order=True, since=since)
        return Turn(key, self.priority, self.first[self.priority], self.share(rounds), since=since)


class FairRing:
    """The keys of a queue, in the order of their turns."""

    #: Keys in one claim. Each costs the server and the consumer some 10 us beside its messages, with a limit 15.
    LANES = 64
    #: In a claim of `FEWEST` times so many places or more, a key may give so many messages for one of its weight.
    QUANTUM = 4
    #: For so many keys a claim has places, as long as it has any, before one may give a second message. So a key has no
    #: more than a sixteenth of what a consumer claims ahead, which is 50 ms of its work.
    FEWEST = 16
    #: How much the latest claim counts in the average of what keys gave of their shares.
    LATEST = 0.25
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
        #: By key and priority, where the scan began when the key left the ring, and which turn that was; of the latest.
        self._left: dict[tuple[int, int], tuple[int, float]] = {}
        self._open: dict[int, _Lane] = {}
        #: Those of them that have come now, and have had no turn in the latest revolution.
        self._first: dict[int, None] = {}
        #: How many turns there were.
        self._turns = 0
        #: What keys give of their shares, on average. Where most have little, more of them are asked.
        self._given = 1 / self.QUANTUM
        self._closed: dict[int, _Lane] = {}
        self._openings: list[tuple[float, int]] = []
        #: By key, the time from which on what runs of it was claimed: before that, there are dead rows alone to count.
        self._since: dict[int, float] = {}
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

    def found(self, keys: Iterable[ReadyKey]) -> bool:
        """These keys have ready messages, none below their first id that is not known already. New keys come last.

        Returns:
            Whether one of them was not known.
        """
        any_new = False
        for one in keys:
            lane = self._open.get(one.key) or self._closed.get(one.key)
            if lane is None:
                any_new = True
                lane = self._open[one.key] = _Lane(one.weight)
            lane.weight, lane.in_order = one.weight, lane.in_order or one.in_order
            lane.first[one.priority] = min(one.first_id, lane.first.get(one.priority, one.first_id))
        return any_new

    def came(self, one: ReadyKey) -> None:
        """A message of this key came; there may be older ones, unless the key was known before."""
        lane = self._open.get(one.key) or self._closed.get(one.key)
        known, left = self._left.get((one.key, one.priority), (0, -math.inf))
        if lane is None and self._turns - left >= len(self._open):
            self._first[one.key] = None
        if lane is None or one.priority not in lane.first:
            one = replace(one, first_id=min(known, one.first_id))
        self.found([one])

    def turns(self, places: int) -> list[Turn]:
        """Who comes next, for a claim of so many messages. The shares together may be more than that."""
        self._open_due()
        quantum = max(1, min(self.QUANTUM, places // self.FEWEST))
        chosen: dict[int, _Lane] = {}
        weights, expected = 0, 0.0
        for key in self._in_turn():
            if len(chosen) == self.LANES or expected >= places:
                break
            if key not in chosen:
                lane = chosen[key] = self._open[key]
                weights += lane.owed or lane.weight
                share = lane.share(quantum)
                expected += 1 if lane.in_order or quantum == 1 else max(1, share * self._given)
        rounds = max(quantum, -(-places // weights)) if weights else 0
        return [lane.turn(key, rounds, self._since.get(key, 0.0)) for key, lane in chosen.items()]

    def _in_turn(self) -> Iterator[int]:
        """The keys of the ring in their order. Every second is one that has come now, as long as there is one."""
        first = iter(self._first)
        for key in self._open:
            yield from islice(first, 1)
            yield key

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
        shares = given = 0
        for at, turn in enumerate(turns):
            lane = self._open[turn.key]
            brought = taken.get(turn.key)
            count = 0 if brought is None else brought.count
            if brought is not None:
                lane.first[turn.priority] = brought.highest_id + 1
            limit = closed.get(turn.key)
            if full and at >= last and count < turn.share:
                if count:
                    lane.owed = turn.share - count
                continue
            shares, given = shares + turn.share, given + count
            if limit is not None and count >= limit.places:
                self._close(turn.key, lane, limit.opens_in_s)
            else:
                if count < turn.share:
                    self._leave(turn.key, turn.priority, lane)  # others hold the rest, if there is any
                self._to_the_end(turn.key, lane)
        if shares:
            self._given += self.LATEST * (given / shares - self._given)

    def runs_since(self, times: Mapping[int, float]) -> None:
        """What runs of these keys was claimed from these times of the database on."""
        for key, since in times.items():
            self._since.pop(key, None)
            self._since[key] = since
        while len(self._since) > self.MOST:
            del self._since[next(iter(self._since))]

    def forget_since(self) -> None:
        """Those times may be of a server whose clock was ahead: count all that runs once more."""
        self._since.clear()

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
        self._take_out(key)
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
        self._take_out(key)
        if lane.first:
            self._open[key] = lane

    def _take_out(self, key: int) -> None:
        """Its turn has ended."""
        del self._open[key]
        self._first.pop(key, None)
        self._turns += 1

    def _leave(self, key: int, priority: int, lane: _Lane) -> None:
        self._left.pop((key, priority), None)
        self._left[key, priority] = (lane.first.pop(priority), self._turns)
        if len(self._left) > self.MOST:
            del self._left[next(iter(self._left))]
