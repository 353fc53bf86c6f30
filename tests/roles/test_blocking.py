"""Who may only publish, wait or look keeps nobody waiting: not by a lock, an id or a row, nor by a connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
import pytest
from celery import Celery

import celery_postgres
from app.celery_app import celery_app, create_app
from app.core.settings import Settings
from celery_postgres.database import advisory_locks
from celery_postgres.database.result_store import Outcome, ResultStore
from celery_postgres.database.session import Session
from celery_postgres.results.serializer import dump
from celery_postgres.results.write import Write, record
from tests.roles.conftest import PASSWORD, ROLES_SQL, Databases
from tests.roles.test_rights import TABLES

pytestmark = pytest.mark.xdist_group("roles")

OTHERS = ("sender", "asker", "watcher")
TABLE_NAMES = [name for name in TABLES if not name.endswith(("_sequence", "_seq"))]
#: Whose wait is somebody's fault: nobody else is at work here.
PATIENCE = {"statement_timeout": "5s"}


@contextmanager
def transaction(url: str) -> Iterator[Any]:
    """A cursor in a transaction that stays open."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        yield cursor
        connection.rollback()


@pytest.fixture
def app(databases: Databases) -> Iterator[Celery]:
    """The application, as its worker's login."""
    app = create_app(Settings(database_url=databases.url("runner"), _env_file=None))
    yield app
    app.close()
    celery_app.set_current()


@pytest.mark.parametrize("login", OTHERS)
@pytest.mark.parametrize("table", TABLE_NAMES)
def test_no_table_can_be_locked_against_its_users(databases: Databases, login: str, table: str) -> None:
    modes = ("SHARE UPDATE EXCLUSIVE", "SHARE", "SHARE ROW EXCLUSIVE", "EXCLUSIVE", "ACCESS EXCLUSIVE")
    strengths = ("UPDATE", "NO KEY UPDATE", "SHARE", "KEY SHARE")
    for statement in (
        *(f"LOCK TABLE {table} IN {mode} MODE" for mode in modes),
        *(f"SELECT FROM {table} FOR {strength}" for strength in strengths),
    ):
        with transaction(databases.url(login)) as cursor, pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute(statement)


@pytest.mark.parametrize(
    "columns", ["id", "visible", "version", "enqueued_at", "fence", "consumer_id", "claimed_at", "failures", "revoked"]
)
def test_a_publisher_says_nothing_that_is_the_brokers_to_say(databases: Databases, columns: str) -> None:
    statement = f"INSERT INTO kombu_message (queue_id, payload, {columns}) VALUES (1, '', NULL)"  # noqa: S608
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        databases.run(databases.url("sender"), statement)


@pytest.mark.parametrize("table", ["kombu_queue", "celery_tasksetmeta", "celery_chord", "celery_taskmeta"])
def test_no_id_can_be_chosen(databases: Databases, table: str) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        databases.run(databases.url("asker"), f"INSERT INTO {table} (id) VALUES (1)")  # noqa: S608


def test_uncommitted_messages_keep_no_publisher_waiting(databases: Databases) -> None:
    with transaction(databases.url("sender")) as cursor:
        cursor.execute("INSERT INTO kombu_queue (name) VALUES ('crowded') ON CONFLICT (name) DO NOTHING")
        cursor.connection.commit()
        cursor.execute(
            "INSERT INTO kombu_message (queue_id, payload)"
            " SELECT queue.id, '{}' FROM kombu_queue AS queue, generate_series(1, 100) WHERE queue.name = 'crowded'"
        )
        with closing(Session(databases.url("sender"), PATIENCE)) as session:
            for _ in range(150):
                assert session.run(
                    "publish",
                    queue="crowded",
                    payload="{}",
                    priority=0,
                    task_id=None,
                    tenant_id=None,
                    eta=None,
                    ttl_ms=None,
                    flow_key="",
                    in_order=None,
                    admitted=True,
                    durable="yes",
                )


@pytest.mark.parametrize("together", [1, 3])
def test_who_gives_up_waiting_in_an_open_transaction_keeps_no_result(
    databases: Databases, app: Celery, together: int
) -> None:
    """Of one result, and of a batch."""
    ids = [f"held-{together}-{number}" for number in range(together)]
    for listener, task_id in ((4711, ids[0]), *((4712, one) for one in ids)):
        databases.run(
            databases.url("asker"),
            f"INSERT INTO celery_waiter (task_id, listener, slot) VALUES ('{task_id}', {listener}, 1)",  # noqa: S608
        )
    with transaction(databases.url("asker")) as cursor:
        cursor.execute("SELECT celery_give_up_waiting(4711, %s)", [ids])
        with closing(Session(databases.url("runner"), PATIENCE)) as session:
            record(ResultStore(session), [Write([Outcome(one, "SUCCESS", dump(1), None) for one in ids])])
    assert [app.AsyncResult(one).state for one in ids] == ["SUCCESS"] * together
    waiting = databases.run(
        databases.superuser_url(), "SELECT task_id, listener FROM celery_waiter WHERE listener IN (4711, 4712)"
    )
    assert waiting == [(ids[0], 4711)], "the others were notified"
    databases.run(databases.superuser_url(), "DELETE FROM celery_waiter")


def test_a_publisher_sizes_a_chord_and_saves_a_group_without_a_right_on_either(databases: Databases) -> None:
    url = databases.url("sender")
    assert databases.run(url, "SELECT * FROM celery_size_chord('of-mine', 3)") == [("of-mine", False)]
    assert databases.run(url, "SELECT * FROM celery_size_chord('of-mine', 5)") == [("of-mine", False)]
    databases.run(url, "SELECT celery_save_group('a-group', '', '2020-01-01')")
    stored = "SELECT size FROM celery_chord WHERE id = 'of-mine'"
    assert databases.run(databases.superuser_url(), stored) == [(3,)], "the first counts"
    for wrong in ("SELECT celery_size_chord('wrong', -1)", "SELECT celery_size_chord('wrong', 2147483647)"):
        with pytest.raises(psycopg2.errors.CheckViolation, match="celery_chord: size is 0 to"):
            databases.run(url, wrong)
    with pytest.raises(psycopg2.errors.CheckViolation, match="celery_tasksetmeta: date_done is of the years"):
        databases.run(url, "SELECT celery_save_group('a-group', 's3cret', 'infinity')")


# -- who may connect


def test_who_has_no_grant_does_not_even_connect(databases: Databases) -> None:
    databases.run(databases.cluster.superuser_url, f"CREATE ROLE stranger LOGIN PASSWORD '{PASSWORD}'")
    try:
        for name in ("migrated", "plain"):
            with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
                databases.run(databases.url("stranger", name), "SELECT 1")
    finally:
        databases.run(databases.cluster.superuser_url, "DROP ROLE stranger")


@pytest.mark.parametrize("login", OTHERS)
def test_temporary_tables_are_the_workers(databases: Databases, login: str) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        databases.run(databases.url(login), "CREATE TEMPORARY TABLE mine (id int)")
    databases.run(databases.url("runner"), "CREATE TEMPORARY TABLE mine (id int)")


def test_what_metrics_read_is_read_as_the_monitor(databases: Databases) -> None:
    from app.observability import probe
    from celery_postgres import operations

    settings = Settings(database_url=databases.url("runner"), _env_file=None)
    with closing(probe.connect(settings)) as connection, probe.limited(connection) as cursor:
        operations.monitor(connection)
        cursor.execute("SELECT current_user::text")
        assert cursor.fetchone() == ("celery_monitor",)
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute("SELECT digest FROM public.api_key")


# -- locks that anybody may hold


@contextmanager
def held(url: str, name: str) -> Iterator[int]:
    """Its process holds the advisory lock of that name."""
    with closing(psycopg2.connect(url, application_name="somebody's console")) as connection:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
        yield connection.info.backend_pid


def test_a_migration_names_who_keeps_it_waiting(
    databases: Databases, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    from environment.sources import CHECKOUT

    monkeypatch.setattr(advisory_locks, "WAITS_S", (1, 1))
    monkeypatch.setenv("DATABASE_URL", databases.url("deploy"))
    config = Config(str(CHECKOUT / "alembic.ini"))
    with held(databases.url("watcher"), "skeldir.alembic") as pid, pytest.raises(CommandError) as refusal:
        command.upgrade(config, "head")
    named = f"process {pid} (role watcher, somebody's console"
    assert f"waiting for the lock skeldir.alembic, which is held by {named}" in caplog.text
    assert f"was not free for 2 s; it is held by {named}" in str(refusal.value)
    command.upgrade(config, "head")


def test_making_the_tables_names_who_keeps_it_waiting(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advisory_locks, "WAITS_S", (1,))
    refusal = pytest.raises(
        advisory_locks.LockHeldError, match=r"held by process \d+ \(role watcher, somebody's console"
    )
    with held(databases.url("watcher", "plain"), "celery_postgres.schema"), refusal:
        celery_postgres.create_schema(databases.url("deploy", "plain"))
    celery_postgres.create_schema(databases.url("deploy", "plain"))
    databases.run(databases.url("deploy", "plain"), ROLES_SQL)


def test_the_roles_name_who_keeps_them_waiting(databases: Databases) -> None:
    sql = ROLES_SQL.replace("'60s'", "'1s'")
    assert sql != ROLES_SQL
    refusal = pytest.raises(psycopg2.errors.LockNotAvailable, match=r"process \d+, role watcher, somebody's console")
    with held(databases.url("watcher"), "celery_postgres.roles"), refusal:
        databases.run(databases.url("deploy"), sql)
