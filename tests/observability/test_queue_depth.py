"""The statements of a scrape: right, capped, of all queues whoever asks, and never through the delivered messages."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest

from app.core.dsn import PostgresDSN
from app.core.settings import Settings
from app.observability import queue_depth
from app.observability.queue_depth import QueueDepthCollector
from celery_postgres.database.statements import statements

CAP = 100
DEPTH_SQL = statements()["queue_depths"].direct
DEAD_SQL = statements()["dead_letter_counts"].direct


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


def asked(**changed: Any) -> dict[str, Any]:
    return {"first": [], "named": 3, "walked": 1_000, "cap": CAP, **changed}


def depths(cursor: Any, **changed: Any) -> dict[str, dict[str, Any]]:
    cursor.execute(DEPTH_SQL, asked(**changed))
    names = [column.name for column in cursor.description]
    return {row[0]: dict(zip(names, row, strict=True)) for row in cursor.fetchall()}


def read(cursor: Any) -> dict[str, float]:
    return {queue: row["ready"] for queue, row in depths(cursor).items()}


def test_it_counts_what_waits_in_each_queue_but_the_control_queues_up_to_the_cap(cursor: Any) -> None:
    put(cursor, 1, CAP + 50, visible=True)
    put(cursor, 2, 7, visible=True)
    put(cursor, 2, 40, visible=False)
    put(cursor, 4, 3, visible=True)
    assert read(cursor) == {"celery": CAP, "slow": 7, "empty": 0}


@pytest.mark.parametrize("named", [3, 1])
def test_it_reads_no_claimed_messages(cursor: Any, named: int) -> None:
    """Claimed messages, with statistics from a time when most waited, which make a plain scan look cheap."""
    put(cursor, 1, 20_000, visible=True)
    cursor.execute("ANALYZE kombu_message")
    cursor.execute("UPDATE kombu_message SET visible = false, consumer_id = 1")
    cursor.execute("VACUUM kombu_message")
    put(cursor, 2, 5, visible=True)
    read_by_index(cursor, named)
    expected = {"celery": 0, "slow": 5, "empty": 0} if named == 3 else {"celery": 0, "other": 5}
    assert {queue: row["ready"] for queue, row in depths(cursor, named=named).items()} == expected


@pytest.mark.parametrize("named", [3, 1])
def test_it_reads_by_an_index_what_an_analyze_of_dead_rows_calls_nothing(cursor: Any, named: int) -> None:
    """A long transaction keeps the dead rows, so that the next analyze sees a table that is all but empty."""
    put(cursor, 1, 20_000, visible=True)
    cursor.execute("DELETE FROM kombu_message")
    cursor.execute("ANALYZE kombu_message")
    put(cursor, 2, 5, visible=True)
    read_by_index(cursor, named)


def read_by_index(cursor: Any, named: int) -> None:
    cursor.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")  # as the collector does
    cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + DEPTH_SQL, asked(named=named))
    ((plan,),) = cursor.fetchall()
    ours = [node for node in nodes(plan[0]["Plan"]) if node.get("Relation Name") == "kombu_message"]
    assert "ix_kombu_message_ready" in {node.get("Index Name") for node in ours}
    assert [node for node in ours if node["Node Type"] not in ("Index Scan", "Index Only Scan")] == []
    assert [node for node in ours if node.get("Rows Removed by Filter", 0) > 10] == []
    # Each by the queue, but for what is held, and for the first queue of all.
    whole = [node["Index Name"] for node in ours if "queue_id" not in node.get("Index Cond", "")]
    assert sorted(whole) == ["ix_kombu_message_claimed", "ix_kombu_message_ready", "ix_kombu_message_timed"]


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

    assert {queue: (row["ready"], row["scheduled"], row["claimed"]) for queue, row in rows.items()} == {
        "celery": (5, 0, 0),
        "slow": (1, 4, 0),
        "empty": (0, 0, 2),
    }
    assert 100 <= rows["celery"]["oldest_s"] < 200
    assert 50 <= rows["slow"]["oldest_s"] < 100
    assert rows["empty"]["oldest_s"] == 0


def test_the_rest_of_many_queues_is_one(cursor: Any) -> None:
    """With the age of its oldest, and the consumers of the one with ready messages that has fewest."""
    cursor.execute("INSERT INTO kombu_consumer (hostname, pid) VALUES ('host', 1), ('host', 2)")
    cursor.execute("INSERT INTO kombu_subscription (queue_id, consumer_id) VALUES (2, 1), (3, 1), (3, 2)")
    put(cursor, 1, 1, visible=True)
    put(cursor, 2, CAP - 5, visible=True)
    put(cursor, 3, 20, visible=True)
    put(cursor, 2, 2, visible=False)
    put(cursor, 3, 3, visible=False)
    cursor.execute("UPDATE kombu_message SET consumer_id = 1 WHERE NOT visible")
    cursor.execute("UPDATE kombu_message SET enqueued_at = now() - interval '100 s' WHERE queue_id = 3")
    cursor.execute("UPDATE kombu_message SET available_at = now() + interval '1 h' WHERE id IN (2, 3)")
    rows = depths(cursor, named=1)
    assert rows.keys() == {"celery", "other"}
    other = rows["other"]
    assert [other[name] for name in ("ready", "scheduled", "claimed", "consumers")] == [CAP, 2, 5, 1]
    assert 100 <= other["oldest_s"] < 200
    cursor.execute("DELETE FROM kombu_message WHERE visible AND available_at IS NULL AND queue_id <> 1")
    rows = depths(cursor, named=1)
    assert rows["other"]["ready"] == 0
    assert (rows["other"]["consumers"], rows["celery"]["consumers"]) == (None, 0)
    assert depths(cursor, named=1, first=["slow"]).keys() == {"slow", "other"}
    cursor.execute("UPDATE kombu_queue SET consumed = true WHERE name = 'empty'")
    assert depths(cursor, named=1).keys() == {"empty", "other"}


def test_a_queue_called_other_is_one_of_the_rest(cursor: Any) -> None:
    cursor.execute("INSERT INTO kombu_queue (id, name, auto_delete) VALUES (5, 'other', false), (6, 'bcast.1', true)")
    put(cursor, 5, 4, visible=True)
    put(cursor, 6, 4, visible=True)
    assert {queue: row["ready"] for queue, row in depths(cursor, named=9).items()} == {
        "celery": 0,
        "slow": 0,
        "empty": 0,
        "other": 4,
    }


def test_of_a_long_queue_it_reads_no_more_than_the_cap(cursor: Any) -> None:
    put(cursor, 1, 20 * CAP, visible=True)
    cursor.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
    cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + DEPTH_SQL, asked())
    ((plan,),) = cursor.fetchall()
    ours = [node for node in nodes(plan[0]["Plan"]) if node.get("Relation Name") == "kombu_message"]
    assert max(node["Actual Rows"] * node["Actual Loops"] for node in ours) <= CAP


def test_it_costs_little_where_there_are_thousands_of_queues_and_messages(cursor: Any) -> None:
    """In blocks rather than in time: 23,000 of them took 18 ms, with 10,000 queues of which half have messages."""
    cursor.execute("INSERT INTO kombu_queue (id, name) SELECT n, 'q' || n FROM generate_series(10, 10009) AS n")
    cursor.execute(
        "INSERT INTO kombu_message (id, visible, payload, version, queue_id)"
        " SELECT nextval('message_id_sequence'), true, 'x', 1, 10 + n % 5000 FROM generate_series(1, 20000) AS n"
    )
    cursor.execute("VACUUM ANALYZE kombu_message")
    cursor.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
    cursor.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + DEPTH_SQL, asked(named=100))
    ((plan,),) = cursor.fetchall()
    assert plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"] < 40_000


def test_a_scrape_shows_queues_that_no_worker_here_knows(
    cursor: Any, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those whose workers are all gone, and those that nobody ever consumed."""
    monkeypatch.setattr(queue_depth, "get_settings", lambda: Settings(database_url=database.url, _env_file=None))
    cursor.execute("UPDATE kombu_queue SET name = 'reports', consumed = true WHERE name = 'slow'")
    put(cursor, 2, 50, visible=True)
    put(cursor, 3, 20, visible=True)
    cursor.execute(
        "INSERT INTO kombu_dead_letter (message_id, failures, queue, reason, payload) VALUES (1, 0, 'reports', '', '')"
    )
    families = {family.name: family for family in QueueDepthCollector().collect()}
    shown = {
        name: {sample.labels["queue"]: sample.value for sample in family.samples} for name, family in families.items()
    }
    assert shown["celery_queue_ready"] == {"celery": 0, "reports": 50, "empty": 20}
    assert shown["celery_queue_consumers"] == {"celery": 0, "reports": 0, "empty": 0}
    assert shown["celery_dead_letters"] == {"celery": 0, "reports": 1, "empty": 0, "other": 0}
    assert shown["celery_dead_letters_recent"] == shown["celery_dead_letters"]


def test_dead_letters_of_queues_that_have_no_name_here_are_counted_together(cursor: Any) -> None:
    for queue, age_min in (("celery", 1), ("celery", 20), ("gone", 1), ("made up", 2), (None, 30)):
        cursor.execute(
            "INSERT INTO kombu_dead_letter (message_id, failures, queue, reason, payload, died_at)"
            " VALUES (1, 0, %s, '', '', now() - %s * interval '1 min')",
            (queue, age_min),
        )
    cursor.execute(DEAD_SQL, {"queues": ["celery", "slow"], "cap": CAP})
    assert sorted(cursor.fetchall()) == [("celery", 2, 1), ("other", 3, 2)]
    cursor.execute(DEAD_SQL, {"queues": ["celery"], "cap": 3})
    assert sum(count for _, count, _ in cursor.fetchall()) == 3


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)
