"""`/health` and `/livez`, as the worker has them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse

from app.observability.health import CHECKS, HealthMonitor


def router(monitor: HealthMonitor) -> APIRouter:
    """Create the routes. `monitor` checks in the background, so a probe never waits for the database."""
    routes = APIRouter(tags=["health"])

    @routes.get("/health", operation_id="health", responses={503: {"description": "A check failed."}})
    async def health() -> JSONResponse:
        """Whether broker, database and schema can be used, and when each was last checked."""
        checks: dict[str, dict[str, Any]] = {name: monitor.result(name) for name in sorted(CHECKS)}
        well = all(check["status"] == "ok" for check in checks.values())
        summary = {name: check["status"] for name, check in checks.items()}
        content = {"status": "ok" if well else "failed", **summary, "checks": checks}
        return JSONResponse(content, 200 if well else 503)

    @routes.get("/livez", operation_id="livez")
    async def livez() -> JSONResponse:
        """Whether the process answers: fails only where a restart would help."""
        return JSONResponse({"status": "ok"})

    return routes
