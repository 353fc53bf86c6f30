"""What must hold for every table, whoever adds it."""

from __future__ import annotations

from typing import Any

from app.db.targets import TARGETS
from environment.testkit.databases import CELERY_TABLES, rows

#: A worker claims messages of all tenants and writes how they end, so these are protected by grants and not by
#: row-level security.
WITHOUT_ROW_SECURITY = CELERY_TABLES | {"kombu_dead_letter", "celery_attempt"}
TENANT = (
    "(tenant_id = ( SELECT (NULLIF(current_setting('app.current_tenant_id'::text, true), ''::text))::uuid"
    ' AS "nullif"))'
)
#: What stands beside tenant_isolation, and why: docs/decisions/0004, the audit that is only added to, and an API key,
#: which says who its tenant is.
FURTHER_POLICIES = {
    ("api_key", "key_lookup", "PERMISSIVE", "SELECT"),
    ("maintenance_audit", "view_refresh", "PERMISSIVE", "SELECT"),
    ("maintenance_audit", "never_updated", "RESTRICTIVE", "UPDATE"),
    ("maintenance_audit", "never_deleted", "RESTRICTIVE", "DELETE"),
}

OF_TENANTS = """
    SELECT c.relname, c.relrowsecurity AND c.relforcerowsecurity, a.attnotnull
    FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND a.attname = 'tenant_id'
"""
POLICIES = """
    SELECT tablename, policyname, permissive, cmd, roles::text, qual, with_check FROM pg_policies
    WHERE schemaname = 'public'
"""
LED_BY_TENANT = """
    SELECT i.indrelid::regclass::text FROM pg_index AS i
    JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
    WHERE a.attname = 'tenant_id' AND i.indpred IS NULL
"""


def test_rows_of_tenants_are_under_row_level_security(database: Any) -> None:
    found = [row for row in rows(database.url, OF_TENANTS) if row[0] not in WITHOUT_ROW_SECURITY]
    assert found, "no table has a tenant_id: the query is wrong"
    assert [name for name, secured, _ in found if not secured] == [], "ENABLE and FORCE ROW LEVEL SECURITY"
    assert [name for name, _, not_null in found if not not_null] == [], "tenant_id NOT NULL"


def test_each_has_the_policy_that_compares_the_tenant_once_per_statement(database: Any) -> None:
    policies = rows(database.url, POLICIES)
    isolated = {
        table
        for table, name, permissive, command, roles, using, check in policies
        if (name, permissive, command, roles) == ("tenant_isolation", "PERMISSIVE", "ALL", "{public}")
        and using == check == TENANT
    }
    assert isolated == {name for name, *_ in rows(database.url, OF_TENANTS)} - WITHOUT_ROW_SECURITY
    others = {policy[:4] for policy in policies if policy[1] != "tenant_isolation"}
    assert others == FURTHER_POLICIES


def test_each_has_an_index_that_starts_with_the_tenant(database: Any) -> None:
    led = {name for (name,) in rows(database.url, LED_BY_TENANT)}
    assert {name for name, *_ in rows(database.url, OF_TENANTS)} - WITHOUT_ROW_SECURITY <= led


def test_a_materialized_view_with_tenants_has_a_filter_in_front(database: Any) -> None:
    views = rows(
        database.url,
        "SELECT c.relname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid "
        "WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'm' AND a.attname = 'tenant_id'",
    )
    assert views == [("mv_maintenance_activity",)]
    (definition,) = rows(database.url, "SELECT pg_get_viewdef('maintenance_activity'::regclass)")[0]
    assert "tenant_id = ( SELECT (NULLIF(current_setting('app.current_tenant_id'" in definition.partition("WHERE")[2]


def test_the_targets_in_code_are_those_of_the_constraints(database: Any) -> None:
    """Each table, column and action of the registry, and no other, is what a policy row may name."""
    definitions = dict(
        rows(
            database.url,
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint "
            "WHERE conname IN ('retention_policy_target', 'pii_policy_target')",
        )
    )
    words = [part for i, part in enumerate(definitions["pii_policy_target"].split("'")) if i % 2]
    allowed = set(zip(words[::3], words[1::3], words[2::3], strict=True))
    assert allowed == {
        (name, column, action)
        for name, target in TARGETS.items()
        for column, actions in target.actions.items()
        for action in actions
    }
    tables = {part for i, part in enumerate(definitions["retention_policy_target"].split("'")) if i % 2}
    assert tables == set(TARGETS)


def test_the_targets_in_code_are_columns_of_the_database(database: Any) -> None:
    for name, target in TARGETS.items():
        there = rows(
            database.url,
            "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(:name) AND attnum > 0",
            name=f"public.{name}",
        )
        assert set(target.table.columns.keys()) <= {column for (column,) in there}
