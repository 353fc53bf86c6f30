"""The statements of results read only the rows that they need, by index, however large the tables and however old the
statistics are. PostgreSQL's own counters are the measure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from celery_postgres.database.result_store import Outcome, Part
from celery_postgres.results.serializer import dump
from celery_postgres.results.write import Write, record
from environment.testkit.databases import rows
from environment.testkit.probe import DEADLINE_S
from environment.testkit.tables import run, scalar
from environment.waiting import wait_until

MANY = 100_000
TABLES = ("celery_taskmeta", "celery_chord", "celery_chord_part", "celery_waiter", "kombu_message")


@pytest.fixture
def url(plain_database: Any) -> str:
    """A database whose statistics say that its tables are empty."""
    url = str(plain_database.url)
    series = f"FROM generate_series(1, {MANY}) AS n"
    run(
        url,
        *(f"ALTER TABLE {table} SET (autovacuum_enabled = false)" for table in TABLES),
        *(f"ANALYZE {table}" for table in TABLES),
        "INSERT INTO celery_taskmeta (id, task_id, status, result, date_done)"
        f" SELECT nextval('task_id_sequence'), 'task-' || n, 'SUCCESS', '\\x4b012e', now() {series}",
        f"INSERT INTO celery_chord (id, size, done) SELECT 'chord-' || n, 1, 0 {series}",
        f"INSERT INTO celery_chord_part (chord_id, task_id, status) SELECT 'chord-' || n, 'x', 'SUCCESS' {series}",
        f"INSERT INTO celery_waiter (task_id, listener, slot) SELECT 'task-' || n, n, n {series}",
    )
    settle(url)
    return url


def settle(url: str) -> None:
    """Wait until all other sessions have ended: only then are their counts reported."""
    others = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND backend_type = 'client backend'"
    )
    wait_until(lambda: scalar(url, others) == 0, DEADLINE_S, "all sessions to end")


def reads(url: str) -> tuple[int, int]:
    """What was read by scanning, and by index."""
    ((scanned, fetched),) = rows(
        url,
        "SELECT sum(seq_tup_read), sum(coalesce(idx_tup_fetch, 0)) FROM pg_stat_user_tables WHERE relname = ANY(:t)",
        t=list(TABLES),
    )
    ((entries,),) = rows(
        url, "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = ANY(:t)", t=list(TABLES)
    )
    return int(scanned), int(fetched) + int(entries)


def outcome(task_id: str) -> Outcome:
    return Outcome(task_id, "SUCCESS", dump(1), None)


TASKS = [f"task-{number}" for number in range(100)]
Work = Callable[[Celery], object]
WORK: dict[str, Work] = {
    "record": lambda app: record(
        app.backend.result_store,
        [
            Write([outcome(f"task-{number}")], [Part(f"chord-{number}", f"task-{number}", 0, "SUCCESS", None, "{}")])
            for number in range(100)
        ],
    ),
    "record new results": lambda app: record(
        app.backend.result_store, [Write([outcome(f"new-{number}")]) for number in range(100)]
    ),
    "record_one": lambda app: [app.backend.result_store.record_one(outcome(one), None) for one in TASKS],
    "results": lambda app: app.backend.result_store.results(TASKS),
    "result": lambda app: [app.AsyncResult(f"task-{number}").state for number in range(100)],
    "await_results": lambda app: app.backend.result_store.await_results(7, dict(zip(TASKS, range(100), strict=True))),
    "stop_waiting": lambda app: app.backend.result_store.stop_waiting(7, TASKS),
    "chord_parts": lambda app: [app.backend.chord_store.due(f"chord-{number}") for number in range(100)],
    "overdue_chords": lambda app: app.backend.chord_store.overdue(1.0),
    "forget": lambda app: [app.backend.forget(f"task-{number}") for number in range(100)],
}


def test_statements_read_only_the_rows_that_they_need_and_by_index(url: str, make_app: Callable[..., Celery]) -> None:
    for name, work in WORK.items():
        before = reads(url)
        app = make_app(url)
        work(app)
        app.backend.sessions.close()
        settle(url)
        scanned, by_index = (after - was for after, was in zip(reads(url), before, strict=True))
        assert scanned == 0, name
        assert by_index < 10_000, (name, by_index)
