"""The connections that tasks share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import date
from typing import Any

import psycopg2
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from app.core.dsn import PostgresDSN
from app.core.settings import Settings
from app.db.engine import build_engine
from app.db.transient import TransientDatabaseError, transient_errors

_WRITE = text("CREATE TABLE written ()")
_PID = text("SELECT pg_backend_pid()")


def test_a_connection_that_may_not_write_is_not_kept(database: Any) -> None:
    """It would go on so for as long as it lives, and tasks would fail on a database that takes writes again."""
    engine = build_engine(Settings(database_url=database.url, _env_file=None))
    with closing(psycopg2.connect(PostgresDSN.parse(database.url).libpq())) as owner:
        owner.autocommit = True
        owner.cursor().execute(f'ALTER DATABASE "{database.name}" SET default_transaction_read_only = on')
        with (
            pytest.raises(TransientDatabaseError, match=r"the database takes no writes \(SQLSTATE 25006\)") as caught,
            transient_errors(),
            engine.begin() as connection,
        ):
            connection.execute(_WRITE)
        assert isinstance(caught.value.__cause__, DBAPIError)
        owner.cursor().execute(f'ALTER DATABASE "{database.name}" RESET default_transaction_read_only')
    with engine.begin() as connection:
        connection.execute(_WRITE)
    engine.dispose()


#: What a task can do to a session, and how the next one would notice.
_TRACES = {
    "a search_path": ("SET search_path = elsewhere", "SELECT current_setting('search_path') = 'elsewhere'"),
    "a role": ("SET ROLE pg_monitor", "SELECT current_user = 'pg_monitor'"),
    "a timeout": ("SET statement_timeout = '1ms'", "SELECT current_setting('statement_timeout') = '1ms'"),
    "the form of dates": ("SET datestyle = 'SQL, DMY'", "SELECT current_setting('datestyle') LIKE 'SQL%'"),
    "row security": ("SET row_security = off", "SELECT current_setting('row_security') = 'off'"),
    "a setting of its own": ("SET my.secret = 'x'", "SELECT current_setting('my.secret', true) = 'x'"),
    "a temporary table": (
        "CREATE TEMP TABLE customer_event (id int)",
        "SELECT to_regclass('customer_event') IS DISTINCT FROM 'public.customer_event'::regclass",
    ),
    "a temporary view": ("CREATE TEMP VIEW v AS SELECT 1", "SELECT to_regclass('v') IS NOT NULL"),
    "a prepared statement": ("PREPARE mine AS SELECT 1", "SELECT count(*) > 0 FROM pg_prepared_statements"),
    "a cursor": (
        "DECLARE mine CURSOR WITH HOLD FOR SELECT 1",
        "SELECT count(*) > 0 FROM pg_cursors WHERE name = 'mine'",
    ),
    "a listener": ("LISTEN somebody", "SELECT count(*) > 0 FROM pg_listening_channels()"),
    "a lock": (
        "SELECT pg_advisory_lock(4711)",
        "SELECT count(*) > 0 FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'",
    ),
}


@pytest.fixture
def one_connection(database: Any) -> Iterator[Engine]:
    """The application's engine with a pool of one, so that every trace would be seen."""
    url = database.superuser_url or database.url  # SET ROLE needs a role that may
    engine = build_engine(Settings(database_url=url, _env_file=None), pool_size=1)
    yield engine
    engine.dispose()


@pytest.mark.parametrize("end", ["commit", "rollback", "autocommit", "error"])
def test_what_a_task_did_to_its_session_does_not_reach_the_next(
    one_connection: Engine, database: Any, end: str
) -> None:
    superuser = database.superuser_url is not None
    with one_connection.connect() as connection:
        pid = connection.execute(_PID).scalar_one()
    for name, (statement, notice) in _TRACES.items():
        if name == "a role" and not superuser:
            continue  # a server that is not ours
        with one_connection.connect() as connection:
            if end == "autocommit":
                connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.execute(text(statement))
            if end != "rollback":
                connection.commit()
                assert connection.execute(text(notice)).scalar_one(), name
            if end == "error":
                with pytest.raises(DBAPIError):
                    connection.execute(text("SELECT 1 / 0"))
        with one_connection.connect() as connection:
            assert connection.execute(_PID).scalar_one() == pid, "another connection proves nothing"
            assert not connection.execute(text(notice)).scalar_one(), name


def test_nor_does_what_it_did_to_the_driver(one_connection: Engine) -> None:
    with one_connection.connect() as connection:
        driver: Any = connection.connection.driver_connection
        driver.set_session(isolation_level="SERIALIZABLE", readonly=True, deferrable=True, autocommit=True)
        driver.set_client_encoding("LATIN1")
    with one_connection.begin() as connection:
        assert connection.execute(text("SELECT current_setting('transaction_read_only')")).scalar_one() == "off"
        assert (
            connection.execute(text("SELECT current_setting('transaction_isolation')")).scalar_one() == "read committed"
        )
        assert connection.execute(text("SELECT chr(8364)")).scalar_one() == "€"
        connection.execute(_WRITE)
        connection.rollback()
    with one_connection.connect() as connection:
        assert connection.execute(text("SELECT to_regclass('written')")).scalar_one() is None


def test_the_driver_still_reads_dates_where_the_database_writes_them_otherwise(database: Any) -> None:
    """DISCARD ALL goes back to what the database says, and the driver understands ISO alone."""
    with closing(psycopg2.connect(PostgresDSN.parse(database.url).libpq())) as owner:
        owner.autocommit = True
        owner.cursor().execute(f"ALTER DATABASE \"{database.name}\" SET datestyle = 'SQL, DMY'")
    engine = build_engine(Settings(database_url=database.url, _env_file=None), pool_size=1)
    for _ in range(2):
        with engine.connect() as connection:
            assert connection.execute(text("SELECT date '2026-02-01'")).scalar_one() == date(2026, 2, 1)
    engine.dispose()
