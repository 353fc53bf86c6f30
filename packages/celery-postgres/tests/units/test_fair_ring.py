"""Turns of the keys of a fair queue, beside a model of the queue."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from celery_postgres.consumer import fair_ring
from celery_postgres.consumer.fair_ring import FairRing, Taken
from celery_postgres.database.flow import Closed, ReadyKey, Turn


class Server:
    """What the database does with a claim: messages by key and priority, and limits."""

    def __init__(self, limits: dict[int, int] | None = None, weights: dict[int, int] | None = None) -> None:
        self.ids = count(1)
        self.ready: dict[tuple[int, int], list[int]] = {}
        self.running: Counter[int] = Counter()
        self.limits = limits or {}
        self.weights = weights or {}

    def publish(self, key: int, priority: int = 0, messages: int = 1) -> None:
        self.ready.setdefault((key, priority), []).extend(next(self.ids) for _ in range(messages))

    def keys(self, limit: int = 500) -> list[ReadyKey]:
        waiting = sorted((key, -priority) for (key, priority), ids in self.ready.items() if ids)
        return [ReadyKey(key, -low, self.ready[key, -low][0], self.weights.get(key, 1)) for key, low in waiting[:limit]]

    def claim(self, turns: list[Turn], places: int) -> tuple[list[tuple[int, int, int]], dict[int, Closed]]:
        """The messages (key, priority, id), and whose limit allowed less than the share."""
        brought: list[tuple[int, int, int]] = []
        closed: dict[int, Closed] = {}
        for turn in turns:
            share = turn.share
            if turn.key in self.limits:
                room = max(0, self.limits[turn.key] - self.running[turn.key])
                if room < share:
                    share, closed[turn.key] = room, Closed(room, None)
            ids = self.ready.get((turn.key, turn.priority), [])
            chosen = [one for one in ids if one >= turn.lowest_id][: min(share, places - len(brought))]
            for one in chosen:
                ids.remove(one)
                self.running[turn.key] += 1
                brought.append((turn.key, turn.priority, one))
        return brought, closed


def claim(ring: FairRing, server: Server, places: int) -> list[tuple[int, int, int]]:
    turns = ring.turns(places)
    brought, closed = server.claim(turns, places)
    counts = Counter(key for key, _, _ in brought)
    taken = {key: Taken(counts[key], max(one for of, _, one in brought if of == key)) for key in counts}
    ring.took(turns, taken, closed, full=len(brought) == places)
    return brought


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(fair_ring, "time", clock)
    return clock


def test_keys_take_turns() -> None:
    ring, server = FairRing(), Server()
    server.publish(1, messages=1000)
    server.publish(2, messages=3)
    ring.found(server.keys())
    assert [key for key, _, _ in claim(ring, server, 4)] == [1, 1, 2, 2]
    assert [key for key, _, _ in claim(ring, server, 4)] == [1, 1, 2]
    assert [key for key, _, _ in claim(ring, server, 4)] == [1] * 4


def test_what_a_claim_has_no_place_for_is_owed() -> None:
    ring, server = FairRing(), Server(weights={1: 5})
    for key in (1, 2, 3):
        server.publish(key, messages=100)
    ring.found(server.keys())
    brought = Counter(key for _ in range(7 * 7) for key, _, _ in claim(ring, server, 1))
    assert brought == {1: 35, 2: 7, 3: 7}


def test_a_priority_orders_the_messages_of_a_key_alone() -> None:
    ring, server = FairRing(), Server()
    server.publish(1, priority=0)
    server.publish(1, priority=9, messages=2)
    server.publish(2, priority=0)
    ring.found(server.keys())
    brought = [one[:2] for _ in range(10) for one in claim(ring, server, 1)]
    assert brought == [(1, 9), (2, 0), (1, 9), (1, 0)]


def test_a_quiet_key_waits_for_one_revolution() -> None:
    ring, server = FairRing(), Server()
    server.publish(0, messages=990)
    for key in range(1, 100):
        server.publish(key)
    ring.found(server.keys())
    brought = [key for _ in range(2) for key, _, _ in claim(ring, server, 64)]
    assert set(brought) == set(range(100))


def full_ring(keys: int = 100, messages: int = 100) -> tuple[FairRing, Server]:
    ring, server = FairRing(), Server()
    for key in range(keys):
        server.publish(key, messages=messages)
    ring.found(server.keys())
    return ring, server


def test_keys_give_more_to_a_claim_with_many_places() -> None:
    """Each key that is asked costs, so fewer are asked where they have much."""
    ring, server = full_ring()
    for _ in range(20):
        asked = ring.turns(64)
        assert len(claim(ring, server, 64)) == 64
    assert len(asked) <= 64 // FairRing.QUANTUM + 1


def test_a_claim_with_few_places_takes_one_of_each_key() -> None:
    ring, server = full_ring()
    for _ in range(20):
        assert len({key for key, _, _ in claim(ring, server, FairRing.FEWEST)}) == FairRing.FEWEST


@pytest.mark.parametrize("in_order", [False, True])
def test_a_claim_stays_full_where_most_keys_give_one(*, in_order: bool) -> None:
    """As many are asked as it has places."""
    ring, server = full_ring(keys=300, messages=1)
    server.publish(300, messages=1000)
    known = server.keys()
    ring.found(replace(one, in_order=in_order and one.key < 300) for one in known)
    brought = [len(claim(ring, server, 64)) for _ in range(4)]
    assert min(brought) >= 60


def test_a_key_that_comes_now_comes_before_those_that_wait() -> None:
    ring, server = full_ring()
    for key in (1001, 1002, 1003):
        server.publish(key)
        ring.came(ReadyKey(key, 0, server.ready[key, 0][0]))
    assert [key for key, _, _ in claim(ring, server, 6)] == [1001, 0, 1002, 1, 1003, 2]


def test_a_key_that_comes_again_and_again_waits_for_its_turn() -> None:
    ring, server = full_ring()
    got: Counter[int] = Counter()
    for _ in range(100):
        server.publish(1001)
        ring.came(ReadyKey(1001, 0, server.ready[1001, 0][0]))
        got.update(key for key, _, _ in claim(ring, server, 10))
    assert got[1001] <= 12
    assert min(got[key] for key in range(100)) >= 9


def test_keys_that_come_now_leave_places_for_those_that_wait() -> None:
    """As many as a claim has places come with each: half of the places are left, and the ring grows."""
    ring, server = full_ring()
    got: Counter[int] = Counter()
    for key in range(1000, 1200):
        for new in range(10):
            server.publish(key * 100 + new)
            ring.came(ReadyKey(key * 100 + new, 0, server.ready[key * 100 + new, 0][0]))
        got.update(key for key, _, _ in claim(ring, server, 10))
    assert min(got[key] for key in range(100)) >= 3


def test_a_closed_key_is_asked_again_after_a_second_or_an_ack(clock: Clock) -> None:
    ring, server = FairRing(), Server(limits={1: 2})
    server.publish(1, messages=5)
    ring.found(server.keys())
    assert len(claim(ring, server, 10)) == 2
    ring.found(server.keys())
    assert not ring
    assert ring.opens_at == clock.now + FairRing.PARKED_S
    server.running[1] -= 1
    ring.acknowledged(1)
    assert len(claim(ring, server, 10)) == 1
    server.running[1] -= 1
    assert not ring
    clock.now += FairRing.PARKED_S
    assert ring
    assert len(claim(ring, server, 10)) == 1


def test_a_throttled_key_opens_when_the_database_has_said_so(clock: Clock) -> None:
    ring = FairRing()
    ring.found([ReadyKey(1, 0, 1)])
    ring.took(ring.turns(5), {1: Taken(1, 1)}, {1: Closed(1, 0.6)}, full=False)
    assert not ring
    assert ring.opens_at == clock.now + 0.6
    clock.now += 0.6
    assert ring.turns(1) == [Turn(1, 0, 2, 1)]


def test_many_closed_keys_are_asked_less_often(clock: Clock) -> None:
    ring = FairRing()
    keys = [ReadyKey(key, 0, 1) for key in range(2000)]
    ring.found(keys)
    while ring:
        turns = ring.turns(64)
        ring.took(turns, {}, {one.key: Closed(0, None) for one in turns}, full=False)
    clock.now += 4 * FairRing.PARKED_S
    assert len(ring.turns(64)) == 64


@given(st.lists(st.integers(1, 50), min_size=1, max_size=80), st.integers(1, 100))
def test_backlogged_keys_get_the_same(backlog: list[int], places: int) -> None:
    """While keys have messages, none is a whole turn behind another."""
    ring, server = FairRing(), Server()
    for key, messages in enumerate(backlog):
        server.publish(key, messages=messages)
    ring.found(server.keys())
    got: Counter[int] = Counter()
    turn = 0
    while any(server.ready.values()):
        turn = max([turn, *(one.share for one in ring.turns(places))])
        brought = claim(ring, server, places)
        got.update(key for key, _, _ in brought)
        waiting = [got[key] for (key, _), ids in server.ready.items() if ids]
        if waiting:
            assert max(waiting) - min(waiting) <= 2 * turn


class Ring(RuleBasedStateMachine):
    """Whatever happens: no message is passed over, none is claimed twice, no limit is exceeded."""

    @initialize(
        limits=st.dictionaries(st.integers(0, 4), st.integers(0, 3)),
        weights=st.dictionaries(st.integers(0, 4), st.integers(1, 5)),
    )
    def begin(self, limits: dict[int, int], weights: dict[int, int]) -> None:
        self.ring, self.server = FairRing(), Server(limits, weights)
        self.claimed: list[tuple[int, int, int]] = []
        self.seen: set[int] = set()

    @rule(key=st.integers(0, 9), priority=st.sampled_from([0, 3, 9]), messages=st.integers(1, 20))
    def publish(self, key: int, priority: int, messages: int) -> None:
        self.server.publish(key, priority, messages)

    @rule()
    def discover(self) -> None:
        self.ring.found(self.server.keys())

    @rule(key=st.integers(0, 9), priority=st.sampled_from([0, 3, 9]))
    def come(self, key: int, priority: int) -> None:
        self.server.publish(key, priority)
        newest = self.server.ready[key, priority][-1]
        self.ring.came(ReadyKey(key, priority, newest, self.server.weights.get(key, 1)))

    @rule(places=st.integers(1, 12) | st.sampled_from([32, 64, 200]))
    def claim(self, places: int) -> None:
        for one in claim(self.ring, self.server, places):
            assert one[2] not in self.seen
            self.seen.add(one[2])
            self.claimed.append(one)

    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        if self.claimed:
            key, _, _ = self.claimed.pop(data.draw(st.integers(0, len(self.claimed) - 1)))
            self.server.running[key] -= 1
            self.ring.acknowledged(key)

    @invariant()
    def no_limit_is_exceeded(self) -> None:
        server = getattr(self, "server", None)
        assert server is None or all(server.running[key] <= limit for key, limit in server.limits.items())

    def teardown(self) -> None:
        if not hasattr(self, "ring"):
            return
        self.discover()
        while self.ring:
            self.claim(7)
        for (key, _), ids in self.server.ready.items():
            assert not ids or self.server.running[key] == self.server.limits[key]


TestRing = Ring.TestCase
