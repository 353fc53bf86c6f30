"""What runs of a key is counted from the oldest that can still run, and none that runs is passed over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from celery_postgres import operations
from celery_postgres.consumer.fair_ring import FairRing
from celery_postgres.database.flow import ReadyKey, Turn, Turns
from celery_postgres.database.limit_store import LimitStore
from celery_postgres.database.message_store import ClaimResult, MessageStore
from celery_postgres.database.session import Session
from environment.testkit.keyed import fill, hashes
from environment.testkit.tables import run, scalar

CONCURRENCY = 2
DEAD = 2_000


@pytest.fixture
def url(plain_database: Any) -> str:
    """A database with a fair queue of one key, of which two may run and ten wait."""
    url = str(plain_database.url)
    run(url, "ALTER TABLE kombu_message SET (autovacuum_enabled = false)")
    fill(url, 10, keys=1)
    with operations.connect(url) as broker:
        broker.set_limit("q", key="*", concurrency=CONCURRENCY)
    return url


@pytest.fixture
def session(url: str) -> Iterator[Session]:
    with closing(Session(url)) as session:
        yield session


class Consumer:
    """Claims one message at a time of the key, and remembers what the server returns of it."""

    def __init__(self, url: str, session: Session) -> None:
        self.queue = int(scalar(url, "SELECT id FROM kombu_queue"))
        (self.key,) = hashes(url, keys=1)
        self._messages = MessageStore(session)
        self.since = 0.0

    def claim(self, *acks: Any) -> ClaimResult:
        turn = Turn(self.key, 0, 0, 1, since=self.since)
        result = self._messages.claim_turns(1, Turns(self.queue, [turn]), limit=1, acks=acks)
        self.since = result.since[self.key]
        return result


def pages_of_count(url: str, consumer: Consumer, since: float) -> int:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        asked = [consumer.queue, [consumer.key], [1], [since]]
        asking = "SELECT * FROM kombu_rooms(%s, %s::bigint[], %s::bigint[], %s::float[])"
        cursor.execute(asking, asked)  # loads the catalogues
        cursor.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + asking, asked)
        ((((plan),),),) = cursor.fetchall()
    return int(plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"])


def test_a_count_does_not_read_what_ran_while_a_transaction_keeps_dead_rows(url: str, session: Session) -> None:
    consumer = Consumer(url, session)
    with closing(psycopg2.connect(url)) as holder, holder.cursor() as cursor:
        cursor.execute("SELECT txid_current()")
        run(
            url,
            "INSERT INTO kombu_message"  # noqa: S608
            " (queue_id, payload, visible, consumer_id, claimed_at, fence, available_at, flow_key)"
            " SELECT queue.id, repeat('x', 1500), false, 2, now() - interval '1 hour', 2, now(),"
            f" hashtextextended('0', 0) FROM kombu_queue AS queue, generate_series(1, {DEAD})",
            "DELETE FROM kombu_message WHERE NOT visible",
        )
        (first,) = consumer.claim().messages
        assert consumer.claim(first.claim).messages
        assert pages_of_count(url, consumer, 0.0) > DEAD / 10
        assert pages_of_count(url, consumer, consumer.since) < 50


def test_what_runs_for_long_is_counted_until_it_ends(url: str, session: Session) -> None:
    consumer = Consumer(url, session)
    (first,) = consumer.claim().messages
    run(url, "UPDATE kombu_message SET claimed_at = now() - interval '1 hour' WHERE NOT visible")
    consumer.since = 0.0
    (second,) = consumer.claim().messages
    for _ in range(3):
        assert not consumer.claim().messages
    (third,) = consumer.claim(second.claim).messages
    assert not consumer.claim().messages
    assert consumer.claim(first.claim, third.claim).messages


def test_what_is_claimed_beside_the_locks_of_keys_is_counted(url: str, session: Session) -> None:
    """By what notes no time, as stock Kombu; and what gets its key only while it runs."""
    consumer = Consumer(url, session)
    (first,) = consumer.claim().messages
    consumer.claim(first.claim)
    last = "(SELECT max(id) FROM kombu_message)"
    run(url, f"UPDATE kombu_message SET visible = false, consumer_id = 2 WHERE id = {last}")  # noqa: S608
    assert not consumer.claim().messages
    run(
        url,
        "DELETE FROM kombu_message WHERE NOT visible",
        "INSERT INTO kombu_message (queue_id, payload, visible, consumer_id, claimed_at, fence, tenant_id)"
        ' SELECT id, \'{"properties": {}, "headers": {"flow_key": "0"}}\', false, 2,'
        " now() - interval '1 hour', 2, NULL"
        " FROM kombu_queue, generate_series(1, 2)",
    )
    assert LimitStore(session).give_keys(consumer.queue) == CONCURRENCY
    assert not consumer.claim().messages


def test_a_clock_that_was_set_back_counts_all(url: str, session: Session) -> None:
    consumer = Consumer(url, session)
    for _ in range(CONCURRENCY):
        assert consumer.claim().messages
    run(url, "UPDATE kombu_message SET claimed_at = now() - interval '1 hour' WHERE NOT visible")
    consumer.since += 1e6
    assert not consumer.claim().messages
    assert not consumer.claim().messages


def test_a_paused_key_says_nothing_of_what_runs(url: str, session: Session) -> None:
    consumer = Consumer(url, session)
    (running,) = consumer.claim().messages
    with operations.connect(url) as broker:
        broker.set_limit("q", key="0", concurrency=0)
        turns = Turns(consumer.queue, [Turn(consumer.key, 0, 0, 1)])
        result = MessageStore(session).claim_turns(1, turns, limit=1)
        assert not result.messages
        assert not result.since
        assert result.closed[consumer.key].places == 0
    assert MessageStore(session).claims(1, 10) == [running.claim]


def test_a_ring_remembers_since_when_keys_run_and_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FairRing, "MOST", 2)
    ring = FairRing()
    ring.found([ReadyKey(1, 0, 10)])
    assert ring.turns(1) == [Turn(1, 0, 10, 1)]
    ring.runs_since({1: 5.0, 2: 6.0})
    assert ring.turns(1) == [Turn(1, 0, 10, 1, since=5.0)]
    ring.runs_since({2: 7.0, 3: 8.0})
    assert ring.turns(1) == [Turn(1, 0, 10, 1)]
