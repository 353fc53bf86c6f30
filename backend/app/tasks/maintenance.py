"""Maintenance of the database: materialized views (global), personal data and retention (per tenant).

Conflicts between transactions and lost connections are retried with back-off. Committed batches stay done, and the next
attempt does the rest. Wrong arguments, and policies that cannot be carried out, fail once.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import shared_task

from app.core.context import correlation_id_var
from app.core.settings import get_settings
from app.db import upkeep, views
from app.db.engine import get_engine
from app.db.targets import tenant_key
from app.db.transient import TransientDatabaseError, transient_errors
from app.tasks.context import PayloadError, checked, current_tenant, tenant_task

logger = logging.getLogger(__name__)

RETRY_POLICY: dict[str, Any] = {
    "autoretry_for": (TransientDatabaseError,),
    "max_retries": 5,
    "retry_backoff": 2,
    "retry_backoff_max": 300,
    "retry_jitter": True,
}


@shared_task(bind=True, name="app.tasks.maintenance.refresh_materialized_views", **RETRY_POLICY)
def refresh_materialized_views(self: Any, view: str | None = None) -> dict[str, Any]:
    """Refresh `view`, or all of MAINTENANCE_VIEWS, each concurrently and in its own transaction.

    A view that another process refreshes at this moment is skipped.

    Returns:
        views, a list of `app.db.views.ViewRefresh` as mappings.

    Raises:
        UnknownViewError: the view is not one of MAINTENANCE_VIEWS, or the database lacks it.
    """
    names = views.choose(view, get_settings().maintenance_views)
    with transient_errors():
        refreshed = [views.refresh(get_engine(), name) for name in names]
    for one in refreshed:
        logger.info("materialized view %s", one.status, extra={"view": one.view, "seconds": one.seconds})
    return {"views": [one.model_dump() for one in refreshed]}


def check_dry_run(value: object) -> None:
    """Raise `PayloadError` for a value that is not a boolean: a sender's "false" is true, and 0 would delete."""
    if not isinstance(value, bool):
        raise PayloadError("dry_run must be true or false")


@shared_task(bind=True, name="app.tasks.maintenance.scrub_pii", **RETRY_POLICY)
@tenant_task
@checked("dry_run", check_dry_run)
def scrub_pii(self: Any, tenant_id: str, correlation_id: str | None = None, dry_run: bool = True) -> dict[str, Any]:
    """Replace personal data that is older than the tenant's policies (table pii_policy) allow.

    Args:
        dry_run: True: count and audit only. False: change.

    Returns:
        `app.db.upkeep.Outcome` as a mapping.

    Raises:
        UnknownTargetError: a policy names what maintenance may not change; nothing was changed.
        HashKeyMissingError: a policy hashes, and MAINTENANCE_HASH_KEY is not set; nothing was changed.
    """
    return _perform(self, "scrub_pii", dry_run)


@shared_task(bind=True, name="app.tasks.maintenance.apply_retention", **RETRY_POLICY)
@tenant_task
@checked("dry_run", check_dry_run)
def apply_retention(
    self: Any, tenant_id: str, correlation_id: str | None = None, dry_run: bool = True
) -> dict[str, Any]:
    """Delete rows that are older than the tenant's policies (table retention_policy) keep them.

    Arguments, result and errors are those of `scrub_pii`.
    """
    return _perform(self, "apply_retention", dry_run)


def _perform(task: Any, kind: upkeep.Kind, dry_run: bool) -> dict[str, Any]:
    settings = get_settings()
    tenant = current_tenant()
    secret = settings.maintenance_hash_key
    run = upkeep.Run(
        kind=kind,
        tenant_id=tenant,
        dry_run=dry_run,
        batch_size=settings.maintenance_batch_size,
        task_id=task.request.id,
        correlation_id=correlation_id_var.get(),
        hash_key=tenant_key(secret.get_secret_value(), tenant) if secret else None,
    )
    with transient_errors():
        outcome = upkeep.perform(get_engine(), run)
    logger.info(
        "maintenance %s",
        "skipped: already running" if outcome.skipped else "done",
        extra={
            "dry_run": dry_run,
            "rows_matched": sum(policy.rows_matched for policy in outcome.policies),
            "rows_changed": sum(policy.rows_changed for policy in outcome.policies),
        },
    )
    return outcome.model_dump()
