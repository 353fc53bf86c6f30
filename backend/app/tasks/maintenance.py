"""Upkeep of the database: materialized views (global), personal data and retention (one tenant each)."""

from __future__ import annotations

from typing import Any

from celery import shared_task

from app.tasks.context import tenant_task


@shared_task(bind=True, name="app.tasks.maintenance.refresh_materialized_views")
def refresh_materialized_views(self: Any, view: str | None = None) -> dict[str, Any]:
    """Refresh `view`, or every view of MAINTENANCE_VIEWS."""
    raise NotImplementedError


@shared_task(bind=True, name="app.tasks.maintenance.scrub_pii")
@tenant_task
def scrub_pii(self: Any, tenant_id: str, correlation_id: str | None = None, dry_run: bool = True) -> dict[str, Any]:
    """Apply the tenant's PII policies."""
    raise NotImplementedError


@shared_task(bind=True, name="app.tasks.maintenance.apply_retention")
@tenant_task
def apply_retention(
    self: Any, tenant_id: str, correlation_id: str | None = None, dry_run: bool = True
) -> dict[str, Any]:
    """Apply the tenant's retention policies."""
    raise NotImplementedError
