"""Databases where stock Celery was first: nothing is lost, what is missing is added, what does not fit is refused."""

from __future__ import annotations

from typing import Any

import pytest
from alembic.util import CommandError

from environment.testkit.databases import (
    CELERY_TABLES,
    allow_stock,
    rows,
    run,
    shape,
    stock_consume,
    stock_create_all,
    stock_publish,
    stock_results,
    tables,
)

#: Celery 3.1 and Kombu 3.0 as they made them: no extended columns, no index on date_done, 255 characters.
OLD_CELERY = (
    "CREATE SEQUENCE task_id_sequence",
    "CREATE TABLE celery_taskmeta (id integer NOT NULL PRIMARY KEY, task_id varchar(255) UNIQUE, status varchar(50),"
    " result bytea, date_done timestamp, traceback text)",
    "CREATE SEQUENCE taskset_id_sequence",
    "CREATE TABLE celery_tasksetmeta (id integer NOT NULL PRIMARY KEY, taskset_id varchar(255) UNIQUE, result bytea,"
    " date_done timestamp)",
)


def sequence_values(url: str) -> list[tuple[Any, ...]]:
    return rows(
        url,
        "SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = 'public' "
        "AND sequencename ~ '^(task|taskset|message|queue)_id_sequence$' ORDER BY 1",
    )


def contents(url: str) -> dict[str, list[tuple[Any, ...]]]:
    return {
        "messages": rows(url, "SELECT id, visible, payload, version, queue_id FROM kombu_message ORDER BY id"),
        "queues": rows(url, "SELECT id, name FROM kombu_queue ORDER BY id"),
        "results": rows(url, "SELECT id, task_id, status, result FROM celery_taskmeta ORDER BY id"),
    }


def test_a_database_in_use(stock_database: Any, alembic: Any) -> None:
    url = stock_database.url
    stock_publish(url, "one", "two", "three")
    assert stock_consume(url, 1) == ["one"]
    stock_results(url).store_result("before", {"n": 1}, "SUCCESS")
    before = contents(url), sequence_values(url), shape(url)

    alembic("upgrade", url, "202512120900")

    assert (contents(url), sequence_values(url), shape(url)) == before
    stock_publish(url, "four")
    assert stock_consume(url, 3) == ["two", "three", "four"]
    results = stock_results(url)
    results.store_result("after", {"n": 2}, "SUCCESS")
    assert results.get_result("before") == {"n": 1}
    assert results.get_result("after") == {"n": 2}


def test_the_tables_of_an_old_celery(empty_database: Any, alembic: Any) -> None:
    url = empty_database.url
    run(url, *OLD_CELERY)
    run(
        url,
        "INSERT INTO celery_taskmeta (id, task_id, status) "
        "SELECT nextval('task_id_sequence'), 'old-' || n, 'PENDING' FROM generate_series(1, 7) AS n",
    )

    alembic("upgrade", url, "head")

    assert rows(url, "SELECT count(*) FROM celery_taskmeta WHERE task_id ~ '^old-'") == [(7,)]
    results = stock_results(url)
    results.store_result("new", 1, "SUCCESS")
    assert results.get_result("new") == 1
    assert rows(url, "SELECT id FROM celery_taskmeta WHERE task_id = 'new'") == [(8,)]
    indexes = {entry[0] for entry in shape(url)["indexes"]}
    assert {"ix_celery_taskmeta_date_done", "ix_celery_tasksetmeta_date_done"} <= indexes
    stock_publish(url, "works")
    allow_stock(url)
    assert stock_consume(url, 1) == ["works"]


@pytest.mark.parametrize(
    "damage",
    [
        ["DROP TABLE celery_taskmeta, celery_tasksetmeta"],
        ["DROP TABLE celery_taskmeta", "DROP SEQUENCE task_id_sequence"],
        ["DROP TABLE kombu_message"],
        ["DROP TABLE kombu_message, kombu_queue"],
        ["DROP SEQUENCE message_id_sequence, queue_id_sequence, task_id_sequence, taskset_id_sequence"],
        ["DROP INDEX ix_kombu_message_timestamp_id, ix_kombu_message_visible, ix_celery_taskmeta_date_done"],
        ['ALTER TABLE kombu_message DROP CONSTRAINT "FK_kombu_message_queue"'],
        ["ALTER TABLE kombu_queue DROP CONSTRAINT kombu_queue_name_key"],
        ["ALTER TABLE kombu_queue DROP CONSTRAINT kombu_queue_pkey CASCADE"],
        ["ALTER TABLE celery_taskmeta DROP CONSTRAINT celery_taskmeta_pkey"],
    ],
    ids=lambda damage: damage[0].removeprefix("ALTER TABLE "),
)
def test_what_is_missing_is_added(stock_database: Any, alembic: Any, damage: list[str]) -> None:
    whole = shape(stock_database.url)
    run(stock_database.url, *damage)
    assert shape(stock_database.url) != whole
    alembic("upgrade", stock_database.url, "202512120900")
    assert shape(stock_database.url) == whole


def test_missing_columns_come_last(stock_database: Any, alembic: Any) -> None:
    url = stock_database.url
    whole = {(table, *entry) for table, _, *entry in shape(url)["columns"]}
    run(url, "ALTER TABLE celery_taskmeta DROP COLUMN name, DROP COLUMN args, DROP COLUMN retries, DROP COLUMN queue")
    alembic("upgrade", url, "202512120900")
    assert {(table, *entry) for table, _, *entry in shape(url)["columns"]} == whole


def test_a_sequence_behind_its_table_is_moved_forward(stock_database: Any, alembic: Any) -> None:
    url = stock_database.url
    run(url, "INSERT INTO kombu_queue VALUES (41, 'restored')", "INSERT INTO celery_taskmeta (id) VALUES (2147483000)")
    alembic("upgrade", url, "head")
    assert rows(url, "SELECT nextval('queue_id_sequence'), nextval('task_id_sequence')") == [(42, 2147483001)]


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE kombu_message ALTER id TYPE bigint",
        "ALTER TABLE celery_taskmeta ALTER task_id TYPE text",
        "ALTER TABLE celery_taskmeta ADD COLUMN note text",
        "ALTER TABLE celery_taskmeta ADD COLUMN made_at timestamptz NOT NULL DEFAULT now()",
        "ALTER TABLE celery_taskmeta ALTER id SET DEFAULT nextval('task_id_sequence')",
    ],
)
def test_what_stock_can_live_with_stays(stock_database: Any, alembic: Any, change: str) -> None:
    run(stock_database.url, change)
    before = shape(stock_database.url)
    alembic("upgrade", stock_database.url, "202512120900")
    assert shape(stock_database.url) == before


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            "ALTER TABLE celery_taskmeta ALTER date_done TYPE timestamptz",
            "celery_taskmeta.date_done has the type TIMESTAMP instead of",
        ),
        ("ALTER TABLE celery_taskmeta ALTER result TYPE text", "celery_taskmeta.result has the type TEXT"),
        ("ALTER TABLE celery_taskmeta ALTER task_id TYPE varchar(36)", "celery_taskmeta.task_id has the type VARCHAR"),
        ("ALTER TABLE kombu_queue ALTER id TYPE smallint", "kombu_queue.id has the type SMALLINT"),
        ("ALTER TABLE kombu_message DROP COLUMN payload", "kombu_message.payload is missing"),
        ("ALTER TABLE kombu_message ALTER queue_id SET NOT NULL", "kombu_message.queue_id must allow NULL"),
        ("ALTER TABLE kombu_message ADD COLUMN extra int NOT NULL", "kombu_message.extra, unknown to Celery"),
        (
            "DROP INDEX ix_kombu_message_visible; CREATE INDEX ix_kombu_message_visible ON kombu_message (version)",
            "the index ix_kombu_message_visible has other columns",
        ),
    ],
)
def test_what_stock_cannot_live_with_is_one_error(
    stock_database: Any, alembic: Any, change: str, complaint: str
) -> None:
    run(stock_database.url, change)
    before = shape(stock_database.url)
    with pytest.raises(CommandError, match="cannot be adopted") as caught:
        alembic("upgrade", stock_database.url, "head")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
    assert shape(stock_database.url) == before
    assert tables(stock_database.url) == CELERY_TABLES


def test_duplicates_where_stock_allows_none(stock_database: Any, alembic: Any) -> None:
    run(
        stock_database.url,
        "ALTER TABLE kombu_queue DROP CONSTRAINT kombu_queue_name_key",
        "INSERT INTO kombu_queue VALUES (1, 'twice'), (2, 'twice')",
    )
    with pytest.raises(CommandError, match="kombu_queue_name_key"):
        alembic("upgrade", stock_database.url, "head")


def test_a_downgrade_leaves_what_was_adopted(stock_database: Any, alembic: Any) -> None:
    url = stock_database.url
    run(url, "DROP TABLE celery_taskmeta", "DROP SEQUENCE task_id_sequence")
    stock_publish(url, "kept")
    alembic("upgrade", url, "head")

    alembic("downgrade", url, "base")

    assert tables(url) == CELERY_TABLES - {"celery_taskmeta"}
    assert [name for name, _ in sequence_values(url)] == [
        "message_id_sequence",
        "queue_id_sequence",
        "taskset_id_sequence",
    ]
    assert stock_consume(url, 1) == ["kept"]
    alembic("upgrade", url, "head")


def test_a_downgrade_refuses_to_drop_undelivered_messages(empty_database: Any, alembic: Any, shell: Any) -> None:
    url = empty_database.url
    alembic("upgrade", url, "head")
    stock_publish(url, "one", "two")
    allow_stock(url)
    assert stock_consume(url, 1) == ["one"]

    with pytest.raises(CommandError, match="1 undelivered message"):
        alembic("downgrade", url, "base")
    assert stock_consume(url, 1) == ["two"]
    alembic("downgrade", url, "base")
    assert tables(url) == set()

    alembic("upgrade", url, "head")
    stock_publish(url, "unwanted")
    process = shell(url, "-x", "discard-messages", "downgrade", "base")
    assert process.wait(timeout=120) == 0
    assert tables(url) == set()


def test_stock_finds_nothing_to_make_afterwards(empty_database: Any, alembic: Any) -> None:
    alembic("upgrade", empty_database.url, "202512120900")
    before = shape(empty_database.url)
    stock_create_all(empty_database.url)
    assert shape(empty_database.url) == before
