"""The keys of fair queues in the metrics: the first by what waits and runs, and never more than so many."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest

from app.core.dsn import PostgresDSN
from app.core.settings import Settings
from app.observability import key_depth
from app.observability.key_depth import KeyDepthCollector
from celery_postgres.database.monitor_store import KeyCount, KeyDepth, MonitorStore
from celery_postgres.operations import monitor
from environment.testkit.databases import rows


@pytest.fixture
def connection(database: Any) -> Iterator[Any]:
    with contextlib.closing(psycopg2.connect(PostgresDSN.parse(database.url).libpq())) as connection:
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO kombu_queue (id, name, fair) VALUES (1, 'a', true), (2, 'b', true), (3, 'c', false)"
            )
        connection.commit()
        yield connection


def put(connection: Any, queue: int, key: str, messages: int, *, visible: bool = True) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO kombu_message (payload, queue_id, visible, available_at, flow_key)"
            " SELECT '{}', %s, %s, now(), hashtextextended(%s, 0) FROM generate_series(1, %s)",
            (queue, visible, key, messages),
        )
    connection.commit()


def read(connection: Any, **changed: Any) -> tuple[list[KeyCount], list[KeyDepth]]:
    store: MonitorStore = monitor(connection)
    try:
        counts, depths = store.key_depths(**{"named": 10, "walked": 100, "top": 2, "cap": 50, **changed})
        return sorted(counts, key=str), sorted(depths, key=lambda one: (-one.waiting, -one.running))
    finally:
        connection.rollback()


def hashed(url: str, key: str) -> str:
    ((value,),) = rows(url, "SELECT lpad(to_hex(hashtextextended(:key, 0)), 16, '0')", key=key)
    return str(value)


def test_the_keys_with_most_messages_are_counted_up_to_the_cap(database: Any, connection: Any) -> None:
    for key, messages in (("one", 1), ("two", 2), ("many", 80), ("three", 3)):
        put(connection, 1, key, messages)
    put(connection, 1, "runs", 7, visible=False)
    put(connection, 1, "two", 1, visible=False)
    put(connection, 3, "not fair", 9)
    counts, depths = read(connection)
    assert counts == [KeyCount("a", 4, 0, 0), KeyCount("b", 0, 0, 0)]
    assert depths == [
        KeyDepth("a", hashed(database.url, "many"), 50, 0),
        KeyDepth("a", hashed(database.url, "three"), 3, 0),
        KeyDepth("a", hashed(database.url, "two"), 2, 1),
        KeyDepth("a", hashed(database.url, "runs"), 0, 7),
    ]
    counts, depths = read(connection, walked=2, top=1, named=1)
    assert [count.waiting for count in counts] == [2]
    assert len(depths) == 2


def test_keys_that_their_limits_hold_back_are_counted(connection: Any) -> None:
    for key in ("limited", "throttled", "free", "idle"):
        put(connection, 1, key, 2)
    put(connection, 1, "limited", 2, visible=False)
    put(connection, 1, "free", 1, visible=False)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO kombu_limit (queue_id, key, flow_key, max_running, per_second, burst)"
            " VALUES (1, '*', NULL, 2, 1, 1), (1, 'idle', hashtextextended('idle', 0), 0, 1, 100)"
        )
        cursor.execute(
            "INSERT INTO kombu_throttle SELECT 1, hashtextextended(key, 0), now() + interval '1 minute'"
            " FROM unnest(ARRAY['throttled', 'idle']) AS key"
        )
    connection.commit()
    assert read(connection)[0] == [KeyCount("a", 4, 2, 1), KeyCount("b", 0, 0, 0)]


def test_the_collector_shows_them(database: Any, connection: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_depth, "get_settings", lambda: Settings(database_url=database.url))
    put(connection, 1, "k", 3)
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in KeyDepthCollector().collect()
        for sample in family.samples
    }
    key = hashed(database.url, "k")
    assert samples["celery_key_waiting", "a", key] == 3
    assert samples["celery_key_running", "a", key] == 0
    assert samples["celery_keys_waiting", "a"] == 1
    assert samples["celery_keys_throttled", "b"] == 0
