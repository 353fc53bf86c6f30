"""How PostgreSQL finds a batch: through the index of the tenant's rows in the order of their age."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, event

from app.tasks import maintenance
from environment.testkit.databases import run
from tests.maintenance.support import A, B, as_tenant, keep, scrub

MANY = """
    INSERT INTO customer_event (tenant_id, occurred_at, kind, email)
    SELECT :owner, now() - interval '1 day' - n * interval '1 hour', 'visit', 'person' || n || '@example.org'
    FROM generate_series(1, 5000) AS n
"""


@pytest.mark.parametrize("task", ["apply_retention", "scrub_pii"])
def test_a_batch_reads_its_own_rows_alone(engine: Engine, database: Any, configure: Any, task: str) -> None:
    for tenant in (A, B):
        as_tenant(engine, tenant, MANY, owner=tenant)
    keep(engine, A, 30)
    scrub(engine, A, "email", "hash")
    run(database.url, "ANALYZE customer_event")
    configure(maintenance_batch_size=100, maintenance_hash_key="a key for the tests")
    plans: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def explain(_connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "SKIP LOCKED" in statement:
            cursor.execute("EXPLAIN " + statement, parameters)
            plans.append("\n".join(line for (line,) in cursor.fetchall()))

    getattr(maintenance, task)(tenant_id=str(A), dry_run=False)

    assert len(plans) > 40
    for number, plan in enumerate(plans):
        assert "using customer_event_tenant_id_occurred_at_id" in plan, plan
        # The outer part joins by id, where a sequential scan is right as long as the table is small.
        assert "Seq Scan on customer_event customer_event_1" not in plan, plan
        assert "Sort" not in plan, plan
        assert ("AND (ROW(occurred_at, id) > ROW(" in plan) is (number > 0), plan
