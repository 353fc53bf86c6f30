"""Two tenants with events of the same ages, and questions about what became of them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Engine, text

from app.core.context import working_for

A, B = uuid4(), uuid4()
OLD, NEW = 25, 5

_EVENTS = text("""
    INSERT INTO customer_event (tenant_id, occurred_at, kind, email, ip, payload)
    SELECT :tenant_id, now() - :age - n * interval '1 second', 'visit', 'person' || n || '@example.org',
           '192.0.2.1', '{"phone": "+1"}'
    FROM generate_series(1, :count) AS n
""")
_RETENTION = text("INSERT INTO retention_policy VALUES (:tenant_id, 'customer_event', :keep_for, :enabled)")
_PII = text("INSERT INTO pii_policy VALUES (:tenant_id, 'customer_event', :column, :action, :after)")


def as_tenant(engine: Engine, tenant: UUID, statement: Any, **parameters: Any) -> list[tuple[Any, ...]]:
    """The rows of one statement in a transaction of the tenant's."""
    with working_for(tenant, None), engine.begin() as connection:
        result = connection.execute(text(statement) if isinstance(statement, str) else statement, parameters)
        return [tuple(row) for row in result] if result.returns_rows else []


def add_events(engine: Engine, *tenants: UUID) -> None:
    """25 events of 100 days and 5 of one day for each."""
    for tenant in tenants:
        for age, count in ((100, OLD), (1, NEW)):
            as_tenant(engine, tenant, _EVENTS, tenant_id=tenant, age=timedelta(days=age), count=count)


def keep(engine: Engine, tenant: UUID, days: int, *, enabled: bool = True) -> None:
    """Give the tenant a retention policy."""
    as_tenant(engine, tenant, _RETENTION, tenant_id=tenant, keep_for=timedelta(days=days), enabled=enabled)


def scrub(engine: Engine, tenant: UUID, column: str, action: str, *, days: int = 30) -> None:
    """Give the tenant a PII policy."""
    as_tenant(engine, tenant, _PII, tenant_id=tenant, column=column, action=action, after=timedelta(days=days))


def count(engine: Engine, tenant: UUID) -> int:
    ((number,),) = as_tenant(engine, tenant, "SELECT count(*) FROM customer_event")
    return int(number)


def audit(engine: Engine, tenant: UUID) -> list[tuple[Any, ...]]:
    """kind, column, action, dry_run, matched, changed; in the order in which they were written."""
    return as_tenant(
        engine,
        tenant,
        "SELECT kind, column_name, action, dry_run, rows_matched, rows_changed FROM maintenance_audit ORDER BY id",
    )
