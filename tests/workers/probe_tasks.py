"""Tasks that report what they see of tenant and connection; loaded into test workers with `-I`."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from celery import shared_task

from app.core.context import correlation_id_var, tenant_id_var
from app.db.engine import get_engine
from app.db.tenancy import get_tenant_guc, set_tenant_guc
from app.tasks.context import tenant_task
from environment.waiting import wait_until


def seen() -> dict[str, Any]:
    with get_engine().connect() as connection:
        guc = get_tenant_guc(connection)
        backend = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    tenant = tenant_id_var.get()
    return {
        "variable": tenant and str(tenant),
        "guc": guc and str(guc),
        "correlation_id": correlation_id_var.get(),
        "pid": os.getpid(),
        "thread": threading.get_ident(),
        "backend": backend,
    }


@shared_task(bind=True, name="probe.tenant")
@tenant_task
def tenant(self: Any, tenant_id: str, correlation_id: str | None = None) -> dict[str, Any]:
    return seen()


@shared_task(bind=True, name="probe.anybody")
def anybody(self: Any) -> dict[str, Any]:
    return seen()


@shared_task(bind=True, name="probe.fails")
@tenant_task
def fails(self: Any, tenant_id: str) -> None:
    with get_engine().begin() as connection:
        assert get_tenant_guc(connection) is not None
        connection.exec_driver_sql("SELECT 1/0")


@shared_task(bind=True, name="probe.leaves_a_session_tenant")
@tenant_task
def leaves_a_session_tenant(self: Any, tenant_id: str) -> None:
    tenant_id_var.set(None)  # as a task that tampers with the context would
    with get_engine().connect() as connection:
        set_tenant_guc(connection, tenant_id, local=False)
        connection.commit()


@shared_task(name="probe.anything")
def anything(*arguments: Any, **named: Any) -> None:
    """Takes what comes."""


@shared_task(bind=True, name="probe.publishes")
def publishes(self: Any) -> str:
    """From a forked child: on a connection of its own, not on its parent's."""
    return str(anybody.delay().id)


@shared_task(bind=True, name="probe.waits_for")
def waits_for(self: Any, gate: str, runs: str) -> str:
    """Run until `gate` exists; each run leaves a word in `runs`."""
    with Path(runs).open("a") as file:
        file.write("begun\n")
    wait_until(Path(gate).exists, 60, "the gate")
    return "done"
