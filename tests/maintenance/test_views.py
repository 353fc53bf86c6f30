"""Materialized views: filled although their source is under row-level security, read tenant by tenant."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, text

from app.db.views import UnknownViewError
from app.tasks import maintenance
from environment.testkit.databases import as_role, engine_of, rows, run
from tests.maintenance.support import OLD, A, B, add_events, as_tenant, keep

VIEW = "mv_maintenance_activity"
LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")


@pytest.fixture
def activity(engine: Engine) -> Engine:
    """Both tenants have an audit: A of a dry run, B of a real one in three batches."""
    add_events(engine, A, B)
    keep(engine, A, 30)
    keep(engine, B, 30)
    maintenance.apply_retention(tenant_id=str(A))
    maintenance.apply_retention(tenant_id=str(B), dry_run=False)
    return engine


def test_a_refreshed_view_is_not_empty(activity: Engine, database: Any) -> None:
    assert rows(database.url, f"SELECT count(*) FROM {VIEW}") == [(0,)]  # noqa: S608

    (result,) = maintenance.refresh_materialized_views()["views"]

    assert (result["view"], result["status"], result["concurrently"]) == (VIEW, "refreshed", True)
    assert 0 <= result["seconds"] < 60
    assert rows(
        database.url,
        f"SELECT tenant_id, dry_run, batches, rows_matched, rows_changed FROM {VIEW} ORDER BY dry_run",  # noqa: S608
    ) == [(B, False, 3, OLD, OLD), (A, True, 1, OLD, 0)]


def test_a_tenant_sees_its_own_rows(activity: Engine, database: Any) -> None:
    maintenance.refresh_materialized_views()
    seen = "SELECT tenant_id, batches FROM maintenance_activity"
    assert as_tenant(activity, A, seen) == [(A, 1)]
    assert as_tenant(activity, B, seen) == [(B, 3)]
    with activity.begin() as nobody:
        assert nobody.execute(text(seen)).all() == []


def test_refreshing_opens_the_audit_to_nobody_else(activity: Engine, database: Any) -> None:
    maintenance.refresh_materialized_views()
    with activity.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM maintenance_audit")).scalar_one() == 0
    if database.superuser_url is None:
        pytest.skip("needs another role")
    role = f"skeldir_reader_{database.name}"
    run(database.superuser_url, f'CREATE ROLE "{role}" LOGIN', f'GRANT SELECT ON maintenance_audit TO "{role}"')
    try:
        with engine_of(as_role(database.superuser_url, role)).begin() as connection:
            connection.execute(text("SELECT set_config('app.refreshing_view', :view, true)"), {"view": VIEW})
            assert connection.execute(text("SELECT count(*) FROM maintenance_audit")).scalar_one() == 0
    finally:
        run(database.superuser_url, f'DROP OWNED BY "{role}"', f'DROP ROLE "{role}"')


def test_the_view_of_another_owner_is_filled_too(activity: Engine, database: Any) -> None:
    """The policy follows the view when it changes hands; a policy FOR a role would leave it empty."""
    if database.superuser_url is None:
        pytest.skip("needs another role")
    role = f"skeldir_owner_{database.name}"
    run(
        database.superuser_url,
        f'CREATE ROLE "{role}" LOGIN',
        f'GRANT USAGE, CREATE ON SCHEMA public TO "{role}"',
        f'GRANT SELECT ON maintenance_audit TO "{role}"',
        f'ALTER MATERIALIZED VIEW {VIEW} OWNER TO "{role}"',
    )
    try:
        with engine_of(as_role(database.superuser_url, role)).begin() as connection:
            connection.execute(text("SELECT set_config('app.refreshing_view', :view, true)"), {"view": VIEW})
            connection.execute(text(f"REFRESH MATERIALIZED VIEW CONCURRENTLY {VIEW}"))
        assert rows(database.superuser_url, f"SELECT count(*) FROM {VIEW}") == [(2,)]  # noqa: S608
    finally:
        run(database.superuser_url, f'REASSIGN OWNED BY "{role}" TO app_user', f'DROP OWNED BY "{role}"')
        run(database.superuser_url, f'DROP ROLE "{role}"')


def test_a_view_that_somebody_refreshes_is_skipped(activity: Engine, database: Any) -> None:
    with engine_of(database.url).begin() as other:
        other.execute(LOCK, {"name": f"app.maintenance:refresh:{VIEW}"})
        (result,) = maintenance.refresh_materialized_views(view=VIEW)["views"]
    assert (result["status"], result["seconds"]) == ("skipped: already running", 0.0)
    assert rows(database.url, f"SELECT count(*) FROM {VIEW}") == [(0,)]  # noqa: S608
    (result,) = maintenance.refresh_materialized_views(view=VIEW)["views"]
    assert result["status"] == "refreshed"


def test_a_view_that_was_never_populated(engine: Engine, database: Any, configure: Any) -> None:
    name = 'mv of a "quoted" name %s'
    quoted = '"mv of a ""quoted"" name %s"'
    run(
        database.url,
        f"CREATE MATERIALIZED VIEW {quoted} AS SELECT 1 AS id WITH NO DATA",
        f"CREATE UNIQUE INDEX ON {quoted} (id)",
    )
    configure(maintenance_views=f"{VIEW},{name}")
    first = maintenance.refresh_materialized_views()["views"]
    second = maintenance.refresh_materialized_views()["views"]
    assert [(one["view"], one["concurrently"]) for one in first + second] == [
        (name, False),
        (VIEW, True),
        (name, True),
        (VIEW, True),
    ]


@pytest.mark.parametrize("name", ["mv_secrets", "kombu_message", "x; DROP TABLE customer_event", "", 7, ["a"]])
def test_a_name_that_is_not_allowed(engine: Engine, name: Any) -> None:
    with pytest.raises(UnknownViewError) as caught:
        maintenance.refresh_materialized_views(view=name)
    assert str(caught.value) == f"view must be one of MAINTENANCE_VIEWS: {VIEW}"


def test_an_allowed_view_that_does_not_exist(engine: Engine, configure: Any) -> None:
    configure(maintenance_views="mv_missing")
    with pytest.raises(UnknownViewError, match="MAINTENANCE_VIEWS names mv_missing"):
        maintenance.refresh_materialized_views()
