"""The console at `/console/`: the package's, with the tenants of this application and their keys.

A tenant's key shows its own tasks. Keys of readers and operators are in WEB_CONSOLE_KEYS, and not in the table of the
tenants' keys, to which every process that submits tasks may add rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from fastapi import APIRouter, FastAPI
from psycopg2 import OperationalError
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.responses import RedirectResponse, Response

from app.core.context import correlation_id_var, working_for
from app.core.settings import ConfigurationError, Settings
from app.db import api_keys, submissions
from app.db.api_keys import ApiKey
from app.db.engine import get_engine
from app.http import own_tasks
from app.http.tasks import broker
from celery_postgres import console
from celery_postgres.readmodel import Page, ReadModel, TaskFilter

#: Below the application; the guard reads forms that are sent there.
PATH = "/console"
_TENANTS = "tenant:"
_SOURCES = (
    ("A tenant's own tasks", "./dev keys issue TENANT_ID NAME"),
    ("All tasks, looking only", "./dev keys console reader NAME"),
    ("All tasks, for operators", "./dev keys console operator NAME"),
)


def mount(app: FastAPI, settings: Settings) -> ReadModel:
    """Add the console and the way to it. Returns its read model, which the caller closes."""
    model = ReadModel(settings.dsn.libpq())
    secret = settings.web_console_secret
    application = console.create(
        console.Source(model, _Tenants(), broker()),
        console.FirstOf(_staff(settings), _TenantKeys()),
        title=settings.web_console_title or settings.environment,
        secret=None if secret is None else secret.get_secret_value(),
        sources=_SOURCES,
    )
    routes = APIRouter(include_in_schema=False)

    # A path alone: the Host header is the sender's text.
    @routes.get("/")
    @routes.get(PATH)
    def to_the_console() -> Response:
        return RedirectResponse(f"{PATH}/", 303)

    app.include_router(routes)
    app.mount(PATH, application)
    return model


def _staff(settings: Settings) -> console.ConfiguredKeys:
    try:
        return console.ConfiguredKeys(console.lines_of(settings.web_console_keys))
    except console.ConsoleError as error:
        raise ConfigurationError(f"WEB_CONSOLE_KEYS: {error}") from None


class _TenantKeys:
    """The keys of tenants."""

    def enter(self, key: str) -> console.Viewer | None:
        with _transaction() as connection:
            return _viewer(api_keys.authenticate(connection, key))

    def find(self, key_id: str) -> console.Viewer | None:
        if not key_id.startswith(_TENANTS):
            return None
        with _transaction() as connection:
            return _viewer(api_keys.find(connection, UUID(key_id.removeprefix(_TENANTS))))


class _Tenants:
    """Whose a task is: the tenant that submitted it."""

    def tasks(self, tenant: UUID, which: TaskFilter, cursor: str | None, limit: int) -> Page:
        with _transaction(tenant) as connection:
            return own_tasks.page(connection, tenant, which, cursor, limit)

    def owns(self, tenant: UUID, task_id: str) -> bool:
        with _transaction(tenant) as connection:
            return submissions.is_of(connection, tenant, task_id)


def _viewer(key: ApiKey | None) -> console.Viewer | None:
    if key is None:
        return None
    return console.Viewer(console.Role.TENANT, key.name, f"{_TENANTS}{key.id}", tenant=key.tenant_id)


@contextmanager
def _transaction(tenant: UUID | None = None) -> Iterator[Connection]:
    """A transaction, of a tenant if one is given. Its errors are those that the console expects of a database."""
    try:
        with working_for(tenant, correlation_id_var.get()), get_engine().begin() as connection:
            yield connection
    except PoolTimeoutError:
        raise OperationalError("no connection of the pool was free") from None
    except DBAPIError as error:
        original: Any = error.orig
        raise (original if original is not None else OperationalError("the database failed")) from None
