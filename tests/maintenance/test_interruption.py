"""What ends a run in the middle, and who else is at work: nothing is lost, nothing is done twice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from app.core.context import working_for
from app.core.settings import Settings
from app.db.engine import build_engine
from app.db.transient import TransientDatabaseError, is_transient
from app.tasks import maintenance
from environment.testkit.databases import engine_of, rows, run
from tests.maintenance.support import NEW, OLD, A, B, add_events, as_tenant, audit, count, keep, scrub

LOCKED = """
    SELECT count(*) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
    WHERE l.locktype = 'advisory' AND d.datname = current_database() AND l.granted = :granted
"""
LOCK = text("SELECT pg_advisory_lock(hashtextextended(:name, 0))")
BATCH = [("apply_retention", None, "delete", False, 10, 10)]
REST = [("apply_retention", None, "delete", False, 5, 5)]


def terminate_at(
    engine: Engine, url: str, number: int, *, word: str = "DELETE", moment: str = "before_cursor_execute"
) -> None:
    """Have the server end the session just before (or after) it gets its n-th statement with this word; once."""
    seen = []

    @event.listens_for(engine, moment)
    def count_statements(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if word in statement:
            seen.append(statement)
            if len(seen) == number:
                pid = connection.connection.dbapi_connection.info.backend_pid
                run(url, f"SELECT pg_terminate_backend({pid}, 5000)")


def test_a_lost_connection_keeps_what_was_committed(engine: Engine, database: Any) -> None:
    add_events(engine, A)
    keep(engine, A, 30)
    terminate_at(engine, database.url, 2)

    with pytest.raises(TransientDatabaseError):
        maintenance.apply_retention(tenant_id=str(A), dry_run=False)
    assert audit(engine, A) == BATCH
    assert count(engine, A) == OLD + NEW - 10

    (policy,) = maintenance.apply_retention(tenant_id=str(A), dry_run=False)["policies"]
    assert policy["rows_changed"] == OLD - 10
    assert audit(engine, A) == [*BATCH, *BATCH, *REST]
    assert count(engine, A) == NEW


@pytest.mark.parametrize("statement", ["UPDATE public.customer_event", "lo_create", "lo_unlink"])
@pytest.mark.parametrize("moment", ["before_cursor_execute", "after_cursor_execute"])
def test_a_lost_connection_is_retried(engine: Engine, database: Any, statement: str, moment: str) -> None:
    add_events(engine, A)
    scrub(engine, A, "email", "hash")
    terminate_at(engine, database.url, 3, word=statement, moment=moment)
    answer = maintenance.scrub_pii.apply(kwargs={"tenant_id": str(A), "dry_run": False})
    assert answer.state == "SUCCESS", answer.traceback
    (policy,) = answer.result["policies"]
    assert policy["rows_changed"] == OLD - 20
    assert [entry[5] for entry in audit(engine, A)] == [10, 10, 5]


def test_a_batch_without_its_audit_row_does_not_happen(engine: Engine, database: Any) -> None:
    add_events(engine, A)
    keep(engine, A, 30)
    run(database.url, "ALTER TABLE maintenance_audit ADD CHECK (rows_changed <> 5)")
    with pytest.raises(IntegrityError):
        maintenance.apply_retention(tenant_id=str(A), dry_run=False)
    assert audit(engine, A) == [*BATCH, *BATCH]
    assert count(engine, A) == OLD + NEW - 20


def test_a_second_run_for_the_tenant_leaves_the_work_to_the_first(
    engine: Engine, database: Any, impatient: None
) -> None:
    add_events(engine, A, B)
    keep(engine, A, 30)
    keep(engine, B, 30)
    scrub(engine, A, "ip", "null")
    with engine_of(database.url).connect() as first:
        first.execute(LOCK, {"name": f"app.maintenance:apply_retention:{A}"})
        result = maintenance.apply_retention(tenant_id=str(A), dry_run=False)
        other_tenant = maintenance.apply_retention(tenant_id=str(B), dry_run=False)
        other_kind = maintenance.scrub_pii(tenant_id=str(A), dry_run=False)
    assert result == {"dry_run": False, "skipped": True, "policies": []}
    assert count(engine, A) == OLD + NEW
    assert (other_tenant["skipped"], other_kind["skipped"]) == (False, False)


def test_a_second_run_waits_for_the_last_batch_of_a_dead_one(engine: Engine, database: Any, wait_until: Any) -> None:
    add_events(engine, A)
    keep(engine, A, 30)
    with ThreadPoolExecutor(1) as threads, engine_of(database.url).connect() as dead:
        dead.execute(LOCK, {"name": f"app.maintenance:apply_retention:{A}"})
        second = threads.submit(maintenance.apply_retention, tenant_id=str(A), dry_run=False)
        wait_until(lambda: rows(database.url, LOCKED, granted=False) == [(1,)], 60, "the second run to wait")
        dead.invalidate()
        assert second.result(timeout=60)["policies"][0]["rows_changed"] == OLD


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_no_lock_outlives_its_run(engine: Engine, database: Any, ends: str) -> None:
    add_events(engine, A)
    keep(engine, A, 30)
    if ends == "badly":
        run(database.url, "ALTER TABLE maintenance_audit ADD CHECK (rows_changed < 10)")
        with pytest.raises(IntegrityError):
            maintenance.apply_retention(tenant_id=str(A), dry_run=False)
    else:
        maintenance.apply_retention(tenant_id=str(A), dry_run=False)
    assert engine.pool.checkedin() == 1
    assert rows(database.url, LOCKED, granted=True) == [(0,)]


def test_rows_that_the_application_has_locked_are_left_for_the_next_run(engine: Engine, database: Any) -> None:
    run(database.url, f"ALTER DATABASE \"{database.name}\" SET lock_timeout = '2s'")  # fail rather than hang
    add_events(engine, A)
    keep(engine, A, 30)
    application = build_engine(Settings(database_url=database.url, _env_file=None))
    with working_for(A, None), application.begin() as busy:
        locked = busy.execute(text("SELECT id FROM customer_event ORDER BY occurred_at LIMIT 3 FOR UPDATE")).all()
        (policy,) = maintenance.apply_retention(tenant_id=str(A), dry_run=False)["policies"]
    application.dispose()
    assert (policy["rows_matched"], policy["rows_changed"]) == (OLD, OLD - 3)
    assert as_tenant(
        engine, A, "SELECT count(*) FROM customer_event WHERE id = ANY(:ids)", ids=[r.id for r in locked]
    ) == [(3,)]
    (policy,) = maintenance.apply_retention(tenant_id=str(A), dry_run=False)["policies"]
    assert (policy["rows_matched"], policy["rows_changed"]) == (3, 3)


@pytest.mark.parametrize(
    ("code", "transient"),
    [
        ("40001", True),
        ("40P01", True),
        ("08006", True),
        ("57P01", True),
        ("57P03", True),
        (None, True),
        ("55P03", True),
        ("57014", False),
        ("42501", False),
        ("23514", False),
    ],
)
def test_what_is_tried_again(code: str | None, transient: bool) -> None:
    class DriverError(Exception):
        pgcode = code

    assert is_transient(OperationalError("SELECT 1", {}, DriverError())) is transient
    assert is_transient(DBAPIError("SELECT 1", {}, DriverError(), connection_invalidated=True)) is True


def test_an_unreachable_database_is_tried_again(monkeypatch: pytest.MonkeyPatch, configure: Any, tmp_path: Any) -> None:
    configure()
    nowhere = build_engine(Settings(database_url=f"postgresql://x@/y?host={tmp_path}", _env_file=None))
    monkeypatch.setattr(maintenance, "get_engine", lambda: nowhere)
    with pytest.raises(TransientDatabaseError) as caught:
        maintenance.apply_retention(tenant_id=str(A))
    assert str(tmp_path) not in str(caught.value)
