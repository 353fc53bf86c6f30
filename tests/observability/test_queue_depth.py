"""The one statement of a scrape: right, capped, and never through the delivered messages."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest

from app.core.dsn import PostgresDSN
from app.observability.queue_depth import DEAD_SQL, DEPTH_SQL

CAP = 100


@pytest.fixture
def cursor(database: Any) -> Iterator[Any]:
    with contextlib.closing(psycopg2.connect(PostgresDSN.parse(database.url).libpq())) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for number, name in enumerate(("celery", "slow", "empty", "celery@host.celery.pidbox"), start=1):
                cursor.execute("INSERT INTO kombu_queue (id, name) VALUES (%s, %s)", (number, name))
            yield cursor


def put(cursor: Any, queue: int, messages: int, *, visible: bool) -> None:
    cursor.execute(
        "INSERT INTO kombu_message (id, visible, payload, version, queue_id)"
        " SELECT nextval('message_id_sequence'), %s, repeat('x', 200), 1, %s FROM generate_series(1, %s)",
        (visible, queue, messages),
    )


def depths(cursor: Any) -> dict[str, dict[str, float]]:
    cursor.execute(DEPTH_SQL, {"queues": ["celery", "slow", "empty", "absent"], "cap": CAP})
    names = [column.name for column in cursor.description]
    return {row[0]: dict(zip(names, row, strict=True)) for row in cursor.fetchall()}


def read(cursor: Any) -> dict[str, float]:
    return {queue: row["ready"] for queue, row in depths(cursor).items()}


def test_it_counts_what_waits_in_the_named_queues_up_to_the_cap(cursor: Any) -> None:
    put(cursor, 1, CAP + 50, visible=True)
    put(cursor, 2, 7, visible=True)
    put(cursor, 2, 40, visible=False)
    put(cursor, 4, 3, visible=True)
    assert read(cursor) == {"celery": CAP, "slow": 7, "empty": 0}


def test_it_reads_no_claimed_messages(cursor: Any) -> None:
    """Claimed messages, with statistics from a time when most waited, which make a plain scan look cheap."""
    put(cursor, 1, 20_000, visible=True)
    cursor.execute("ANALYZE kombu_message")
    cursor.execute("UPDATE kombu_message SET visible = false")
    cursor.execute("VACUUM kombu_message")
    put(cursor, 2, 5, visible=True)
    cursor.execute("SET enable_seqscan = off")  # as the collector does
    cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + DEPTH_SQL, {"queues": ["celery", "slow"], "cap": CAP})
    (plan,) = cursor.fetchone()
    text = json.dumps(plan)
    assert "ix_kombu_message_ready" in text
    assert all(node["Node Type"] != "Seq Scan" for node in nodes(plan[0]["Plan"]))
    assert all(node.get("Rows Removed by Filter", 0) <= 10 for node in nodes(plan[0]["Plan"]))
    assert read(cursor) == {"celery": 0, "slow": 5, "empty": 0}


def test_what_is_delayed_and_claimed_and_how_old_the_oldest_is(cursor: Any) -> None:
    put(cursor, 1, 5, visible=True)
    cursor.execute("UPDATE kombu_message SET enqueued_at = now() - interval '100 s', priority = 3 WHERE id % 5 = 1")
    put(cursor, 2, 4, visible=True)
    cursor.execute("UPDATE kombu_message SET available_at = now() + interval '1 h' WHERE queue_id = 2")
    put(cursor, 2, 1, visible=True)
    cursor.execute(
        "UPDATE kombu_message SET available_at = now() - interval '50 s' WHERE available_at IS NULL AND queue_id = 2"
    )
    put(cursor, 3, 2, visible=False)
    cursor.execute("UPDATE kombu_message SET consumer_id = 1 WHERE queue_id = 3")

    rows = depths(cursor)

    assert {queue: (row["ready"], row["delayed"], row["claimed"]) for queue, row in rows.items()} == {
        "celery": (5, 0, 0),
        "slow": (1, 4, 0),
        "empty": (0, 0, 2),
    }
    assert 100 <= rows["celery"]["oldest_s"] < 200
    assert 50 <= rows["slow"]["oldest_s"] < 100
    assert rows["empty"]["oldest_s"] == 0


def test_dead_letters_of_queues_that_nobody_declared_are_counted_together(cursor: Any) -> None:
    for queue in ("celery", "celery", "gone", "made up"):
        cursor.execute(
            "INSERT INTO kombu_dead_letter (message_id, failures, queue, reason, payload) VALUES (1, 0, %s, '', '')",
            (queue,),
        )
    cursor.execute(DEAD_SQL, {"queues": ["celery", "slow"], "cap": CAP})
    assert dict(cursor.fetchall()) == {"celery": 2, "other": 2}
    cursor.execute(DEAD_SQL, {"queues": ["celery"], "cap": 3})
    assert sum(count for _, count in cursor.fetchall()) == 3


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)
