"""The tasks through a real worker."""

from __future__ import annotations

from typing import Any

from app.celery_app import celery_app, create_app
from app.core.settings import Settings
from app.db.engine import build_engine
from tests.maintenance.support import NEW, OLD, A, B, add_events, as_tenant, count, keep, scrub

DEADLINE_S = 60


def test_a_tenants_run_and_a_view(database: Any, start_worker: Any) -> None:
    settings = Settings(database_url=database.url, _env_file=None)
    engine = build_engine(settings)
    add_events(engine, A, B)
    for tenant in (A, B):
        keep(engine, tenant, 50)
        scrub(engine, tenant, "email", "redact")
    worker = start_worker(database.url, env={"MAINTENANCE_BATCH_SIZE": "7"})
    app = create_app(settings)

    def call(task: str, **arguments: Any) -> Any:
        return app.tasks[f"app.tasks.maintenance.{task}"].delay(**arguments)

    try:
        rehearsal = call("apply_retention", tenant_id=str(A))
        scrubbed = call("scrub_pii", tenant_id=str(A), correlation_id="upkeep-1", dry_run=False)
        kept = call("apply_retention", tenant_id=str(A), dry_run=False)
        wrong = call("refresh_materialized_views", view="pg_authid")

        assert rehearsal.get(timeout=DEADLINE_S)["policies"][0]["rows_changed"] == 0
        assert scrubbed.get(timeout=DEADLINE_S)["policies"][0]["rows_changed"] == OLD
        assert kept.get(timeout=DEADLINE_S)["policies"][0]["batches"] == 4
        assert str(wrong.get(timeout=DEADLINE_S, propagate=False)).startswith("view must be one of")
        assert wrong.state == "FAILURE"
        # Its turn would come before the third of the tenant's.
        views = call("refresh_materialized_views")
        assert [view["status"] for view in views.get(timeout=DEADLINE_S)["views"]] == ["refreshed"]
    finally:
        app.close()
        celery_app.set_current()

    assert (count(engine, A), count(engine, B)) == (NEW, OLD + NEW)
    assert as_tenant(engine, B, "SELECT count(*) FROM customer_event WHERE email = '[redacted]'") == [(0,)]
    assert as_tenant(engine, A, "SELECT DISTINCT task_id FROM maintenance_audit WHERE correlation_id = 'upkeep-1'") == [
        (scrubbed.id,)
    ]
    assert as_tenant(engine, A, "SELECT count(*), sum(rows_changed) FROM maintenance_activity") == [(3, 2 * OLD)]
    engine.dispose()
    assert "pg_authid" not in worker.log_text()
