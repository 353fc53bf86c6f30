"""No statement's plan depends on statistics: whatever the last analyze has seen, every table that grows with the work
is read by the first column of an index.

PostgreSQL plans anew after each analyze, and autovacuum analyzes a busy table every minute. One that sees a table of
dead rows (a long transaction keeps them) finds it nearly empty, and a join over nearly nothing may read all of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from psycopg2 import sql

from celery_postgres.database.session import Session
from celery_postgres.database.statements import statements
from environment.testkit.databases import engine_of, rows
from environment.testkit.tables import run

ROWS = 20_000
SERIES = f"FROM generate_series(1, {ROWS}) AS n"
FILL = {
    "kombu_message": "(id, visible, payload, version, queue_id)"
    f" SELECT nextval('message_id_sequence'), true, repeat('x', 300), 1, 1 {SERIES}",
    "kombu_dead_letter": f"(message_id, failures, queue, reason, payload) SELECT n, 1, 'q', 'r', '{{}}' {SERIES}",
    "celery_taskmeta": "(id, task_id, status, date_done)"
    f" SELECT nextval('task_id_sequence'), 'task-' || n, 'SUCCESS', now() {SERIES}",
    "celery_tasksetmeta": "(id, taskset_id, date_done)"
    f" SELECT nextval('taskset_id_sequence'), 'group-' || n, now() {SERIES}",
    "celery_chord": f"(id, size, done) SELECT 'chord-' || n, 1, 0 {SERIES}",
    "celery_chord_part": f"(chord_id, task_id, status) SELECT 'chord-' || n, 'task-' || n, 'SUCCESS' {SERIES}",
    "celery_waiter": f"(task_id, listener, slot) SELECT 'task-' || n, n, n {SERIES}",
    "celery_minute": "(minute, consumer_id, queue, name, started, done, failed, retried, waited, ran)"
    f" SELECT now() - n * interval '1 minute', n % 2, 'q', 'n', 1, 1, 0, 0, '{{}}', '{{}}' {SERIES}",
    "celery_depth": f"(minute, queue, waiting) SELECT now() - n * interval '1 minute', 'q', 1 {SERIES}",
    "celery_hour": "(hour, queue, name, started, done, failed, retried, waited, ran)"
    f" SELECT now() - n * interval '1 hour', 'q', 'n', 1, 1, 0, 0, '{{}}', '{{}}' {SERIES}",
}

#: What reads a whole index or table, and may.
WHOLE = {
    # By an operator's hand: all there is, or all that stock's consumers have left.
    "queues_overview": {"ix_kombu_message_claimed"},
    "dead_letters": {"ix_kombu_dead_letter_died_at"},
    "count_taken_by_stock": {"ix_kombu_message_taken"},
    "delete_taken_by_stock": {"ix_kombu_message_taken"},
    # What is claimed, once, when a queue has ended.
    "drop_messages": {"ix_kombu_message_claimed"},
    # The first entry of each queue, by the order of the index.
    "orphaned_queues": {"ix_kombu_message_ready", "ix_kombu_message_timed", "ix_kombu_message_taken"},
    **{name: {"ix_kombu_message_fair"} for name in ("keyed_though_unfair", "what_is_due")},
    # The same, and what is claimed, at most ten times the cap.
    "queue_depths": {"ix_kombu_message_claimed", "ix_kombu_message_ready", "ix_kombu_message_timed"},
    # The newest, up to a cap.
    "dead_letter_counts": {"ix_kombu_dead_letter_died_at"},
    # The same, for views.
    "view_claims": {"ix_kombu_message_claimed"},
    "view_dead_by_queue": {"ix_kombu_dead_letter_died_at"},
    "view_messages_of_queue": {"ix_kombu_message_claimed"},
    "view_messages_of_queue_end": {"ix_kombu_message_claimed"},
    # Who waits now, once an hour.
    "drop_old_waiters": {"celery_waiter"},
}


def fill(url: str) -> None:
    run(url, *(f"INSERT INTO {table} {values}" for table, values in FILL.items()))


def analyze(url: str) -> None:
    run(url, *(f"ANALYZE {table}" for table in FILL))


@pytest.fixture(params=["empty", "full", "dead"])
def url(database: Any, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database whose tables were empty at the last analyze, or full, or full of dead rows that nobody may remove."""
    url = str(database.url)
    run(url, *(f"ALTER TABLE {table} SET (autovacuum_enabled = false)" for table in FILL))
    if request.param == "empty":
        analyze(url)
        fill(url)
        yield url
        return
    fill(url)
    if request.param == "full":
        analyze(url)
        yield url
        return
    with engine_of(url).connect() as holder:
        holder.exec_driver_sql("SELECT txid_current()")
        run(url, *(f"DELETE FROM {table}" for table in FILL))  # noqa: S608
        analyze(url)
        yield url


def read_whole(plan: dict[str, Any], leading: dict[str, str]) -> Iterator[str]:
    """The tables and indexes that a plan reads from end to end."""
    if plan.get("Relation Name") in FILL and plan["Node Type"] != "ModifyTable":
        index = plan.get("Index Name")
        if index is None:
            yield plan["Relation Name"]
        elif leading[index] not in plan.get("Index Cond", ""):
            yield index
    for part in plan.get("Plans", ()):
        yield from read_whole(part, leading)


def plans(url: str, *names: str) -> dict[str, dict[str, Any]]:
    """The plans of statements, as a worker's session makes them."""
    session = Session(url)
    found = {}
    try:
        with session.transaction() as connection, connection.cursor() as cursor:
            for name in names:
                statement = statements()[name]
                cursor.execute(statement.prepare)
                nothing = ", ".join(["NULL"] * len(statement.parameters))
                arguments = sql.SQL(f"({nothing})" if nothing else "")
                execute = sql.SQL("EXPLAIN (FORMAT JSON) EXECUTE {}{}").format(sql.Identifier(name), arguments)
                cursor.execute(execute)
                ((told,),) = cursor.fetchall()
                plan = told if isinstance(told, list) else json.loads(told)
                found[name] = plan[0]["Plan"]
    finally:
        session.close()
    return found


def test_every_plan_reads_by_an_index_whatever_the_statistics_say(url: str) -> None:
    columns = "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid, 1, true) FROM pg_index"
    leading = {name: column.strip("()") for name, column in rows(url, columns)}
    reading = [name for name, statement in statements().items() if not statement.copied]
    whole = {name: set(read_whole(plan, leading)) for name, plan in plans(url, *reading).items()}
    assert {name: found for name, found in whole.items() if found} == WHOLE


def scans(plan: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The indexes by which a plan reads messages, each with what it leaves out of what it has read."""
    if plan.get("Relation Name") == "kombu_message" and "Index Name" in plan:
        yield plan["Index Name"], plan.get("Filter", "")
    for part in plan.get("Plans", ()):
        yield from scans(part)


@pytest.mark.parametrize(
    "seen",
    [
        "(queue_id, payload) SELECT n % 2, 'x'",
        "(queue_id, payload, available_at, flow_key, visible) SELECT n % 2, 'x', now(), n, false",
        "(queue_id, payload, available_at, flow_key, failures) SELECT n % 2, 'x', now(), n, 1",
        "(queue_id, payload, available_at, flow_key) SELECT 1, 'x', now(), n",
        "(queue_id, payload, available_at, flow_later) SELECT 1, 'x', now() + interval '1 h', n",
    ],
    ids=["without keys", "claimed", "failed", "keys", "scheduled"],
)
def test_a_fair_queue_is_read_as_ever_whatever_the_statistics_say(plain_database: Any, seen: str) -> None:
    """Every message of a fair queue has a time and, when it is ready, a key: an index of all of these is a backlog."""
    url = plain_database.url
    run(url, "ALTER TABLE kombu_message SET (autovacuum_enabled = false)")
    run(url, f"INSERT INTO kombu_message {seen} {SERIES}", "ANALYZE kombu_message")
    found = {name: set(scans(plan)) for name, plan in plans(url, "look_for_keys", "claim", "claim_turns").items()}
    assert {index for index, left_out in found["look_for_keys"] if "failures = 0" in left_out} == {"kombu_message_pkey"}
    for name, of_statement in found.items():
        indexes = {index for index, _ in of_statement}
        assert "ix_kombu_message_failed" in indexes, name
        assert "ix_kombu_message_timed" not in indexes, name
        assert {index for index, left_out in of_statement if "failures > 0" in left_out} <= {"ix_kombu_message_failed"}
