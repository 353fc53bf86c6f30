"""A view reads as many rows as its limits say, however many there are: each scan is counted by EXPLAIN ANALYZE.

`test_statistics.py` holds that no view reads a table from end to end, whatever the statistics say.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg2 import sql

from celery_postgres.database.session import Session
from celery_postgres.database.statements import statements
from environment.testkit.tables import run

ROWS, LIMIT = 4_000, 20
GROWING = {
    *("kombu_message", "celery_taskmeta", "celery_attempt", "kombu_dead_letter", "kombu_limit"),
    *("celery_minute", "celery_minute_sum", "celery_depth"),
}
SERIES = f"FROM generate_series(1, {ROWS}) AS n"
PAYLOAD = """'{"body": "", "headers": {"task": "mine.task' || n % 7 || '"}}'"""
OF_FAIR = f"{SERIES} JOIN kombu_queue AS queue ON queue.name = 'fair'"
FILL = (
    "INSERT INTO kombu_queue (name, consumed) SELECT 'queue-' || n, true FROM generate_series(1, 3) AS n",
    f"INSERT INTO kombu_message (payload, queue_id, task_id, priority) SELECT {PAYLOAD}, 1 + n % 3, 'task-' || n, n % 2"
    f" {SERIES}",
    f"INSERT INTO kombu_message (payload, queue_id, available_at) SELECT {PAYLOAD}, 1 + n % 3,"
    f" now() + n * interval '1 h' {SERIES}",
    "INSERT INTO kombu_message (payload, queue_id, visible, consumer_id, claimed_at)"
    f" SELECT {PAYLOAD}, 1 + n % 3, false, n % 3, now() {SERIES}",
    "INSERT INTO kombu_dead_letter (message_id, failures, queue, reason, payload, task_id, died_at)"
    f" SELECT n, 1, 'queue-1', 'r', {PAYLOAD}, 'task-' || n, now() - n * interval '1 s' {SERIES}",
    "INSERT INTO celery_taskmeta (id, task_id, status, date_done, name)"
    " SELECT nextval('task_id_sequence'), 'task-' || n, 'SUCCESS', timezone('UTC', now()) - n * interval '1 s',"
    f" 'mine.task' {SERIES}",
    "UPDATE celery_taskmeta SET status = 'FAILURE' WHERE id % 2 = 0",
    "UPDATE celery_taskmeta SET tenant_id = '00000000-0000-0000-0000-00000000000a'",
    "INSERT INTO celery_attempt (task_id, state, name, error, tenant_id, ended_at)"
    " SELECT 'past-' || n, 'failed', 'mine.task', 'ValueError', '00000000-0000-0000-0000-00000000000a', now()"
    f" {SERIES}",
    # The minutes of ten queues, most of them older than an hour.
    "INSERT INTO celery_minute (minute, consumer_id, queue, name, started, done, failed, retried, waited, ran)"
    " SELECT date_trunc('minute', now()) - n % 400 * interval '1 min', 0, 'queue-' || n / 400, 'mine.task', 1, 1, 0, 0,"
    f" '{{}}', '{{}}' {SERIES}",
    "INSERT INTO celery_depth (minute, queue, waiting) SELECT minute, queue, 1 FROM celery_minute",
    # A fair queue with limits of many keys, each with messages that wait and run.
    "INSERT INTO kombu_queue (name, fair) VALUES ('fair', true)",
    "INSERT INTO kombu_limit (queue_id, key, flow_key, max_running)"
    f" SELECT queue.id, 'key-' || n, hashtextextended('key-' || n, 0), 5 {OF_FAIR}",
    "INSERT INTO kombu_limit (queue_id, key, max_running) SELECT id, '*', 5 FROM kombu_queue WHERE name = 'fair'",
    "INSERT INTO kombu_limit (queue_id, key, flow_key, max_running)"
    " SELECT id, '', 0, 9 FROM kombu_queue WHERE name = 'fair'",
    "INSERT INTO kombu_message (payload, queue_id, flow_key, available_at, visible)"
    f" SELECT {PAYLOAD}, queue.id, hashtextextended('key-' || n % 9, 0), now(), n % 2 = 0 {OF_FAIR}",
    "INSERT INTO kombu_consumer (hostname, pid) SELECT 'host', n FROM generate_series(1, 3) AS n",
)
NOW = datetime(2999, 1, 1, tzinfo=UTC)
#: What a reader asks; what is not here is null.
ASKED: dict[str, Any] = {
    "cap": LIMIT, "queues": 10, "scanned": LIMIT, "limit": LIMIT, "groups": 10, "most": 10, "recent_s": 900.0,
    "before": NOW, "before_id": 2**62, "after": datetime(1970, 1, 1, tzinfo=UTC), "after_id": 0,
    "key": "key-7", "after_queue": 0, "after_key": "", "running_cap": LIMIT, "tenant": None,
    "root": "task-77", "task_ids": ["task-77", "task-78"], "longest": 1_000,
    "named": '"group": "g"', "chord": "c", "statuses": ["FAILURE"], "states": ["failed"],
    "prefix": "task-1", "task_id": "task-77", "since": datetime(1970, 1, 1, tzinfo=UTC),
}  # fmt: skip
#: What is asked where it finds nothing, so that all that may be read is read.
NOTHING = {"task": "there is no such name", "names": ["%there is no such name%"]}
OF_A_QUEUE = {"queue": "queue-2"}
#: Rows that a statement may read: of each of ten priorities and of what has a time, of each of three queues.
MOST = 3 * 14 * LIMIT
#: What reads an hour, in which ten queues have 600 rows.
OWN_LIMIT = {
    **dict.fromkeys(("view_outcomes", "view_minutes", "view_depths"), 61),
    "view_counts": 2 * 61,  # by minute, and by name
}


@pytest.fixture(scope="module")
def session(module_database: Any) -> Iterator[Session]:
    url = str(module_database.url)
    run(url, *FILL)
    run(url, "UPDATE kombu_queue SET id = id - (SELECT min(id) FROM kombu_queue) + 1", "ANALYZE")
    session = Session(url)
    yield session
    session.close()


def rows_read(plan: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """The growing tables that a plan reads, and how many rows of each."""
    if plan.get("Relation Name") in GROWING:
        kept = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
        yield plan["Relation Name"], round(kept * plan["Actual Loops"])
    for part in plan.get("Plans", ()):
        yield from rows_read(part)


VIEWS = sorted(name for name in statements() if name.startswith("view_"))


def asked(name: str, **more: Any) -> dict[str, Any]:
    known = {**ASKED, **more}
    if name.startswith(("view_messages", "view_attempts")) and name != "view_messages_of_task":
        known["before"] = 2**62
    if name in OWN_LIMIT:
        known["since"] = known["lately"] = datetime.now(UTC) - timedelta(hours=1)
    if "of_tenant" in name:
        known["tenant"] = "00000000-0000-0000-0000-00000000000a"
    return {parameter: known.get(parameter) for parameter in statements()[name].parameters}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("more", [{}, NOTHING, OF_A_QUEUE, NOTHING | OF_A_QUEUE], ids=["all", "none", "queue", "both"])
def test_a_view_reads_no_more_than_its_limits(session: Session, name: str, more: dict[str, Any]) -> None:
    statement = statements()[name]
    with session.transaction() as connection, connection.cursor() as cursor:
        cursor.execute(sql.SQL("EXPLAIN (ANALYZE, FORMAT JSON) ") + sql.SQL(statement.direct), asked(name, **more))
        ((told,),) = cursor.fetchall()
    plan = told if isinstance(told, list) else json.loads(told)
    read = sum(count for _, count in rows_read(plan[0]["Plan"]))
    assert read <= OWN_LIMIT.get(name, MOST), plan


def test_what_is_counted_would_find_a_view_without_a_limit(session: Session) -> None:
    with session.transaction() as connection, connection.cursor() as cursor:
        cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) SELECT count(*) FROM kombu_message")
        ((plan,),) = cursor.fetchall()
    assert sum(count for _, count in rows_read(plan[0]["Plan"])) > MOST
