"""Limits of fair queues: never exceeded, and changed while everything runs."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from celery_postgres.database.address import parsed
from celery_postgres.database.limit_store import LimitStore
from celery_postgres.database.message_store import Claim, MessageStore
from celery_postgres.database.pool import Sessions
from celery_postgres.operations import Operations
from environment.testkit.databases import rows
from environment.testkit.keyed import claim, fill, hashes
from environment.testkit.tables import run, scalar
from environment.waiting import wait_until


class Workers:
    """Eight threads that claim and acknowledge until nothing is left."""

    def __init__(self, url: str, queue: int, keys: list[int]) -> None:
        self.url, self.queue, self.keys = url, queue, keys
        self.done = 0
        self._failed: list[BaseException] = []
        self._lock = threading.Lock()

    def _work(self, seed: int) -> None:
        try:
            chance = random.Random(seed)  # noqa: S311
            messages = MessageStore(Sessions(parsed(self.url, "broker")))
            held: list[Claim] = []
            since: dict[int, float] = {}
            idle = 0
            while idle < 50:
                chance.shuffle(held)
                acks, held = held[: len(held) // 2 + 1], held[len(held) // 2 + 1 :]
                asked = chance.sample(self.keys, 8)
                result = claim(messages, self.queue, asked, limit=24, acks=acks, since=since)
                since |= result.since
                held += [one.claim for one in result.messages]
                idle = 0 if result.messages or held else idle + 1
                with self._lock:
                    self.done += len(acks)
        except BaseException as error:
            self._failed.append(error)
            raise

    def run(self, look: Callable[[], None]) -> None:
        threads = [threading.Thread(target=self._work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            look()
        for thread in threads:
            thread.join()
        assert not self._failed


@pytest.mark.parametrize(
    ("limits", "each", "whole"),
    [
        ({"*": 3}, 3, None),
        ({None: 7}, None, 7),
        ({"*": 2, None: 11, "0": 1}, 2, 11),
    ],
    ids=["each key", "whole queue", "both"],
)
def test_a_concurrency_is_never_exceeded(
    plain_database: Any, broker: Operations, limits: dict[str | None, int], each: int | None, whole: int | None
) -> None:
    url = plain_database.url
    count = 1500
    queue, keys = fill(url, count), hashes(url)
    for key, limit in limits.items():
        broker.set_limit("q", key=key, concurrency=limit)
    most: Counter[str] = Counter()
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True

        def look() -> None:
            cursor.execute("SELECT flow_key, count(*) FROM kombu_message WHERE NOT visible GROUP BY flow_key")
            running = dict(cursor.fetchall())
            most["key"] = max(most["key"], *running.values(), 0)
            most["first"] = max(most["first"], running.get(keys[0], 0))
            most["queue"] = max(most["queue"], sum(running.values()))

        workers = Workers(url, queue, keys)
        workers.run(look)
    assert workers.done == count
    if each is not None:
        assert most["key"] <= each
        assert most["first"] <= limits.get("0", each)
    if whole is not None:
        assert most["queue"] <= whole
    assert most["queue"] > 1


def test_a_claim_is_told_what_the_limits_have_allowed(
    plain_database: Any, broker: Operations, messages: MessageStore
) -> None:
    queue, keys = fill(plain_database.url, 60, 2), hashes(plain_database.url, 2)
    broker.set_limit("q", key="0", concurrency=3)
    first = claim(messages, queue, keys, share=5)
    assert Counter(one.flow_key for one in first.messages) == {keys[0]: 3, keys[1]: 5}
    assert {key: (one.places, one.opens_in_s) for key, one in first.closed.items()} == {keys[0]: (3, None)}
    assert first.queue_closed is None
    broker.set_limit("q", concurrency=9)
    second = claim(messages, queue, keys, share=5)
    assert [one.flow_key for one in second.messages] == [keys[1]]
    assert second.queue_closed is not None
    assert (second.queue_closed.places, second.queue_closed.opens_in_s) == (1, None)
    third = claim(messages, queue, keys, share=5)
    assert (third.messages, third.closed) == ([], {})
    # Acks count at once.
    acks = [one.claim for one in first.messages if one.flow_key == keys[0]]
    assert len(claim(messages, queue, keys, share=5, acks=acks).messages) == 3


def test_a_message_that_has_failed_before_waits_for_room(
    plain_database: Any, broker: Operations, messages: MessageStore
) -> None:
    url = plain_database.url
    queue, keys = fill(url, 2, 1), hashes(url, 1)
    broker.set_limit("q", concurrency=1)
    (held,) = claim(messages, queue, keys).messages
    run(url, "UPDATE kombu_message SET failures = 1 WHERE visible")
    assert claim(messages, queue, []).messages == []
    result = claim(messages, queue, [], acks=[held.claim])
    assert [one.failures for one in result.messages] == [1]


def test_a_concurrency_of_0_pauses_a_key(plain_database: Any, broker: Operations, messages: MessageStore) -> None:
    queue, keys = fill(plain_database.url, 20, 2), hashes(plain_database.url, 2)
    broker.set_limit("q", key="1", concurrency=0)
    assert {one.flow_key for one in claim(messages, queue, keys).messages} == {keys[0]}
    broker.set_limit("q", concurrency=0)
    assert claim(messages, queue, keys).messages == []
    assert (broker.remove_limit("q"), broker.remove_limit("q", key="1"), broker.remove_limit("q")) == (
        True,
        True,
        False,
    )
    assert {one.flow_key for one in claim(messages, queue, keys).messages} == set(keys)


def test_a_keys_own_row_leaves_open_what_each_key_has(
    plain_database: Any, broker: Operations, messages: MessageStore
) -> None:
    queue, keys = fill(plain_database.url, 20, 1), hashes(plain_database.url, 1)
    broker.set_limit("q", key="*", concurrency=2)
    broker.set_limit("q", key="0", weight=5)
    assert len(claim(messages, queue, keys, share=9).messages) == 2


@pytest.mark.parametrize("key", ["0", "*", None], ids=["key", "each key", "whole queue"])
def test_a_throttle_allows_its_burst_and_then_its_rate(
    plain_database: Any, broker: Operations, messages: MessageStore, key: str | None
) -> None:
    queue, keys = fill(plain_database.url, 400, 1), hashes(plain_database.url, 1)
    broker.set_limit("q", key=key, per_second=40, burst=5)
    started: list[float] = []
    begun = time.monotonic()
    closed: Any = None
    while len(started) < 45:
        before = time.monotonic()
        result = claim(messages, queue, keys, share=9)
        started += [before] * len(result.messages)
        closed = closed or result.queue_closed or result.closed.get(keys[0])
        # Never more than the burst and what the time has brought.
        assert len(started) <= 5 + 40 * (time.monotonic() - begun) + 1e-3
    assert time.monotonic() - begun >= 40 / 40 - 0.01
    assert closed.opens_in_s is not None
    assert 0 <= closed.opens_in_s <= 1 / 40 + 0.001


def test_a_throttle_is_exact_over_eight_workers_and_its_rate_changes_at_once(
    plain_database: Any, broker: Operations
) -> None:
    url = plain_database.url
    queue, keys = fill(url, 600, 20), hashes(url)
    broker.set_limit("q", per_second=100, burst=10)
    begun = time.monotonic()
    counts: list[tuple[float, int]] = []

    def look() -> None:
        # Read before the clock: what started is never more than the time after it allows.
        started = 600 - int(scalar(url, "SELECT count(*) FROM kombu_message WHERE visible"))
        elapsed = time.monotonic() - begun
        counts.append((elapsed, started))
        (limit,) = broker.limits("q")
        # What workers that come late leave unused is lost; who comes waits for the next start, and no longer: just
        # after the change for as long as the ten of the burst would have.
        assert (limit.opens_in_s or 0) <= (1 if limit.per_second == 100 else 10) / 100 + 1e-3
        if elapsed > 1.0 and limit.per_second == 100:
            broker.set_limit("q", per_second=10_000, burst=10)

    workers = Workers(url, queue, keys)
    workers.run(look)
    assert workers.done == 600
    assert max(started - 100 * elapsed for elapsed, started in counts if elapsed < 1.0) <= 10


def test_idle_throttles_are_removed(plain_database: Any, broker: Operations, messages: MessageStore) -> None:
    url = plain_database.url
    queue, keys = fill(url, 60, 20), hashes(url)
    broker.set_limit("q", key="*", per_second=1000)
    broker.set_limit("q", key="0", per_second=0.001)
    claim(messages, queue, keys, share=1)
    store = LimitStore(Sessions(parsed(url, "broker")))

    def only_the_slow_one() -> bool:
        store.drop_idle_throttles()
        return rows(url, "SELECT flow_key FROM kombu_throttle") == [(keys[0],)]

    wait_until(only_the_slow_one, 60, "the idle throttles to be removed")
    (slow,) = broker.limits("q", key="0")
    assert 900 < (slow.opens_in_s or 0) <= 1000
