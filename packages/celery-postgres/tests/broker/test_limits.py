"""Limits of fair queues: never exceeded, changed while everything runs, and refused in one line."""

from __future__ import annotations

import asyncio
import json
import pickle
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psycopg2
import pytest

from celery_postgres import FlowError, RateLimited, operations
from celery_postgres.database.address import parsed
from celery_postgres.database.flow import Turn, Turns
from celery_postgres.database.limit_store import LimitStore
from celery_postgres.database.message_store import Claim, ClaimResult, MessageStore
from celery_postgres.database.pool import Sessions
from celery_postgres.operations import Operations
from environment.testkit.databases import rows
from environment.testkit.kombu_programs import environment
from environment.testkit.tables import run, scalar
from environment.waiting import wait_until

KEYS = 20


@pytest.fixture
def broker(plain_database: Any) -> Iterator[Operations]:
    with operations.connect(plain_database.url) as broker:
        yield broker


@pytest.fixture
def messages(plain_database: Any) -> MessageStore:
    return MessageStore(Sessions(parsed(plain_database.url, "broker")))


def fill(url: str, count: int, keys: int = KEYS) -> int:
    """Make the fair queue `q` with so many messages of the keys `0`, `1`, …; return its id."""
    run(
        url,
        "INSERT INTO kombu_queue (name, fair) VALUES ('q', true)",
        "INSERT INTO kombu_message (queue_id, payload, available_at, flow_key)"  # noqa: S608
        f" SELECT queue.id, '{{\"properties\": {{}}}}', now(), hashtextextended((n % {keys})::text, 0)"
        f" FROM kombu_queue AS queue, generate_series(1, {count}) AS n",
    )
    return int(scalar(url, "SELECT id FROM kombu_queue"))


def hashes(url: str, keys: int = KEYS) -> list[int]:
    statement = "SELECT hashtextextended(n::text, 0) FROM generate_series(0, :last) AS n"
    return [value for (value,) in rows(url, statement, last=keys - 1)]


def claim(
    messages: MessageStore,
    queue: int,
    keys: list[int],
    *,
    limit: int = 64,
    share: int = 4,
    acks: Sequence[Claim] = (),
    since: Mapping[int, float] = MappingProxyType({}),
) -> ClaimResult:
    turns = [Turn(key, 0, 0, share, since=since.get(key, 0.0)) for key in keys]
    return messages.claim_turns(1, Turns(queue, turns), limit=limit, acks=acks)


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
        if elapsed > 1.0 and broker.limits("q")[0].per_second == 100:
            assert started >= 0.9 * 100 * 1.0
            broker.set_limit("q", per_second=10_000, burst=10)

    workers = Workers(url, queue, keys)
    workers.run(look)
    assert workers.done == 600
    assert max(started - 100 * elapsed for elapsed, started in counts if elapsed < 1.0) <= 10
    assert time.monotonic() - begun < 20


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

    wait_until(only_the_slow_one, 10, "the idle throttles to be removed")
    (slow,) = broker.limits("q", key="0")
    assert 900 < (slow.opens_in_s or 0) <= 1000


# -- refused at publish


def test_what_is_too_much_is_refused_at_publish(
    plain_database: Any, broker: Operations, make_app: Callable[[str], Any]
) -> None:
    url = plain_database.url
    fill(url, 0)
    app = make_app(url)
    broker.set_limit("q", key="*", per_second=0.01, burst=2, refuse=True)

    def send(key: str, **options: Any) -> None:
        app.send_task("t", queue="q", headers={"flow_key": key}, **options)

    send("a")
    send("a")
    with pytest.raises(
        RateLimited, match=r"^not published: a rate limit of the queue 'q' refuses the key 'a'; try"
    ) as e:
        send("a")
    assert (e.value.queue, e.value.key) == ("q", "a")
    assert 0 < (e.value.retry_in_s or 0) <= 100
    send("b")
    with pytest.raises(RateLimited):
        send("a", argsrepr="x" * 100_000)  # by COPY
    app.send_task("t", queue="another", headers={"flow_key": "a"})
    # A retry is lost if it is refused.
    send("a", retries=1)
    assert scalar(url, "SELECT count(*) FROM kombu_message") == 5
    assert broker.remove_limit("q", key="*")
    send("a")


def test_a_refusal_in_bulk_publishes_and_takes_nothing(
    plain_database: Any, broker: Operations, make_app: Callable[[str], Any]
) -> None:
    import celery_postgres

    url = plain_database.url
    fill(url, 0)
    app = make_app(url)
    broker.set_limit("q", key="*", per_second=0.01, burst=3, refuse=True)

    def bulk(*keys: str) -> None:
        with app.producer_or_acquire() as producer, celery_postgres.bulk(producer):
            for key in keys:
                app.send_task("t", queue="q", headers={"flow_key": key}, producer=producer)
            app.send_task("t", queue="another", producer=producer)

    bulk("a", "a", "b")
    with pytest.raises(RateLimited) as refused:
        bulk("a", "b", "b", "a", "c")
    assert refused.value.key == "a"
    assert scalar(url, "SELECT count(*) FROM kombu_message") == 4
    # The places of the others were given back.
    bulk("b", "b", "c", "c", "c", "a")
    with pytest.raises(RateLimited, match=r"the key 'd'; waiting does not help, because .* its burst is less") as e:
        bulk("d", "d", "d", "d")
    assert e.value.retry_in_s is None
    broker.set_limit("q", key="*", per_second=0, refuse=True)
    with pytest.raises(
        RateLimited, match="refuses messages without a key; waiting does not help, because its rate is 0"
    ) as e:
        app.send_task("t", queue="q")
    assert e.value.key == ""
    assert scalar(url, "SELECT count(*) FROM kombu_message") == 11


def test_a_refusal_names_the_key_or_the_whole_queue(
    plain_database: Any, broker: Operations, make_app: Callable[[str], Any]
) -> None:
    fill(plain_database.url, 0)
    app = make_app(plain_database.url)
    broker.set_limit("q", key="*", per_second=0.01, burst=1, refuse=True)
    broker.set_limit("q", per_second=0.01, burst=2, refuse=True)

    def send(key: str) -> None:
        app.send_task("t", queue="q", headers={"flow_key": key})

    send("a")
    with pytest.raises(RateLimited, match="refuses the key 'a'; try") as of_key:
        send("a")
    send("b")
    with pytest.raises(RateLimited, match="rate limit of the whole queue 'q' refuses more messages; try") as of_queue:
        send("c")
    broker.set_limit("q", per_second=0, refuse=True)
    with pytest.raises(RateLimited, match="more messages; waiting does not help, because its rate is 0") as never:
        send("d")
    refusals = [of_key.value, of_queue.value, never.value]
    assert [(one.queue, one.key) for one in refusals] == [("q", "a"), ("q", None), ("q", None)]
    assert [pickle.loads(pickle.dumps(one)).key for one in refusals] == ["a", None, None]  # noqa: S301


def test_a_call_that_publishes_nothing_takes_no_place(
    plain_database: Any, broker: Operations, make_app: Callable[[str], Any]
) -> None:
    import celery_postgres

    url = plain_database.url
    fill(url, 0)
    app = make_app(url)
    broker.set_limit("q", key="*", per_second=0.01, burst=3, refuse=True)

    def send(unique: str, **options: Any) -> None:
        how = {"flow_key": "a", "unique_key": unique, "unique_conflict": "return"}
        app.send_task("t", queue="q", headers=how, **options)

    for _ in range(4):
        send("one")
        send("two")
    with app.producer_or_acquire() as producer, celery_postgres.bulk(producer):
        for unique in ("one", "three", "two"):
            send(unique, producer=producer)
    for _ in range(4):
        app.send_task("t", queue="q", headers={"flow_key": "a", "unique_key": "one", "unique_conflict": "replace"})
    assert scalar(url, "SELECT count(*) FROM kombu_message") == 3
    with pytest.raises(RateLimited):
        send("four")
    # What was refused holds no key, and replaces nothing.
    assert scalar(url, "SELECT count(*) FROM kombu_message") == 3
    broker.remove_limit("q", key="*")
    send("four")
    assert scalar(url, "SELECT count(*) FROM kombu_message") == 4


def test_a_refusal_leaves_a_callers_transaction_usable(
    plain_database: Any, broker: Operations, make_app: Callable[[str], Any]
) -> None:
    import celery_postgres

    url = plain_database.url
    fill(url, 0)
    app = make_app(url)
    broker.set_limit("q", per_second=0.01, burst=2, refuse=True)
    run(url, "CREATE TABLE mine (n integer)")
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        with celery_postgres.publishing_on(connection):
            app.send_task("t", queue="q")
            app.send_task("t", queue="q")
            with pytest.raises(RateLimited):
                app.send_task("t", queue="q")
            cursor.execute("INSERT INTO mine VALUES (1)")
        connection.commit()
    assert scalar(url, "SELECT count(*) FROM mine") == 1
    assert scalar(url, "SELECT count(*) FROM kombu_message") == 2


def unique(app: Any, key: str, conflict: str = "return") -> None:
    headers = {"flow_key": "a", "unique_key": key, "unique_conflict": conflict}
    app.send_task("t", queue="q", headers=headers)


@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("driver", ["psycopg2", "psycopg", "sqlalchemy"])
def test_a_duplicate_in_a_callers_transaction_takes_no_place(
    plain_database: Any, broker: Operations, make_app: Callable[[str], Any], driver: str, autocommit: bool
) -> None:
    import psycopg
    import sqlalchemy

    import celery_postgres

    url = plain_database.url
    fill(url, 0)
    app = make_app(url)
    broker.set_limit("q", key="*", per_second=0.01, burst=2, refuse=True)
    opened: Any
    if driver == "sqlalchemy":
        level = "AUTOCOMMIT" if autocommit else "READ COMMITTED"
        opened = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, isolation_level=level).connect()
    else:
        opened = {"psycopg2": psycopg2, "psycopg": psycopg}[driver].connect(url)  # type: ignore[attr-defined]
        opened.autocommit = autocommit
    with closing(opened) as connection:
        for _ in range(3):
            with celery_postgres.publishing_on(connection):
                unique(app, "one")
                unique(app, "one")
                unique(app, "two", "replace")
            connection.commit()
        with celery_postgres.publishing_on(connection):
            with pytest.raises(RateLimited, match="refuses the key 'a'"):
                unique(app, "three")
            unique(app, "two", "replace")
        connection.commit()
        assert scalar(url, "SELECT count(*) FROM kombu_message") == 2
        # What was refused holds no key.
        broker.remove_limit("q", key="*")
        with celery_postgres.publishing_on(connection):
            unique(app, "three")
        connection.rollback()
    assert scalar(url, "SELECT count(*) FROM kombu_message") == (3 if autocommit else 2)


def test_a_duplicate_in_an_asynchronous_block_takes_no_place(
    plain_database: Any, broker: Operations, make_app: Callable[[str], Any]
) -> None:
    import asyncpg

    import celery_postgres

    url = plain_database.url
    fill(url, 0)
    app = make_app(url)
    broker.set_limit("q", key="*", per_second=0.01, burst=2, refuse=True)

    async def publish() -> None:
        connection = await asyncpg.connect(url)
        try:
            for _ in range(3):
                async with connection.transaction(), celery_postgres.publishing_on(connection):
                    unique(app, "one")
                    unique(app, "two", "replace")
            async with connection.transaction():
                with pytest.raises(RateLimited):
                    async with celery_postgres.publishing_on(connection):
                        unique(app, "three")
        finally:
            await connection.close()

    asyncio.run(publish())
    assert scalar(url, "SELECT count(*) FROM kombu_message") == 2


def test_a_refusal_at_the_end_of_an_asynchronous_block(
    plain_database: Any, broker: Operations, make_app: Callable[[str], Any]
) -> None:
    import asyncpg

    import celery_postgres

    url = plain_database.url
    fill(url, 0)
    app = make_app(url)
    broker.set_limit("q", per_second=0.01, burst=1, refuse=True)

    async def publish() -> None:
        connection = await asyncpg.connect(url)
        try:
            async with connection.transaction():
                async with celery_postgres.publishing_on(connection):
                    app.send_task("t", queue="q")
                with pytest.raises(RateLimited):
                    async with celery_postgres.publishing_on(connection):
                        app.send_task("t", queue="q")
        finally:
            await connection.close()

    asyncio.run(publish())
    assert scalar(url, "SELECT count(*) FROM kombu_message") == 1


def test_what_an_exchange_routes_is_refused_too(
    plain_database: Any, broker: Operations, make_app: Callable[[str], Any]
) -> None:
    import celery_postgres

    url = plain_database.url
    queue = fill(url, 0)
    app = make_app(url)
    values = f"('e', 'fanout', '', NULL, {queue})"
    run(url, f"INSERT INTO kombu_binding (exchange, type, routing_key, pattern, queue_id) VALUES {values}")  # noqa: S608
    broker.set_limit("q", per_second=0.01, burst=1, refuse=True)
    app.send_task("t", exchange="e", routing_key="", exchange_type="fanout")
    with pytest.raises(RateLimited):
        app.send_task("t", exchange="e", routing_key="", exchange_type="fanout")
    with closing(psycopg2.connect(url)) as connection, celery_postgres.publishing_on(connection):
        with pytest.raises(RateLimited):
            app.send_task("t", exchange="e", routing_key="", exchange_type="fanout")
        connection.commit()
    assert scalar(url, "SELECT count(*) FROM kombu_message") == 1


# -- the tool


def test_limits_by_the_tool(plain_database: Any, tool: Callable[..., Any]) -> None:
    fill(plain_database.url, 6, 2)
    made = tool("limits", "set", "q", "--key", "0", "--concurrency", "5", "--per-minute", "60", "--weight", "2")
    assert (made["key"], made["concurrency"], made["per_second"], made["burst"], made["weight"]) == ("0", 5, 1.0, 1, 2)
    tool("limits", "set", "q", "--key", "*", "--per-second", "3", "--burst", "9", "--refuse")
    tool("limits", "set", "q", "--concurrency", "100")
    # What is not named stays.
    tool("limits", "set", "q", "--key", "0", "--concurrency", "4")
    shown = tool("limits", "list")
    assert [(row["key"], row["concurrency"], row["per_second"], row["refuse"], row["waiting"]) for row in shown] == [
        (None, 100, None, False, 6),
        ("0", 4, 1.0, False, 3),
        ("*", None, 3.0, True, 6),
    ]
    assert [row["key"] for row in tool("limits", "list", "q")] == [None, "0", "*"]
    assert tool("limits", "list", "another") == []
    assert tool("limits", "set", "q", "--key", "1", "--per-minute", "0")["paused"]
    tool("limits", "set", "q", "--key", "2", "--per-second", "0", "--refuse")
    assert [row["key"] for row in tool("limits", "list") if row["paused"]] == ["1"]
    for key in "012":
        tool("limits", "remove", "q", "--key", key)
    assert [row["key"] for row in tool("limits", "list")] == [None, "*"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("limits", "set", "nowhere", "--concurrency", "1"), "there is no queue 'nowhere'"),
        (("limits", "set", "plain", "--concurrency", "1"), "the queue 'plain' is not fair"),
        (("limits", "set", "q", "--per-second", "-1"), "a rate is 0, or 0.00001 to 1000000 per second, and not -1"),
        (("limits", "set", "q", "--per-second", "nan"), "a rate is 0, or 0.00001 to 1000000 per second"),
        (("limits", "set", "q", "--concurrency", "-1"), "a concurrency is 0 to 2147483647, and not -1"),
        (("limits", "set", "q", "--key", "k", "--weight", "0"), "a weight is 1 to 100, and not 0"),
        (("limits", "set", "q", "--weight", "2"), "a weight belongs to a key"),
        (("limits", "set", "q", "--burst", "2"), "a burst and a refusal belong to a rate"),
        (("limits", "set", "q"), "which limit? give a concurrency, a rate or a weight"),
        (("limits", "set", "--concurrency", "1"), "which queue? give its name"),
        (("limits", "set", "--task", "t", "--concurrency", "1"), "limits of a task's name do not exist: route"),
        (("limits", "set", "q", "--key", "k" * 10_000, "--concurrency", "1"), "a flow_key has at most 200 characters"),
        (("limits", "set", "q", "--key", "", "--concurrency", "1"), "the empty key is that of messages without one"),
        (("limits", "remove", "q", "--key", "k"), "q --key k has no limits"),
        (("limits", "set", "q", "--per-minute", "-5"), "a rate is 0, or 0.00060 to 60000000 per minute, and not -5"),
        (("limits", "set", "q", "--key", "\udcff", "--concurrency", "1"), "a flow_key has half of a surrogate pair"),
        (("limits", "set", "\udcff", "--concurrency", "1"), "there is no queue '\\udcff'"),
        (("limits", "list", "a\0b"), "there is no queue 'a\\x00b'"),
        (("fair", "\udcff"), "there is no queue '\\udcff'"),
        (("drain", "q", "--key", "0", "--wait", "nan"), "the time to wait is 0 seconds or more, and not nan"),
        (("drain", "q", "--key", "0", "--wait", "-1"), "the time to wait is 0 seconds or more, and not -1"),
        (("drain", "q", "--key", "*"), "`*` is no key of a message"),
        (("fair", "nowhere", "on"), "there is no queue 'nowhere'"),
        (("drain", "plain", "--key", "k"), "the queue 'plain' is not fair"),
        (("purge", "plain", "--key", "k", "--yes"), "the queue 'plain' is not fair"),
    ],
)
def test_bad_input_is_one_line(
    plain_database: Any, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    from celery_postgres.tool import cli

    fill(plain_database.url, 1)
    run(plain_database.url, "INSERT INTO kombu_queue (name) VALUES ('plain')")
    assert cli.main(words, plain_database.url) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"celery_postgres: {said}")
    assert error.count("\n") == 1
    assert scalar(plain_database.url, "SELECT count(*) FROM kombu_limit") == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"concurrency": True}, "a concurrency is 0 to 2147483647, and not True"),
        ({"key": "k", "weight": True}, "a weight is 1 to 100, and not True"),
        ({"per_second": 1.0, "burst": False}, "a burst is 1 to 1000000, and not False"),
        ({"per_second": True}, "a rate is 0, or .* and not True"),
        ({"per_second": "1"}, "a rate is 0, or .* and not a str"),
        ({"per_second": 10**5000}, "a rate is 0, or .* and not a number of 16610 bits"),
        ({"concurrency": 10**5000}, "a concurrency is .* and not a number of 16610 bits"),
        ({"per_second": 1.0, "refuse": "no"}, "refuse is True or False, and not a str"),
        ({"key": "a\0b", "concurrency": 1}, "a flow_key has a NUL character"),
        ({"key": 7, "concurrency": 1}, "a flow_key is a text .* not int"),
    ],
)
def test_a_limit_of_a_wrong_type_is_one_line(
    plain_database: Any, broker: Operations, given: dict[str, Any], said: str
) -> None:
    fill(plain_database.url, 1)
    with pytest.raises(FlowError, match=f"^{said}"):
        broker.set_limit("q", **given)
    assert broker.limits() == []


@pytest.mark.parametrize("name", ["a\0b", "a\udcff"])
def test_a_name_that_cannot_be_stored_is_one_line(broker: Operations, name: str) -> None:
    for ask in (lambda: broker.limits(key=name), lambda: broker.purge_key("q", name)):
        with pytest.raises(FlowError, match=r"^a flow_key has (a NUL|half of a surrogate)"):
            ask()
    for ask in (lambda: broker.limits(name), lambda: broker.remove_limit(name), lambda: broker.set_fair(name)):
        with pytest.raises(FlowError, match=r"^there is no queue"):
            ask()


def test_a_queue_becomes_fair_and_ceases_to_be(
    plain_database: Any, tool: Callable[..., Any], make_app: Callable[[str], Any]
) -> None:
    url = plain_database.url
    app = make_app(url)
    tenant = "00000000-0000-0000-0000-00000000000a"
    app.send_task("t", queue="q", headers={"flow_key": "a"})
    app.send_task("t", queue="q", headers={"tenant_id": tenant})
    app.send_task("t", queue="q", countdown=3600)
    run(url, "INSERT INTO kombu_message (queue_id, payload) SELECT id, 'no JSON \"flow_key\"' FROM kombu_queue")
    for text in ("acme", ["acme"]):  # no UUIDs
        app.send_task("t", queue="q", headers={"tenant_id": text})
    before = rows(url, "SELECT available_at FROM kombu_message ORDER BY id")
    assert tool("fair", "q") == {"queue": "q", "fair": False}
    assert tool("fair", "q", "on") == {"queue": "q", "fair": True, "count": 6}
    expected = [scalar(url, "SELECT hashtextextended(:key, 0)", key=key) for key in ("a", tenant, "", "", "acme", "")]
    keys = rows(url, "SELECT flow_key, flow_later, available_at IS NOT NULL FROM kombu_message ORDER BY id")
    assert keys == [
        (expected[0], None, True),
        (expected[1], None, True),
        (None, expected[2], True),
        *((one, None, True) for one in expected[3:]),
    ]
    tool("limits", "set", "q", "--concurrency", "1")
    with pytest.raises(AssertionError):
        tool("fair", "q", "off")
    tool("limits", "remove", "q")
    assert tool("fair", "q", "off") == {"queue": "q", "fair": False, "count": 6}
    assert rows(url, "SELECT available_at FROM kombu_message ORDER BY id") == before
    assert scalar(url, "SELECT count(*) FROM kombu_message WHERE flow_key IS NOT NULL OR flow_later IS NOT NULL") == 0


def test_maintenance_takes_the_keys_that_a_late_publish_has_left(plain_database: Any) -> None:
    url = plain_database.url
    queue = fill(url, 5, 2)
    run(url, f"UPDATE kombu_queue SET fair = false WHERE id = {queue}")  # noqa: S608
    LimitStore(Sessions(parsed(url, "broker"))).clear_unfair()
    assert rows(url, "SELECT DISTINCT flow_key, available_at FROM kombu_message") == [(None, None)]


def test_the_messages_of_a_key_are_purged_and_drained(
    plain_database: Any, tool: Callable[..., Any], messages: MessageStore, make_app: Callable[[str], Any]
) -> None:
    url = plain_database.url
    queue, keys = fill(url, 10, 2), hashes(url, 2)
    make_app(url).send_task("t", queue="q", headers={"flow_key": "1"}, countdown=3600)
    last = f"SELECT max(id) FROM kombu_message WHERE flow_key = {keys[1]}"  # noqa: S608
    (held,) = claim(messages, queue, [keys[1]], share=1, limit=1).messages
    run(url, f"UPDATE kombu_message SET failures = 1 WHERE id = ({last})")  # noqa: S608
    waiting = tool("purge", "q", "--key", "1")
    assert (waiting["count"], waiting["dry_run"]) == (5, True)
    assert tool("purge", "q", "--key", "1", "--yes")["count"] == 5
    assert scalar(url, "SELECT count(*) FROM kombu_message") == 6
    thread = threading.Timer(0.3, lambda: messages.settle([held.claim]))
    thread.start()
    assert tool("drain", "q", "--key", "1") == {"queue": "q", "key": "1", "running": 0}
    thread.join()
    assert json.dumps(tool("limits", "list")[0]["concurrency"]) == "0"


def test_an_application_that_acknowledges_early_is_told_when_it_sets_a_concurrency(
    plain_database: Any, make_app: Callable[[str], Any]
) -> None:
    fill(plain_database.url, 0)
    app = make_app(plain_database.url)
    with operations.of(app) as broker:
        with pytest.raises(
            FlowError, match=r"^a concurrency counts what is not acknowledged.*set task_acks_late = True"
        ):
            broker.set_limit("q", key="*", concurrency=1)
        broker.set_limit("q", key="*", concurrency=0)
        broker.set_limit("q", key="*", per_second=1)
        app.conf.task_acks_late = True
        broker.set_limit("q", key="*", concurrency=1)


# -- consumers


def consumers_of(url: str, connect: Callable[..., Any], count: int) -> list[Any]:
    return [connect(url).consume("q", prefetch=8) for _ in range(count)]


def test_consumers_share_the_limit_of_a_whole_queue(
    plain_database: Any, broker: Operations, connect: Callable[..., Any]
) -> None:
    url = plain_database.url
    fill(url, 60, 7)
    broker.set_limit("q", concurrency=3)
    inboxes = consumers_of(url, connect, 3)
    running = "SELECT count(*) FROM kombu_message WHERE NOT visible"

    def all_done() -> bool:
        assert scalar(url, running) <= 3
        for inbox in inboxes:
            inbox.drain(0.02)
            for message in inbox.messages:
                message.ack()
            inbox.messages.clear()
        return bool(scalar(url, "SELECT count(*) = 0 FROM kombu_message"))

    wait_until(all_done, 60, "all messages to be consumed")


def test_limits_change_while_consumers_run(
    plain_database: Any, broker: Operations, connect: Callable[..., Any]
) -> None:
    url = plain_database.url
    fill(url, 40, 2)
    broker.set_limit("q", key="0", concurrency=0)
    broker.set_limit("q", key="1", per_second=0.001, burst=2)
    (inbox,) = consumers_of(url, connect, 1)
    taken = inbox.take(2)
    for message in taken:
        message.ack()
    broker.set_limit("q", key="0", concurrency=2)
    for message in inbox.take(2):
        message.ack()
    broker.set_limit("q", key="1", per_second=1000)
    inbox.take_acked(36)


MODULE = """
from celery import Celery
import celery_postgres
celery_postgres.install()
app = Celery("mine", broker="{url}")
app.conf.update({conf})

@app.task
def early(): ...

@app.task(acks_late={late})
def late(): ...
"""


@pytest.mark.parametrize(
    ("conf", "late", "said", "ends"),
    [
        (
            {},
            False,
            "The queue q limits how many tasks run at once, and this worker acknowledges tasks before they",
            True,
        ),
        ({}, True, "The queue q limits how many tasks run at once, and does not count tasks", False),
        ({"task_acks_late": True}, True, "", False),
    ],
    ids=["all early", "some early", "all late"],
)
def test_a_worker_that_acknowledges_early_is_told_at_its_start(
    plain_database: Any,
    broker: Operations,
    tmp_path: Path,
    conf: dict[str, Any],
    late: bool,
    said: str,
    ends: bool,
) -> None:
    url = plain_database.url
    fill(url, 0)
    broker.set_limit("q", key="*", concurrency=5)
    (tmp_path / "mine.py").write_text(MODULE.format(url="sqla+" + url, conf=conf, late=late))
    words = ["-A", "mine", "worker", "-Q", "q", "-P", "solo", "-l", "INFO", "--without-mingle", "--without-gossip"]
    with subprocess.Popen(
        [sys.executable, "-m", "celery", *words],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as worker:
        lines: list[str] = []
        assert worker.stderr is not None
        for line in worker.stderr:
            lines.append(line)
            if " ready." in line:
                worker.terminate()
        worker.wait(30)
    output = "".join(lines)
    assert said in output
    assert (" ready." in output) is not ends
    assert ("limits how many" in output) is bool(said)
    assert "Traceback" not in output


def test_a_worker_that_acknowledges_early_takes_nothing_from_a_queue_that_is_limited_later(
    plain_database: Any, broker: Operations, make_app: Callable[[str], Any], tmp_path: Path
) -> None:
    url = plain_database.url
    fill(url, 0)
    (tmp_path / "mine.py").write_text(MODULE.format(url="sqla+" + url, conf={}, late=False))
    words = ["-A", "mine", "worker", "-Q", "q", "-P", "solo", "-l", "INFO", "--without-mingle", "--without-gossip"]
    with subprocess.Popen(
        [sys.executable, "-m", "celery", *words],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as worker:
        overdue = threading.Timer(60, worker.kill)
        overdue.start()
        steps: list[str] = []
        assert worker.stderr is not None
        for line in worker.stderr:
            if " ready." in line:
                broker.set_limit("q", key="*", concurrency=5)
            elif "it takes nothing more from it" in line:
                steps.append("limited")
                make_app(url).send_task("mine.early", queue="q", headers={"tenant_id": "acme"})
                broker.remove_limit("q", key="*")
            elif "no longer limits" in line:
                steps.append("free")
            elif "received" in line:
                steps.append("taken")
                worker.terminate()
        worker.wait(30)
        overdue.cancel()
    assert steps == ["limited", "free", "taken"]
