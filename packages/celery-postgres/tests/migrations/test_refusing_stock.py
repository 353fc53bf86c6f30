"""Migration 0009: where it refuses stock consumers, where it lets them go on, and how an operator decides."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest

import celery_postgres
from celery_postgres.database.migrations import NEWEST, MigrationError, check, migrate
from celery_postgres.database.migrations.stock_consumers import ALLOWED
from environment.testkit.catalogue import catalogue, difference
from environment.testkit.databases import stock_consume, stock_create_all, stock_publish
from environment.testkit.queue_tool import typed
from environment.testkit.tables import run, scalar

STATE = "SELECT tgenabled::text FROM pg_trigger WHERE tgname = 'kombu_message_stock'"
REFUSAL = r"stock Kombu must not consume .* celery_postgres.install\(\) .* --allow-stock"


@pytest.fixture
def empty(fresh: Any) -> Iterator[str]:
    with fresh() as database:
        yield database.url


@pytest.fixture
def used(empty: str) -> str:
    """Stock's tables, with a message that stock has just taken and one that waits."""
    stock_create_all(empty)
    stock_publish(empty, "taken", "waits")
    assert stock_consume(empty, 1) == ["taken"]
    return empty


def test_a_new_database_refuses_them(empty: str) -> None:
    lines: list[str] = []
    migrate(empty, tell=lines.append)
    assert ALLOWED not in lines
    assert not check(empty).stock_allowed
    stock_publish(empty, "one", "two")
    with pytest.raises(Exception, match=REFUSAL) as refusal:
        stock_consume(empty, 1)
    assert isinstance(refusal.value.__cause__, psycopg2.NotSupportedError)
    assert scalar(empty, "SELECT count(*) FROM kombu_message WHERE visible AND version = 1") == 2


def test_where_stock_works_it_works_on_and_the_migration_reports_it(used: str) -> None:
    lines: list[str] = []
    migrate(used, tell=lines.append)
    assert lines[-1] == ALLOWED
    assert check(used).stock_allowed
    assert stock_consume(used, 1) == ["waits"]
    # A later migration changes nothing, and reports it each time.
    lines.clear()
    migrate(used, tell=lines.append)
    assert lines == [ALLOWED]


@pytest.mark.parametrize(("age", "allowed"), [("6 days", True), ("8 days", False)])
def test_a_week_without_a_stock_consumer_is_the_end_of_them(used: str, age: str, allowed: bool) -> None:
    run(used, f"UPDATE kombu_message SET \"timestamp\" = localtimestamp - interval '{age}' WHERE NOT visible")  # noqa: S608
    migrate(used)
    assert check(used).stock_allowed is allowed


def test_rows_that_stock_took_long_ago_can_still_be_changed(used: str) -> None:
    """The trigger sees a message that becomes taken, and no other column of one that is."""
    migrate(used, allow_stock=False)
    run(used, "UPDATE kombu_message SET priority = 3, task_id = 'x' WHERE NOT visible")
    run(used, "UPDATE kombu_message SET visible = true WHERE NOT visible")  # an operator gives it back
    run(used, "UPDATE kombu_message SET visible = false, consumer_id = 7")  # a claim of ours


def test_what_an_operator_asks_for_counts_from_the_first_moment(used: str, fresh: Any) -> None:
    migrate(used, allow_stock=False)
    assert not check(used).stock_allowed
    with fresh() as other:
        migrate(other.url, 8)
        assert migrate(other.url, allow_stock=True) == NEWEST
        assert check(other.url).stock_allowed
        stock_publish(other.url, "one")
        assert stock_consume(other.url, 1) == ["one"]
        migrate(other.url, allow_stock=False)
        assert not check(other.url).stock_allowed
        celery_postgres.create_schema(other.url, allow_stock=True)
        assert check(other.url).stock_allowed
        celery_postgres.create_schema(other.url)
        assert check(other.url).stock_allowed


def test_the_way_down_lets_them_in_and_leaves_nothing(empty: str, fresh: Any) -> None:
    migrate(empty)
    migrate(empty, 8)
    with fresh() as other:
        migrate(other.url, 8)
        assert difference(catalogue(empty), catalogue(other.url)) == []
    stock_publish(empty, "one")
    assert stock_consume(empty, 1) == ["one"]
    with pytest.raises(MigrationError, match="version 8 cannot refuse stock consumers: that begins with version 9"):
        migrate(empty, 8, allow_stock=False)


def test_replicated_and_restored_rows_are_not_refused(empty: str, server: Any) -> None:
    """A dump or a subscription brings rows that stock took on the server of before."""
    migrate(empty)
    run(
        empty,
        "INSERT INTO kombu_queue (name) VALUES ('q')",
        "INSERT INTO kombu_message (visible, payload, queue_id) SELECT false, 'x', min(id) FROM kombu_queue",
    )
    if server.superuser_url is None:
        pytest.skip("no superuser, who could act as a subscription does")
    as_superuser = psycopg2.extensions.make_dsn(empty, user=psycopg2.extensions.parse_dsn(server.superuser_url)["user"])
    stock_publish(empty, "one")
    with closing(psycopg2.connect(as_superuser)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica; UPDATE kombu_message SET visible = false WHERE visible")
    with pytest.raises(Exception, match=REFUSAL):
        run(empty, "UPDATE kombu_message SET visible = true", "UPDATE kombu_message SET visible = false")


def test_the_command(empty: str) -> None:
    assert typed(empty, "migrate", "--allow-stock", "--refuse-stock").returncode == 2
    done = typed(empty, "migrate", "--allow-stock")
    assert (done.returncode, done.stdout) == (0, f"the schema is at version {NEWEST}\n")
    assert done.stderr.splitlines()[-1] == ALLOWED
    checked = typed(empty, "check")
    assert (checked.returncode, checked.stdout) == (
        0,
        f"the schema is at version {NEWEST}, as it should be\n{ALLOWED}\n",
    )
    assert json.loads(typed(empty, "--json", "check").stdout)["stock_allowed"] is True
    done = typed(empty, "migrate", "--refuse-stock")
    assert (done.returncode, done.stderr) == (0, "")
    assert ALLOWED not in typed(empty, "check").stdout
    assert scalar(empty, STATE) == "O"


def test_a_role_that_may_only_consume_is_refused_in_the_same_words(empty: str, server: Any) -> None:
    """Nobody but the owner may call the function, and a trigger asks for no such right."""
    if server.superuser_url is None:
        pytest.skip("no superuser on a server that is not ours, who could create a role")
    migrate(empty)
    stock_publish(empty, "one")
    role = "consumes_with_stock"
    run(server.superuser_url, f"DROP ROLE IF EXISTS {role}", f"CREATE ROLE {role} LOGIN")
    try:
        run(empty, f"GRANT SELECT, UPDATE ON kombu_message TO {role}")
        with closing(psycopg2.connect(psycopg2.extensions.make_dsn(empty, user=role))) as connection:
            cursor = connection.cursor()
            with pytest.raises(psycopg2.NotSupportedError, match=REFUSAL):
                cursor.execute("UPDATE kombu_message SET visible = false")
    finally:
        run(empty, f"REVOKE ALL ON kombu_message FROM {role}")
        run(server.superuser_url, f"DROP ROLE {role}")
