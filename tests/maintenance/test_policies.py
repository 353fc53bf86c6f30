"""Retention and PII policies of one tenant, beside another with the same rows."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from app.core.settings import Settings
from app.db.engine import build_engine
from app.db.targets import HashKeyMissingError, tenant_key
from app.db.upkeep import UnknownTargetError
from app.tasks import maintenance
from app.tasks.context import PayloadError, TenantError
from environment.testkit.databases import run
from tests.maintenance.support import NEW, OLD, A, B, add_events, as_tenant, audit, count, keep, scrub

BOTH = [maintenance.scrub_pii, maintenance.apply_retention]
SCRUBBED = "SELECT email, ip, payload FROM customer_event WHERE occurred_at < now() - interval '30 days'"


def test_retention_deletes_the_old_rows_of_one_tenant(engine: Engine) -> None:
    add_events(engine, A, B)
    keep(engine, A, 30)
    keep(engine, B, 30)

    result = maintenance.apply_retention(tenant_id=str(A), dry_run=False)

    assert (count(engine, A), count(engine, B)) == (NEW, OLD + NEW)
    assert result == {
        "dry_run": False,
        "skipped": False,
        "policies": [
            {
                "table": "customer_event",
                "column": None,
                "action": "delete",
                "rows_matched": OLD,
                "rows_changed": OLD,
                "batches": 3,
            }
        ],
    }
    assert audit(engine, B) == []


def test_each_batch_is_audited(engine: Engine) -> None:
    add_events(engine, A)
    keep(engine, A, 30)
    maintenance.apply_retention(tenant_id=str(A), correlation_id="why", dry_run=False)
    assert audit(engine, A) == [
        ("apply_retention", None, "delete", False, 10, 10),
        ("apply_retention", None, "delete", False, 10, 10),
        ("apply_retention", None, "delete", False, 5, 5),
    ]
    assert as_tenant(
        engine,
        A,
        "SELECT DISTINCT correlation_id, table_name, finished_at >= started_at,"
        " now() - cutoff BETWEEN interval '30 days' AND interval '31 days' FROM maintenance_audit",
    ) == [("why", "customer_event", True, True)]


def test_a_dry_run_is_the_default_and_changes_nothing(engine: Engine) -> None:
    add_events(engine, A)
    keep(engine, A, 30)
    scrub(engine, A, "email", "null")
    before = as_tenant(engine, A, "SELECT * FROM customer_event ORDER BY id")

    results = [task(tenant_id=str(A)) for task in BOTH]

    assert as_tenant(engine, A, "SELECT * FROM customer_event ORDER BY id") == before
    assert [result["dry_run"] for result in results] == [True, True]
    policies = [policy for result in results for policy in result["policies"]]
    assert [(p["rows_matched"], p["rows_changed"], p["batches"]) for p in policies] == [(OLD, 0, 0), (OLD, 0, 0)]
    assert audit(engine, A) == [
        ("scrub_pii", "email", "null", True, OLD, 0),
        ("apply_retention", None, "delete", True, OLD, 0),
    ]


def test_nothing_to_do_is_a_result_too(engine: Engine) -> None:
    add_events(engine, A)
    assert maintenance.apply_retention(tenant_id=str(A), dry_run=False)["policies"] == []
    keep(engine, A, 3650)
    (policy,) = maintenance.apply_retention(tenant_id=str(A), dry_run=False)["policies"]
    assert (policy["rows_matched"], policy["batches"]) == (0, 0)
    assert audit(engine, A) == []


def test_a_disabled_policy_is_none(engine: Engine) -> None:
    add_events(engine, A)
    keep(engine, A, 30, enabled=False)
    assert maintenance.apply_retention(tenant_id=str(A), dry_run=False)["policies"] == []
    assert count(engine, A) == OLD + NEW


def test_scrubbing_replaces_what_is_old_enough(engine: Engine) -> None:
    add_events(engine, A, B)
    scrub(engine, A, "email", "redact")
    scrub(engine, A, "ip", "null")
    scrub(engine, A, "payload", "redact")

    result = maintenance.scrub_pii(tenant_id=str(A), dry_run=False)

    assert set(map(repr, as_tenant(engine, A, SCRUBBED))) == {repr(("[redacted]", None, {}))}
    untouched = "SELECT count(*) FROM customer_event WHERE email LIKE '%@%' AND ip IS NOT NULL AND payload <> '{}'"
    assert as_tenant(engine, A, untouched) == [(NEW,)]
    assert as_tenant(engine, B, untouched) == [(OLD + NEW,)]
    assert [(p["column"], p["action"], p["rows_changed"], p["batches"]) for p in result["policies"]] == [
        ("email", "redact", OLD, 3),
        ("ip", "null", OLD, 3),
        ("payload", "redact", OLD, 3),
    ]


@pytest.mark.parametrize(
    ("column", "action"), [("email", "null"), ("email", "redact"), ("email", "hash"), ("payload", "redact")]
)
def test_a_second_run_finds_nothing(engine: Engine, column: str, action: str) -> None:
    add_events(engine, A)
    scrub(engine, A, column, action)
    maintenance.scrub_pii(tenant_id=str(A), dry_run=False)
    after_first = as_tenant(engine, A, "SELECT * FROM customer_event ORDER BY id")
    (policy,) = maintenance.scrub_pii(tenant_id=str(A), dry_run=False)["policies"]
    assert (policy["rows_matched"], policy["rows_changed"]) == (0, 0)
    assert as_tenant(engine, A, "SELECT * FROM customer_event ORDER BY id") == after_first


def test_a_hash_is_an_hmac_under_the_tenants_own_key(engine: Engine) -> None:
    add_events(engine, A, B)
    for tenant in (A, B):
        scrub(engine, tenant, "email", "hash", days=99)
        maintenance.scrub_pii(tenant_id=str(tenant), dry_run=False)

    def expected(tenant: Any, n: int) -> str:
        key = tenant_key("a key for the tests", tenant)
        return "hmac-sha256:" + hmac.new(key, f"person{n}@example.org".encode(), hashlib.sha256).hexdigest()

    for tenant in (A, B):
        hashed = {email for email, *_ in as_tenant(engine, tenant, SCRUBBED)}
        assert hashed == {expected(tenant, n) for n in range(1, OLD + 1)}
    assert expected(A, 1) != expected(B, 1)


def test_hashing_needs_the_key(engine: Engine, configure: Any) -> None:
    configure()
    add_events(engine, A)
    scrub(engine, A, "email", "hash")
    scrub(engine, A, "ip", "null")
    with pytest.raises(HashKeyMissingError, match="MAINTENANCE_HASH_KEY"):
        maintenance.scrub_pii(tenant_id=str(A), dry_run=False)
    assert as_tenant(engine, A, "SELECT count(*) FROM customer_event WHERE ip IS NULL") == [(0,)]


def test_the_database_refuses_other_targets(engine: Engine) -> None:
    for column, action in [("email", "drop"), ("payload", "null"), ("kind", "null"), ("email; --", "null")]:
        with pytest.raises(IntegrityError, match="pii_policy_target"):
            scrub(engine, A, column, action)
    with pytest.raises(IntegrityError, match="retention_policy_target"):
        as_tenant(engine, A, "INSERT INTO retention_policy VALUES (:t, 'maintenance_audit', '30 days')", t=A)
    with pytest.raises(IntegrityError, match="keep_for"):
        as_tenant(engine, A, "INSERT INTO retention_policy VALUES (:t, 'customer_event', '30')", t=A)


@pytest.mark.parametrize(
    ("constraint", "policy", "task"),
    [
        ("retention_policy", "INSERT INTO retention_policy VALUES (:t, 'kombu_queue', '30 days')", 1),
        ("pii_policy", "INSERT INTO pii_policy VALUES (:t, 'kombu_queue', 'name', 'null', '30 days')", 0),
        ("pii_policy", "INSERT INTO pii_policy VALUES (:t, 'customer_event', 'kind', 'null', '30 days')", 0),
        ("pii_policy", "INSERT INTO pii_policy VALUES (:t, 'customer_event', 'ip', 'hash', '30 days')", 0),
    ],
)
def test_the_code_refuses_other_targets(engine: Engine, database: Any, constraint: str, policy: str, task: int) -> None:
    """Though the constraint were gone, or of a newer version."""
    add_events(engine, A)
    keep(engine, A, 30)
    scrub(engine, A, "email", "null")
    run(database.url, f"ALTER TABLE {constraint} DROP CONSTRAINT {constraint}_target")
    as_tenant(engine, A, policy, t=A)
    before = as_tenant(engine, A, "SELECT * FROM customer_event ORDER BY id")
    with pytest.raises(UnknownTargetError):
        BOTH[task](tenant_id=str(A), dry_run=False)
    assert as_tenant(engine, A, "SELECT * FROM customer_event ORDER BY id") == before
    assert audit(engine, A) == []


@pytest.mark.parametrize("task", BOTH, ids=lambda task: task.name)
@pytest.mark.parametrize("dry_run", ["false", 0, None, 1])
def test_dry_run_is_a_boolean(engine: Engine, task: Any, dry_run: Any) -> None:
    with pytest.raises(PayloadError, match="dry_run must be true or false"):
        task(tenant_id=str(A), dry_run=dry_run)


@pytest.mark.parametrize("task", BOTH, ids=lambda task: task.name)
def test_there_is_no_maintenance_without_a_tenant(engine: Engine, task: Any) -> None:
    for tenant in (None, "", "everybody"):
        with pytest.raises(TenantError):
            task(tenant_id=tenant, dry_run=False)


def test_a_role_that_row_level_security_does_not_bind_keeps_to_the_tenant(
    engine: Engine, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if database.superuser_url is None:
        pytest.skip("there is no superuser on a server that is not ours")
    add_events(engine, A, B)
    for tenant in (A, B):
        keep(engine, tenant, 30)
        scrub(engine, tenant, "email", "null")
    powerful = build_engine(Settings(database_url=database.superuser_url, _env_file=None))
    monkeypatch.setattr(maintenance, "get_engine", lambda: powerful)
    try:
        maintenance.scrub_pii(tenant_id=str(A), dry_run=False)
        maintenance.apply_retention(tenant_id=str(A), dry_run=False)
    finally:
        powerful.dispose()
    assert count(engine, A) == NEW
    assert as_tenant(engine, B, "SELECT count(*) FROM customer_event WHERE email IS NOT NULL") == [(OLD + NEW,)]
    assert audit(engine, B) == []


def test_the_audit_can_only_be_added_to(engine: Engine) -> None:
    add_events(engine, A)
    keep(engine, A, 30)
    maintenance.apply_retention(tenant_id=str(A))
    before = audit(engine, A)
    as_tenant(engine, A, "DELETE FROM maintenance_audit")
    as_tenant(engine, A, "UPDATE maintenance_audit SET rows_matched = 0")
    assert audit(engine, A) == before != []


def test_a_tenant_unknown_to_the_database_has_nothing_to_do(engine: Engine) -> None:
    assert maintenance.apply_retention(tenant_id=str(uuid4()), dry_run=False)["policies"] == []
