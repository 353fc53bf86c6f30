"""Tasks that show whether the worker works."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

from celery import shared_task

from app.core.context import correlation_id_var, working_for
from app.tasks.context import check_correlation_id, require_tenant

logger = logging.getLogger(__name__)


@shared_task(bind=True, name="app.tasks.housekeeping.ping")
def ping(self: Any, tenant_id: str | None = None, correlation_id: str | None = None) -> dict[str, str | None]:
    """Answer, so that a caller sees broker, worker and result store work together.

    The tenant is optional: with `tenant_id` the task runs for that tenant, as a `tenant_task` does.

    Returns:
        status (always "ok"), timestamp (RFC 3339, UTC), tenant_id, correlation_id.
    """
    tenant = None if tenant_id is None else require_tenant(tenant_id)
    correlation = check_correlation_id(correlation_id or correlation_id_var.get())
    with working_for(tenant, correlation):
        logger.info("ping")
        return {
            "status": "ok",
            "timestamp": datetime.now(UTC).isoformat(),
            "tenant_id": str(tenant) if tenant else None,
            "correlation_id": correlation,
        }
