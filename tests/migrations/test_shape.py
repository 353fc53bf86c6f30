"""What the migrations make, on an empty database and by whichever way they are called."""

from __future__ import annotations

import logging
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
from alembic.util import CommandError

from environment.sources import CHECKOUT
from environment.testkit.databases import (
    CELERY_TABLES,
    allow_stock,
    engine_of,
    rows,
    run,
    shape,
    stock_consume,
    stock_publish,
    stock_results,
    tables,
)

FOUNDATION = "202512120900"
MIGRATING = """
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name ~ '-alembic$'
"""


def test_the_tables_are_those_that_stock_makes(empty_database: Any, stock_database: Any, alembic: Any) -> None:
    alembic("upgrade", empty_database.url, FOUNDATION)

    made, stock = shape(empty_database.url), shape(stock_database.url)

    assert {part: len(entries) for part, entries in stock.items()} == {
        "columns": 24,
        "constraints": 8,
        "indexes": 12,
        "sequences": 4,
    }
    assert made == stock


#: What the newest revision changes of stock's four tables; everything else is as stock makes it.
WIDER = {("kombu_queue", "id"), ("kombu_message", "id"), ("kombu_message", "queue_id")}
WIDER |= {("celery_taskmeta", "id"), ("celery_tasksetmeta", "id")}
#: Their compression, or, on a server without lz4, the storage of the first.
LONG = {("kombu_message", "payload"), ("celery_tasksetmeta", "result")}
LONG |= {("celery_taskmeta", name) for name in ("result", "traceback", "args", "kwargs")}
#: Their defaults, so that whoever publishes names none of them.
DEFAULTED = {
    ("celery_tasksetmeta", "id"),
    ("kombu_queue", "id"),
    ("kombu_message", "id"),
    ("kombu_message", "visible"),
    ("kombu_message", "version"),
}
NEW_CONSTRAINTS = {
    *("kombu_queue_name", "kombu_queue_times", "kombu_message_columns"),
    "celery_tasksetmeta_date_done",
}
ADDED = {
    "kombu_queue": {
        *("auto_delete", "expires_ms", "message_ttl_ms", "consumed", "paused", "used_at", "fair", "refuses"),
    },
    "kombu_message": {
        *("task_id", "tenant_id", "enqueued_at", "available_at", "expires_at", "consumer_id", "claimed_at"),
        *("fence", "priority", "failures", "revoked", "flow_key", "flow_later", "in_order"),
        *("unique_key", "unique_until", "unique_ends_at"),
    },
    "celery_taskmeta": {"children", "tenant_id", "root_id", "parent_id", "published_at", "due_at", "started_at"},
    "celery_tasksetmeta": set(),
}
GONE = {"FK_kombu_message_queue"}
GONE_INDEXES = {"ix_kombu_message_visible", "ix_kombu_message_timestamp", "ix_kombu_message_timestamp_id"}
NEW_INDEXES = {
    f"ix_kombu_message_{name}"
    for name in (
        *("ready", "timed", "failed", "claimed", "expires", "task_waiting", "task_claimed", "taken"),
        *("fair", "running_since", "later", "unique", "order"),
    )
} | {
    *("ix_celery_taskmeta_tenant", "ix_celery_taskmeta_root"),
    *("ix_celery_taskmeta_failed", "ix_celery_taskmeta_tenant_failed"),
}


def test_what_deviates_from_stock_is_listed(empty_database: Any, stock_database: Any, alembic: Any) -> None:
    alembic("upgrade", empty_database.url, "head")

    made, stock = shape(empty_database.url), shape(stock_database.url)

    def columns(entries: list[tuple[Any, ...]]) -> dict[tuple[str, str], tuple[Any, ...]]:
        return {(table, name): rest for table, _, name, *rest in entries}  # type: ignore[misc]

    ours, theirs = columns(made["columns"]), columns(stock["columns"])
    assert {key for key in ours if key not in theirs} == {(t, name) for t, names in ADDED.items() for name in names}
    assert {key for key in theirs if ours.get(key) != theirs[key]} - LONG == WIDER | DEFAULTED
    assert {ours[key][0] for key in WIDER} == {"bigint"}
    # Stock inserts name none of them.
    assert [key for key in ours if key not in theirs and ours[key][1] and ours[key][3] is None] == []
    assert {name for _, name, *_ in stock["constraints"]} - {name for _, name, *_ in made["constraints"]} == GONE
    new = {name for _, name, *_ in made["constraints"]} - {name for _, name, *_ in stock["constraints"]}
    assert new == NEW_CONSTRAINTS
    ours_indexes, theirs_indexes = dict(made["indexes"]), dict(stock["indexes"])
    assert (theirs_indexes.keys() - ours_indexes.keys(), ours_indexes.keys() - theirs_indexes.keys()) == (
        GONE_INDEXES,
        NEW_INDEXES,
    )
    assert made["sequences"] == stock["sequences"]


def test_stock_works_on_them(empty_database: Any, alembic: Any) -> None:
    alembic("upgrade", empty_database.url, "head")

    stock_publish(empty_database.url, "one", "two")
    results = stock_results(empty_database.url)
    results.store_result("a-task", {"answer": 42}, "SUCCESS")

    allow_stock(empty_database.url)
    assert stock_consume(empty_database.url, 2) == ["one", "two"]
    assert results.get_result("a-task") == {"answer": 42}


def test_down_to_nothing_and_up_again(empty_database: Any, alembic: Any) -> None:
    alembic("upgrade", empty_database.url, "head")
    before = tables(empty_database.url)
    alembic("downgrade", empty_database.url, "base")
    left = (
        tables(empty_database.url),
        rows(empty_database.url, "SELECT * FROM pg_sequences WHERE schemaname = 'public'"),
    )
    alembic("upgrade", empty_database.url, "head")

    assert left == (set(), [])
    assert tables(empty_database.url) == before > CELERY_TABLES


def test_each_revision_goes_down_and_up(empty_database: Any, alembic: Any) -> None:
    alembic("upgrade", empty_database.url, "head")
    alembic("downgrade", empty_database.url, "202512141200")  # below the front's
    assert not {"api_key", "task_submission"} & tables(empty_database.url)
    alembic("downgrade", empty_database.url, "-1")
    assert not {"celery_chord", "celery_chord_part", "celery_waiter"} & tables(empty_database.url)
    alembic("downgrade", empty_database.url, "-2")
    of_the_broker = {"kombu_binding", "kombu_consumer", "kombu_dead_letter", "kombu_stopped_task", "celery_beat_entry"}
    assert not of_the_broker & tables(empty_database.url)
    alembic("downgrade", empty_database.url, "-1")
    assert tables(empty_database.url) == CELERY_TABLES
    for _ in range(8):
        alembic("upgrade", empty_database.url, "+1")


def test_an_asyncpg_url_from_the_shell(empty_database: Any, shell: Any) -> None:
    if empty_database.tcp_url is None:
        pytest.skip("the server is not ours, so its address is not known")
    url = empty_database.tcp_url.replace("postgresql://", "postgresql+asyncpg://")

    process = shell(url, "upgrade", "head")
    _, error = process.communicate(timeout=120)

    assert process.returncode == 0, error
    assert tables(empty_database.url) >= CELERY_TABLES
    assert "Running upgrade  -> 202512120900" in error


def test_two_at_once_wait_for_each_other(empty_database: Any, shell: Any, wait_until: Any) -> None:
    with engine_of(empty_database.url).begin() as connection:
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtextextended('skeldir.alembic', 0))")
        both = [shell(empty_database.url, "upgrade", "head") for _ in range(2)]
        wait_until(lambda: rows(empty_database.url, MIGRATING) == [(2,)], 90, "two migrations to begin")
    ends = [(process.communicate(timeout=120)[1], process.returncode) for process in both]

    assert [code for _, code in ends] == [0, 0], ends
    assert sorted("Running upgrade" in log for log, _ in ends) == [False, True]


def test_logging_stays_the_applications(empty_database: Any, alembic: Any) -> None:
    mine = logging.getLogger("somebody.else")
    root = logging.getLogger()
    before = (
        mine.disabled,
        root.level,
        list(root.handlers),
        list(logging.getLogger("alembic.runtime.migration").handlers),
    )

    alembic("upgrade", empty_database.url, "head")

    after = (
        mine.disabled,
        root.level,
        list(root.handlers),
        list(logging.getLogger("alembic.runtime.migration").handlers),
    )
    assert after == before


def test_an_unreachable_database_is_one_line_without_the_password(alembic: Any, tmp_path: Path) -> None:
    with pytest.raises(CommandError) as caught:
        alembic("upgrade", f"postgresql://app_user:s3cret@/nowhere?host={tmp_path}", "head")
    message = str(caught.value)
    assert "\n" not in message
    assert "/nowhere cannot be reached" in message
    assert "s3cret" not in message


def test_what_is_no_postgresql_is_one_line_without_the_url(shell: Any) -> None:
    process = shell("redis://:s3cret@localhost/0", "upgrade", "head")
    out, error = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "DATABASE_URL must be a PostgreSQL URL" in out + error
    assert len((out + error).splitlines()) == 1
    assert "s3cret" not in out + error


def test_offline_mode_is_refused(shell: Any, empty_database: Any) -> None:
    process = shell(empty_database.url, "upgrade", "head", "--sql")
    out, error = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "--sql cannot work here" in out + error


def test_a_table_in_use_is_not_waited_for_for_ever(empty_database: Any, alembic: Any) -> None:
    alembic("upgrade", empty_database.url, FOUNDATION)
    run(empty_database.url, "ALTER TABLE celery_taskmeta DROP COLUMN queue", "DELETE FROM alembic_version")
    with engine_of(empty_database.url).begin() as connection:
        connection.exec_driver_sql("LOCK TABLE celery_taskmeta IN ACCESS SHARE MODE")
        with pytest.raises(CommandError, match="another session uses the table; run it again"):
            alembic("upgrade", empty_database.url, "head")
    alembic("upgrade", empty_database.url, "head")


def test_every_folder_of_versions_is_listed() -> None:
    parser = ConfigParser(interpolation=None)
    parser.read(CHECKOUT / "alembic.ini")
    listed = parser["alembic"]["version_locations"].replace("%(here)s", str(CHECKOUT)).split(":")
    folders = {path.parent for path in (CHECKOUT / "alembic/versions").glob("*/*.py")}
    assert {Path(entry) for entry in listed} == folders
