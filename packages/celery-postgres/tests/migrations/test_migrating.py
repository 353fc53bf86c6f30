"""Up and down: what is recorded, what is refused, who waits for whom, and what a process leaves that was killed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

import celery_postgres
from celery_postgres.database.advisory_locks import LockHeldError
from celery_postgres.database.migrations import (
    NEWEST,
    MigrationError,
    check,
    executing,
    files,
    migrate,
    migrations,
    version,
)
from environment.testkit.catalogue import catalogue, difference
from environment.testkit.databases import CELERY_TABLES, shape, stock_consume, stock_create_all, stock_publish, tables
from environment.testkit.kombu_programs import environment
from environment.testkit.queue_tool import typed
from environment.testkit.tables import rows, run, scalar
from environment.waiting import wait_until

DEADLINE_S = 60

#: Released files never change: the database has their checksums.
RELEASED = {
    1: "9804819658a7ac05275f54616db2714487f131acdd32e5eab8921f19224460dd",
    2: "6f8356f8118a2f3cbb0c02bc950c916b234d56e3ea89c5df3e5478886f81e0ea",
    3: "2d348001b8f99f19da53e1621d9a3b67a48a78a69e14908a04b7b12bd730eca1",
    4: "947ad57f7a6e173789393716c911ccd5ae5b559bd5471f7f7fce3ddb7c21d851",
    5: "f7cb556607a63e5cd655f289d8af2e4f1e4f408fe978a14d46a2ab631c095a76",
    6: "5fa23df2fe71e9dbfb61676c1542fff2f3cf26b4a5a96ddc046673318548691e",
    7: "2e3dc63a1d973ffaeb6094acddee48b3203b9286063860502a3ff07710d7ced7",
    8: "23f6fdb5885b803331c82b9898086d86db8edbd0036c533290a22e9065c50b37",
    9: "e0b0cf0a4c89c7602fcf7be6222dba826ac10eeee1b6154add27cf1e5367d2f0",
    10: "d1adf33f30391d041fbe117a1fa701abef40c8037a34dbbc650cd108edd16fdd",
    11: "82fc6c9053ede5684bd5c89c4409736c2b6a4a679c52e5529d7a9e6c1d90a1f0",
    12: "4c2fcfb4fbd34672439094f09b64054b4b40e7f42883ed61cb03a3269d263bb5",
    13: "1d8e47649208cc3a9228071b20340ce32fc1bfbb26073bc40de1a4ccb0e12b9b",
    14: "f51d8772117db21adf5b5d9e99679c31f65bd8a28dadf9c7993b7f0533a2c24a",
    15: "f573c685a88c4ad77065006b124b16a0b0519bcc951f8008e449fd3f299e0430",
    16: "ef06c3fdb713399f8f8cded4bd68981d8eecbcf9e1629f85078b1764194dbd57",
    17: "487387021779126007b8ecca9d405a73c7f7d5e59cf27831db65aff9befbf322",
    18: "2f78bae65012989a699178b3c22ff74171bd58d332d8e651865f1c4e6a189976",
    19: "edf793add340439bb75e1ebb6f0d483be8ba833ef524a42f5063fb0f7d9e7956",
    20: "98a3dd25688bfd758394e3ec614d6a8cec1c394174d8060422f852b27210f806",
    21: "f759e1ca0253963fde652302decf67f060c11c63229d65c4cb9e9bdaeb546563",
    22: "e9f72257c30cd9259a7a36f8d3dc6ac4b7090e85dbcb7ecf44b44f9456218960",
    23: "b751377dda02b2441544ea31ada1ff958fa6e77d317fa8a7fa074684cf342334",
}

KILLED = """
import os, signal, sys
from celery_postgres.database.migrations import migrate
from celery_postgres.database.migrations.executing import Executor

apply, left = Executor._patiently, [int(sys.argv[2])]

def until_killed(self, step):
    apply(self, step)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)

Executor._patiently = until_killed
migrate(sys.argv[1], int(sys.argv[3]))
"""


@pytest.fixture
def empty(fresh: Any) -> Iterator[str]:
    with fresh() as database:
        yield database.url


@pytest.fixture
def stock(fresh: Any) -> Iterator[Any]:
    """A database with stock's tables and rows, some of which no limit of ours allows."""
    with fresh() as database:
        stock_create_all(database.url)
        stock_publish(database.url, "one", "two")
        run(
            database.url,
            "INSERT INTO kombu_queue (id, name) VALUES (nextval('queue_id_sequence'), E'odd\\u0001name')",
            "INSERT INTO kombu_message (id, visible, payload, version, queue_id)"
            " SELECT nextval('message_id_sequence'), NULL, 'x', 1, NULL FROM generate_series(1, 100)",
            "INSERT INTO celery_taskmeta (id, task_id, status)"
            " SELECT nextval('task_id_sequence'), 'task-' || n, 'SUCCESS' FROM generate_series(1, 100) AS n",
            "INSERT INTO celery_tasksetmeta (id, taskset_id, date_done) VALUES (1, 'absurd', '-infinity')",
        )
        yield database


@pytest.fixture(scope="module")
def whole(fresh: Any) -> Iterator[dict[str, Any]]:
    """The catalogue of an empty database that was migrated."""
    with fresh() as database:
        migrate(database.url)
        yield catalogue(database.url)


# -- the files


def test_released_files_are_as_they_were() -> None:
    assert {one.number: one.checksum for one in migrations()} == RELEASED


def test_numbers_without_a_gap(tmp_path: Path) -> None:
    for name in ("0001_a", "0003_c"):
        for end in ("up", "down"):
            (tmp_path / f"{name}.{end}.sql").write_text("-- step: nothing\nSELECT 1;\n")
    with pytest.raises(ValueError, match="0002 is missing before 0003_c"):
        files.load(tmp_path)


# -- up and down


def test_each_number_goes_down_and_up(empty: str, whole: dict[str, Any]) -> None:
    for number in range(NEWEST - 1, -1, -1):
        assert migrate(empty) == version(empty) == NEWEST
        assert migrate(empty, number) == number
        assert version(empty) == (number or None)
    assert tables(empty) == set()
    migrate(empty)
    assert difference(catalogue(empty), whole) == []
    assert check(empty).current


def test_those_who_read_some_columns_of_a_schedule_read_the_new_ones(empty: str) -> None:
    """Without another run of the roles' SQL: metrics ask whether an entry is enabled."""
    migrate(empty, 16)
    run(empty, "GRANT SELECT (name, last_run_at) ON celery_beat_entry TO pg_monitor")
    migrate(empty)
    may = "SELECT has_column_privilege('pg_monitor', 'celery_beat_entry', 'enabled', 'SELECT'),"
    assert rows(empty, may + " has_table_privilege('pg_monitor', 'celery_beat', 'SELECT')") == [(True, True)]


def test_the_first_is_what_stock_makes(empty: str, fresh: Any) -> None:
    migrate(empty)
    migrate(empty, 1)
    with fresh() as other:
        stock_create_all(other.url)
        theirs = shape(other.url)
    ours = shape(empty)
    # The wider ids stay, because there may be one that int4 cannot hold.
    # A column's number is left out: Celery 5.7 has one more among its own.
    columns = {(entry[0], *entry[2:]) for entry in theirs["columns"]}
    wider = {(entry[0], *entry[2:]) for entry in ours["columns"]} - columns
    assert {entry[:3] for entry in wider} == {
        *((table, "id", "bigint") for table in CELERY_TABLES),
        ("kombu_message", "queue_id", "bigint"),
    }
    assert [ours[part] for part in ("constraints", "indexes", "sequences")] == [
        theirs[part] for part in ("constraints", "indexes", "sequences")
    ]


def test_adopted_tables_keep_their_rows_up_and_down(stock: Any, whole: dict[str, Any]) -> None:
    url = stock.url
    migrate(url)
    assert difference(catalogue(url), whole) == []
    assert scalar(url, "SELECT count(*) FROM celery_taskmeta") == 100
    assert scalar(url, "SELECT count(*) FROM kombu_queue WHERE name ~ '^odd\\?name#'") == 1
    assert scalar(url, "SELECT count(*) FROM kombu_message") == 102
    migrate(url, 0)
    assert tables(url) == CELERY_TABLES
    assert stock_consume(stock.url, 2) == ["one", "two"]


def test_what_a_way_down_would_lose_is_named_first(empty: str) -> None:
    migrate(empty)
    run(
        empty,
        "INSERT INTO kombu_dead_letter (message_id, failures, reason, payload)"
        " VALUES (1, 1, 'r', 'p'), (2, 1, 'r', 'p')",
        "INSERT INTO celery_chord (id) VALUES ('c')",
    )
    with pytest.raises(MigrationError, match=r"chords are under way in celery_chord \(1\).*--allow-data-loss"):
        migrate(empty, 4)
    run(empty, "DELETE FROM celery_chord")
    with pytest.raises(MigrationError, match=r"dead letters are in kombu_dead_letter \(2\)"):
        migrate(empty, 0)
    assert version(empty) == NEWEST
    assert migrate(empty, 0, allow_data_loss=True) == 0


def test_any_form_of_target(empty: str, whole: dict[str, Any]) -> None:
    engine = create_engine(empty, poolclass=NullPool)
    celery_postgres.create_schema(engine)
    with closing(psycopg2.connect(empty)) as connection:
        assert migrate(connection, 7) == 7
        assert not connection.autocommit
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('lock_timeout'), current_setting('search_path')")
            assert cursor.fetchone() == ("0", '"$user", public')
        with pytest.raises(MigrationError, match="in a transaction"):
            migrate(connection)
    assert migrate(empty) == NEWEST
    assert difference(catalogue(empty), whole) == []


@pytest.mark.parametrize("form", ["sqla+{}", "db+{}", "{}"])
def test_an_address_is_read_as_the_brokers(empty: str, form: str) -> None:
    celery_postgres.create_schema(form.format(empty))
    assert version(empty) == NEWEST


@pytest.mark.parametrize("address", ["postgresql://u:geheim%zz@h/x", "sqla+postgresql://u:geheim%zz@h/x", "geheim"])
def test_an_address_that_cannot_be_read_is_not_shown(address: str) -> None:
    with pytest.raises(MigrationError, match="not one that libpq understands") as refusal:
        migrate(address)
    assert "geheim" not in str(refusal.value)


def test_a_role_without_rights_is_named(empty: str, server: Any) -> None:
    if server.superuser_url is None:
        pytest.skip("no superuser on a server that is not ours, who could create a role")
    role = "migrates_nothing"
    run(server.superuser_url, f"DROP ROLE IF EXISTS {role}", f"CREATE ROLE {role} LOGIN IN ROLE pg_read_all_data")
    try:
        with pytest.raises(celery_postgres.SchemaError, match=f"the role {role} may not migrate .* that owns"):
            migrate(psycopg2.extensions.make_dsn(empty, user=role))
    finally:
        run(server.superuser_url, f"DROP ROLE {role}")


def test_another_schema(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with fresh() as database:
        url, name = database.url, 'Odd "Schema" %s'
        run(url, 'CREATE SCHEMA "Odd ""Schema"" %s"')
        assert migrate(url, schema=name) == NEWEST
        assert version(url, schema=name) == NEWEST
        assert check(url, schema=name).current
        migrate(url, 12, schema=name)  # the step after that takes a lock, and builds no index
        with closing(psycopg2.connect(url)) as reader, reader.cursor() as cursor:
            monkeypatch.setattr(executing, "ATTEMPTS", 2)
            cursor.execute('SELECT count(*) FROM "Odd ""Schema"" %s".kombu_message')
            with pytest.raises(LockHeldError, match="locks kombu_message"):
                migrate(url, 7, schema=name)
        migrate(url, schema=name)
        assert version(url) is None
        assert tables(url) == set()
        ours = catalogue(url, '"Odd ""Schema"" %s"')
        assert len(ours["columns"]) > 80
        assert migrate(url, 0, schema=name) == 0
        with pytest.raises(MigrationError, match="there is no schema 'none'"):
            migrate(url, schema="none")


# -- what is recorded


def test_a_changed_file_is_an_error(empty: str) -> None:
    migrate(empty)
    run(empty, "UPDATE celery_postgres_migration SET checksum = 'another' WHERE number = 3")
    with pytest.raises(MigrationError, match="migration 0003 was applied as broker_columns with the checksum another"):
        migrate(empty, 2)
    assert not check(empty).current
    done = typed(empty, "check")
    assert done.returncode == 1
    assert "released migrations never change" in typed(empty, "migrate").stderr


def test_a_newer_release_was_here(empty: str) -> None:
    migrate(empty)
    run(empty, f"INSERT INTO celery_postgres_migration VALUES ({NEWEST + 1}, 'of_the_future', 'x', now())")  # noqa: S608
    assert migrate(empty) == NEWEST + 1  # the schema goes first, and the old release must not stop over it
    assert check(empty).current
    with pytest.raises(MigrationError, match=f"is at {NEWEST + 1} and this release knows {NEWEST}"):
        migrate(empty, 5)


def test_the_command(empty: str) -> None:
    assert f"not recorded as migrated; this release needs version {NEWEST}" in typed(empty, "version").stdout
    assert typed(empty, "check").returncode == 1
    done = typed(empty, "migrate", "--to", "3")
    assert (done.returncode, done.stdout) == (0, "the schema is at version 3\n")
    assert re.findall(r"applying \d+", done.stderr) == ["applying 0001", "applying 0002", "applying 0003"]
    assert json.loads(typed(empty, "--json", "version").stdout) == {"version": 3, "newest": NEWEST}
    assert "migration 0004 broker_tables is not applied" in typed(empty, "check").stdout
    assert typed(empty, "migrate").returncode == 0
    assert typed(empty, "check").stdout == f"the schema is at version {NEWEST}, as it should be\n"
    assert typed(empty, "migrate", "--to", "99").returncode == 1


def test_the_check_says_whether_the_log_gets_payloads(empty: str, server: Any) -> None:
    if server.superuser_url is None:
        pytest.skip("no superuser on a server that is not ours")
    migrate(empty)
    parts = psycopg2.extensions.parse_dsn(empty)
    whose = f"ALTER ROLE {parts['user']} IN DATABASE {parts['dbname']}"  # which no setting of the role overrides

    def checked(**settings: str) -> list[str]:
        run(server.superuser_url, *(f"{whose} SET {one} = {value}" for one, value in settings.items()))
        done = typed(empty, "--json", "check")
        assert done.returncode == 0
        logged: list[str] = json.loads(done.stdout)["logged"]
        assert (", ".join(logged) in done.stderr) if logged else not done.stderr
        return logged

    quiet = {"log_min_error_statement": "panic", "log_error_verbosity": "terse", "log_statement": "ddl"}
    assert checked(**quiet, log_min_duration_statement="-1") == []
    loud = checked(log_min_error_statement="error", log_min_duration_statement="0", log_statement="mod")
    assert loud == ["log_min_error_statement = error", "log_statement = mod", "log_min_duration_statement = 0"]


# -- others


def test_two_at_once_do_it_once(stock: Any, whole: dict[str, Any]) -> None:
    lines: list[str] = []
    ends: list[int] = []
    both = [threading.Thread(target=lambda: ends.append(migrate(stock.url, tell=lines.append))) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join(DEADLINE_S)
    assert ends == [NEWEST, NEWEST]
    assert len([line for line in lines if line.startswith("applying")]) == NEWEST
    assert difference(catalogue(stock.url), whole) == []


@pytest.mark.parametrize(
    ("direction", "after"), [("up", 1), ("up", 15), ("up", 30), ("up", 48), ("down", 4), ("down", 22)]
)
def test_a_killed_migration_is_continued(stock: Any, whole: dict[str, Any], direction: str, after: int) -> None:
    url = stock.url
    if direction == "down":
        migrate(url)
    words = [sys.executable, "-c", KILLED, url, str(after), "0" if direction == "down" else str(NEWEST)]
    done = subprocess.run(words, env=environment(), capture_output=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    status = check(url)
    assert any("was cut off" in problem for problem in status.problems)
    assert not status.current
    assert migrate(url) == NEWEST
    assert difference(catalogue(url), whole) == []
    assert scalar(url, "SELECT count(*) FROM celery_taskmeta") == 100
    assert scalar(url, "SELECT count(*) FROM kombu_message WHERE payload <> 'x'") == 2


def test_an_index_whose_building_was_killed_is_built_again(stock: Any, whole: dict[str, Any]) -> None:
    url = stock.url
    migrate(url, 6)
    invalid = "SELECT count(*) FROM pg_index AS i WHERE i.indrelid = 'kombu_message'::regclass AND NOT i.indisvalid"
    with closing(psycopg2.connect(url)) as reader, reader.cursor() as cursor:
        # An index that is built concurrently waits for the end of every older snapshot.
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("SELECT count(*) FROM kombu_message")
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, f"{url}&application_name=migrator", "99", "7"], env=environment()
        ) as process:
            wait_until(lambda: scalar(url, invalid), DEADLINE_S, "the index to be built")
            process.kill()
        run(url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'migrator'")
        wait_until(
            lambda: not scalar(url, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'migrator'"),
            DEADLINE_S,
            "the server process to end",
        )
        assert scalar(url, invalid) == 1
        assert "the index ix_kombu_message_ready is invalid" in check(url).problems
        reader.rollback()
    migrate(url)
    assert difference(catalogue(url), whole) == []


def test_a_reader_that_stays_is_named_and_nothing_is_lost(
    stock: Any, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executing, "ATTEMPTS", 2)
    url = stock.url
    with closing(psycopg2.connect(url, application_name="a report")) as reader, reader.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM kombu_message")
        named = r"cannot drop the foreign key.*process \d+ \(role \S+, a report, in a transaction for \d+ s"
        with pytest.raises(LockHeldError, match=named):
            migrate(url)
    assert version(url) == 1
    migrate(url)
    assert difference(catalogue(url), whole) == []
