"""The fair queues of a connection: which keys it looks for, and when."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from celery_postgres.consumer import ended_transactions, fair_ring, fairness
from celery_postgres.consumer.claim_policy import ClaimPolicy
from celery_postgres.consumer.claiming import send
from celery_postgres.consumer.claims import Claims
from celery_postgres.consumer.fairness import Fairness
from celery_postgres.database import driver
from celery_postgres.database.fair_store import Look
from celery_postgres.database.flow import Closed, ReadyKey, Turn, Turns
from celery_postgres.database.message_store import ClaimedMessage, ClaimResult, MessageStore
from celery_postgres.database.snapshot import Snapshot

QUEUE = 1


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Store:
    """Keys with the ids of their messages."""

    KEYS = 3

    def __init__(self) -> None:
        self.ids: dict[int, list[int]] = {}
        self.asked: list[str] = []

    def look(self, queues: Sequence[int], above: int) -> Look:
        self.asked.append("look")
        found = {key: [one for one in ids if one > above] for key, ids in self.ids.items()}
        greatest = max([above, *(one for ids in found.values() for one in ids)])
        return Look(greatest, came=[(QUEUE, ReadyKey(key, 0, min(ids))) for key, ids in found.items() if ids])

    def ready_keys(self, queue: int, after: tuple[int, int] = fairness.BEGINNING) -> list[ReadyKey]:
        self.asked.append("ready_keys")
        keys = sorted(key for key, ids in self.ids.items() if ids and (key, 9) > after)
        return [ReadyKey(key, 0, min(self.ids[key])) for key in keys[: self.KEYS]]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(fair_ring, "time", clock)
    monkeypatch.setattr(fairness, "time", clock)
    monkeypatch.setattr(ended_transactions, "time", clock)
    return clock


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def turns(clock: Clock, store: Store) -> Fairness:
    return Fairness(store, lambda claim: False)  # type: ignore[arg-type]


def brought(
    *messages: tuple[int, int], failed: bool = False, keyed_wait: bool = False, snapshot: str = "1:1:", **closed: int
) -> ClaimResult:
    """Of a claim: messages by key and id, and the keys that are closed."""
    made = [ClaimedMessage(one, QUEUE, 2, 0, int(failed), None, None, False, key, "") for key, one in messages]
    limits = {int(key.removeprefix("key_")): Closed(places, None) for key, places in closed.items()}
    return ClaimResult(made, None, failed, Snapshot.parse(snapshot), limits, keyed_wait)


def next_turns(turns: Fairness, places: int = 10, snapshot: str = "1:1:") -> list[Turn]:
    """Whose turn it is, apart from what is claimed from everything else."""
    for _ in range(4):
        found = turns.turns([QUEUE], places)
        if found is not None and found.turns:
            return list(found.turns)
        turns.claimed(found, places, brought(snapshot=snapshot))
    return []


def test_a_key_that_is_new_here_begins_with_its_oldest_message(turns: Fairness, store: Store) -> None:
    """The newest ids are seen first, and a page has not come to the key yet."""
    store.ids = {1: [1], 2: [2], 3: [3], 4: [4, 50]}
    found = {turn.key: turn.lowest_id for turn in next_turns(turns)}
    assert found[4] <= 4


def test_a_key_that_was_known_is_not_read_from_its_beginning(turns: Fairness, store: Store, clock: Clock) -> None:
    store.ids = {1: [7]}
    asked = next_turns(turns)
    turns.claimed(Turns(QUEUE, asked), 10, brought((1, 7)))
    store.ids = {1: [60]}
    clock.now += 1
    turns.look()
    assert [turn.lowest_id for turn in next_turns(turns)] == [8]


def test_a_new_key_is_found_while_another_is_closed(turns: Fairness, store: Store) -> None:
    """Its message was committed between the look and the claim from which on publishers notify."""
    store.ids = {1: [1]}
    asked = next_turns(turns)
    turns.claimed(Turns(QUEUE, asked), 10, brought(key_1=0))
    assert next_turns(turns) == []
    store.ids[2] = [2]
    turns.claimed(None, 10, brought(keyed_wait=True))
    assert turns.looks_now
    assert [turn.key for turn in next_turns(turns)] == [2]
    assert not turns.looks_now


def test_closed_keys_are_looked_at_once(turns: Fairness, store: Store) -> None:
    store.ids = {1: [1]}
    turns.claimed(Turns(QUEUE, next_turns(turns)), 10, brought(key_1=0))
    turns.claimed(None, 10, brought(keyed_wait=True))
    assert next_turns(turns) == []
    asked = len(store.asked)
    assert not turns.looks_now
    assert next_turns(turns) == []
    assert len(store.asked) == asked


def test_all_keys_are_read_while_those_that_are_known_are_closed(turns: Fairness, store: Store, clock: Clock) -> None:
    store.ids = {key: [key] for key in range(1, 12)}
    seen: set[int] = set()
    store.look = lambda queues, above: Look(100)  # type: ignore[method-assign]
    for _ in range(40):
        asked = next_turns(turns)
        seen |= {turn.key for turn in asked}
        turns.claimed(Turns(QUEUE, asked), 10, brought(**{f"key_{turn.key}": 0 for turn in asked}))
        clock.now += turns.opens_in([QUEUE]) or 0.0
        if len(seen) == 11:
            return
    raise AssertionError(seen)


def test_a_message_that_failed_is_not_brought_twice_in_a_row(turns: Fairness, store: Store) -> None:
    """Else a key whose messages all fail would keep the others waiting."""
    store.ids = {1: [1]}
    allowed = []
    for _ in range(12):
        found = turns.turns([QUEUE], 10)
        turns.claimed(found, 10, brought((2, 9), failed=True) if found and found.failed else brought())
        if found and found.turns:
            allowed.append(found.failed)
            store.ids = {1: [1]}
            turns.look()
    assert {True, False} <= set(allowed)


def test_more_keys_than_are_kept_take_turns_too(
    turns: Fairness, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fairness, "MOST", 4)
    monkeypatch.setattr(fair_ring.FairRing, "MOST", 4)
    store.ids = {key: list(range(key, 5000, 20)) for key in range(20)}
    store.look = lambda queues, above: Look(100)  # type: ignore[method-assign]
    seen = set()
    for _ in range(60):
        asked = next_turns(turns, 2)
        taken = [(turn.key, turn.lowest_id) for turn in asked][:2]
        seen |= {key for key, _ in taken}
        turns.claimed(Turns(QUEUE, asked), 2, brought(*taken))
        clock.now += 0.3
    assert seen == set(range(20))


def test_all_keys_are_read_at_once_by_a_consumer_that_begins(turns: Fairness, store: Store) -> None:
    """Else the keys of the first page have all the turns until the next is due. Four whole pages are the end too."""
    store.ids = {key: list(range(key, 1200, 12)) for key in range(12)}
    store.look = lambda queues, above: Look(2000)  # type: ignore[method-assign]
    seen = set()
    for _ in range(12):
        asked = next_turns(turns, 3)
        seen |= {turn.key for turn in asked}
        turns.claimed(Turns(QUEUE, asked), 3, brought(*[(turn.key, turn.lowest_id) for turn in asked]))
    assert seen == set(range(12))
    pages = store.asked.count("ready_keys")
    next_turns(turns)
    next_turns(turns)
    assert store.asked.count("ready_keys") == pages


def claims(turns: Fairness, store: Store, clock: Clock, seconds: float, snapshot: str = "1:1:") -> int:
    """Claim each 50 ms for so long; returns how many pages that has read."""
    before = store.asked.count("ready_keys")
    for _ in range(round(seconds / 0.05)):
        asked = next_turns(turns, 3, snapshot)
        turns.claimed(Turns(QUEUE, asked), 3, brought(*[(one.key, one.lowest_id) for one in asked], snapshot=snapshot))
        clock.now += 0.05
    return store.asked.count("ready_keys") - before


def test_pages_come_less_often_while_no_key_can_have_been_missed(turns: Fairness, store: Store, clock: Clock) -> None:
    store.ids = {key: [key] for key in range(8)}
    store.look = lambda queues, above: Look(100)  # type: ignore[method-assign]
    claims(turns, store, clock, 5)
    assert claims(turns, store, clock, 10, "1:9:7") <= 10 / Fairness.PAGE_S / Fairness.CALM + 1
    # 7 ends, and may have published before the latest looks: all three pages are read again at their usual pace.
    assert claims(turns, store, clock, 2, "1:10:") >= 4


def test_all_keys_are_read_soon_after_another_consumer_has_left(turns: Fairness, store: Store, clock: Clock) -> None:
    """What it had claimed and not begun is ready again, with old ids."""
    store.ids = {key: [key] for key in range(8)}
    store.look = lambda queues, above: Look(100)  # type: ignore[method-assign]
    claims(turns, store, clock, 5)
    assert claims(turns, store, clock, 2) <= 2 / Fairness.PAGE_S / Fairness.CALM + 1
    turns.others_left(1)
    assert claims(turns, store, clock, 2) >= 4
    claims(turns, store, clock, 5)
    turns.others_left(1)
    assert claims(turns, store, clock, 2) <= 2 / Fairness.PAGE_S / Fairness.CALM + 1


class Lost:
    """Sessions whose server is gone."""

    def run(self, name: str, **_: Any) -> list[Any]:
        raise driver.OperationalError("server closed the connection unexpectedly")


def test_after_a_failed_claim_all_that_runs_is_counted(turns: Fairness, store: Store) -> None:
    """The next claim may reach a server that took over the work of the other, and whose clock is behind."""
    store.ids = {1: list(range(1, 31))}
    asked = Turns(QUEUE, next_turns(turns))
    messages = [(1, one) for one in range(1, 11)]
    turns.claimed(asked, 10, dataclasses.replace(brought(*messages), since={1: 5.0}))
    again = next_turns(turns)
    assert [turn.since for turn in again] == [5.0]
    lost, policy = Lost(), ClaimPolicy()
    claims = Claims(lost, 5, lambda: None, lambda: None)  # type: ignore[arg-type]
    plan = policy.plan([], 1, [], polls=True, turns=Turns(QUEUE, again))
    assert send(1, claims, policy, turns, MessageStore(lost), plan) is None
    assert [turn.since for turn in next_turns(turns)] == [0.0]
