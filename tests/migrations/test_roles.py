"""Who may migrate, and what app_user may do afterwards."""

from __future__ import annotations

from typing import Any

import pytest
from alembic.util import CommandError

from environment.testkit.databases import (
    allow_stock,
    as_role,
    rows,
    run,
    shape,
    stock_consume,
    stock_create_all,
    stock_publish,
    stock_results,
    tables,
)


def test_an_owner_who_is_no_superuser(empty_database: Any, alembic: Any) -> None:
    run_by = rows(empty_database.url, "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")
    if run_by != [(False,)]:
        pytest.skip("the role of DATABASE_URL is a superuser")
    alembic("upgrade", empty_database.url, "head")
    alembic("downgrade", empty_database.url, "base")


def test_app_user_works_on_tables_of_another_owner(foreign_database: Any, alembic: Any) -> None:
    database, owner_url = foreign_database
    alembic("upgrade", owner_url, "head")

    stock_create_all(database.url)
    stock_publish(database.url, "one")
    allow_stock(owner_url)
    assert stock_consume(database.url, 1) == ["one"]
    results = stock_results(database.url)
    results.store_result("a", 1, "SUCCESS")
    assert results.get_result("a") == 1
    assert rows(database.url, "SELECT count(*) FROM alembic_version") == [(1,)]
    owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"
    assert rows(database.url, owners) != [("app_user",)]


def test_app_user_may_add_to_the_audit_and_read_views_of_its_tenant_alone(foreign_database: Any, alembic: Any) -> None:
    database, owner_url = foreign_database
    alembic("upgrade", owner_url, "head")
    may = (
        "SELECT has_table_privilege('app_user', :name, 'SELECT'), has_table_privilege('app_user', :name, 'INSERT'),"
        " has_table_privilege('app_user', :name, 'UPDATE'), has_table_privilege('app_user', :name, 'DELETE')"
    )
    granted = {
        name: rows(database.url, may, name=name)[0]
        for name in (
            "customer_event",
            "maintenance_audit",
            "mv_maintenance_activity",
            "maintenance_activity",
            "api_key",
            "task_submission",
        )
    }
    assert granted == {
        "customer_event": (True, True, True, True),
        "maintenance_audit": (True, True, False, False),
        "mv_maintenance_activity": (False, False, False, False),
        "maintenance_activity": (True, False, False, False),
        "api_key": (True, True, True, False),
        "task_submission": (True, True, False, True),
    }


def test_tables_of_app_user_adopted_by_another_role(foreign_database: Any, alembic: Any) -> None:
    """The migrating role may not grant on what it does not own, and need not."""
    database, owner_url = foreign_database
    run(database.superuser_url, "GRANT CREATE ON SCHEMA public TO app_user")
    stock_create_all(database.url)
    before = shape(database.url)
    run(
        database.superuser_url,
        *(f"GRANT SELECT ON {name} TO PUBLIC" for name in ("kombu_queue", "kombu_message", "celery_taskmeta")),
        "GRANT SELECT ON celery_tasksetmeta TO PUBLIC",
    )
    alembic("upgrade", owner_url, "202512120900")
    assert shape(database.url) == before


def test_the_brokers_columns_need_the_owner(foreign_database: Any, alembic: Any) -> None:
    database, owner_url = foreign_database
    run(database.superuser_url, "GRANT CREATE ON SCHEMA public TO app_user")
    stock_create_all(database.url)
    run(
        database.superuser_url,
        *(f"GRANT SELECT ON {name} TO PUBLIC" for name in ("kombu_queue", "kombu_message", "celery_taskmeta")),
        "GRANT SELECT ON celery_tasksetmeta TO PUBLIC",
    )
    with pytest.raises(CommandError, match="run the migration as the role that owns it"):
        alembic("upgrade", owner_url, "head")


def test_a_missing_grant_is_named(foreign_database: Any, alembic: Any) -> None:
    database, _ = foreign_database
    if rows(database.url, "SELECT current_setting('server_version_num')::int < 150000") == [(True,)]:
        pytest.skip("before PostgreSQL 15 everybody may create in public")
    with pytest.raises(CommandError) as caught:
        alembic("upgrade", as_role(database.superuser_url, "app_user"), "head")
    message = str(caught.value)
    assert "GRANT USAGE, CREATE ON SCHEMA public TO app_user" in message
    assert "\n" not in message
    assert tables(database.url) == set()

    run(database.superuser_url, "GRANT USAGE, CREATE ON SCHEMA public TO app_user")
    alembic("upgrade", as_role(database.superuser_url, "app_user"), "head")


def test_at_head_no_privilege_is_needed(foreign_database: Any, alembic: Any) -> None:
    database, owner_url = foreign_database
    alembic("upgrade", owner_url, "head")
    alembic("upgrade", database.url, "head")
