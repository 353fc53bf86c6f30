"""The FastAPI application, put together."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from anyio import to_thread
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.types import Receive, Scope, Send

from app.core.settings import Settings, get_settings
from app.db.engine import dispose_engine
from app.http import connections, events, health, limits, pages, problems, tasks
from app.http.catalogue import schemas
from app.http.guard import Guard
from app.observability import logging as json_logging
from app.observability.health import HealthMonitor
from app.observability.repeated import Repeated

_DESCRIPTION = "Submit tasks to the workers, and read their results. The API key determines the tenant."
#: Names of parameters that an error may name.
_PARAMETERS = frozenset({"query", "path", "header", "task_id", "limit", "cursor", "Idempotency-Key", "Last-Event-ID"})


class _Application(FastAPI):
    settings: Settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            connections.limit(receive, self.settings)
        await super().__call__(scope, receive, send)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Create the application; it starts and stops what it needs while it serves."""
    settings = settings or get_settings()
    _log_as_json()
    monitor = HealthMonitor(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        monitor.start()
        # As many requests at work as there are connections, and two that prepare or answer. With Starlette's 40
        # threads, 32 clients together got 327 submissions/s (p99 263 ms); with this limit they got 453 (145 ms).
        to_thread.current_default_thread_limiter().total_tokens = settings.database_pool_size + 2
        try:
            yield
        finally:
            monitor.stop()
            model.close()
            dispose_engine()

    app = _Application(
        title="Tasks",
        version="1",
        description=_DESCRIPTION,
        lifespan=lifespan,
        # The pages of Swagger and Redoc load their scripts from other servers.
        docs_url=None,
        redoc_url=None,
        # A redirect would send a client and its key to the host in the Host header, and behind a proxy without TLS.
        redirect_slashes=False,
    )
    app.settings = settings
    problems.install(app, _PARAMETERS)
    app.include_router(health.router(monitor))
    app.include_router(tasks.router(settings))
    app.include_router(limits.router())
    app.include_router(events.router(settings))
    model = pages.mount(app, settings)
    app.add_middleware(Guard, settings=settings)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, with our form of errors instead of FastAPI's."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        components = document["components"]
        for name in ("HTTPValidationError", "ValidationError"):
            components["schemas"].pop(name, None)
        components["schemas"] |= schemas() | {"Problem": problems.SCHEMA}
        content = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        components["responses"] = {"Problem": {"description": "An error.", "content": content}}
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
                operation["responses"]["default"] = {"$ref": "#/components/responses/Problem"}
        app.openapi_schema = document
    return app.openapi_schema


def _log_as_json() -> None:
    """uvicorn has configured its loggers before it imports us; the guard logs the line for each request."""
    json_logging.configure(logging.INFO, service="skeldir-web")
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = name != "uvicorn.access"
    # Messages that strangers can cause as often as they like: an invalid request, no file can be opened.
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).addFilter(Repeated())
