"""The one statement of a scrape: right, capped, and never through the delivered messages."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest

from app.core.dsn import PostgresDSN
from app.observability.queue_depth import SQL

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


def read(cursor: Any) -> dict[str, int]:
    cursor.execute(SQL, {"queues": ["celery", "slow", "empty", "absent"], "cap": CAP})
    return dict(cursor.fetchall())


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
    cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + SQL, {"queues": ["celery", "slow"], "cap": CAP})
    (plan,) = cursor.fetchone()
    text = json.dumps(plan)
    assert "ix_kombu_message_ready" in text
    assert all(node["Node Type"] != "Seq Scan" for node in nodes(plan[0]["Plan"]))
    assert all(node.get("Rows Removed by Filter", 0) <= 10 for node in nodes(plan[0]["Plan"]))
    assert read(cursor) == {"celery": 0, "slow": 5, "empty": 0}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)
