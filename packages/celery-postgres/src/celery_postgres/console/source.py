"""What the console shows: the read model of a broker, and whose its tasks are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from celery_postgres import operations
from celery_postgres.broker.transport import Transport
from celery_postgres.console.errors import ConsoleError
from celery_postgres.operations import Operations
from celery_postgres.readmodel import Page, ReadModel, TaskFilter
from celery_postgres.results.backend import DatabaseBackend


class Tenants(Protocol):
    """Whose a task is, where an application records it. A tenant's viewer sees its own tasks alone."""

    def tasks(self, tenant: UUID, which: TaskFilter, cursor: str | None, limit: int) -> Page:
        """Tasks of the tenant, the last submitted first, in pages.

        Raises:
            CursorError: the cursor is not one of a page.
        """
        ...

    def owns(self, tenant: UUID, task_id: str) -> bool:
        """Whether a task is the tenant's."""
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """What the console shows.

    Attributes:
        model: reads the broker's database.
        tenants: knows whose a task is; None where no viewer is a tenant.
        broker: acts on the broker; None for a console that only shows.
    """

    model: ReadModel
    tenants: Tenants | None = None
    broker: Operations | None = None


def source_of(app: Any) -> Source:
    """The broker of a Celery application, and its results where this package stores them.

    Raises:
        ConsoleError: the application's broker is not this package's.
    """
    transport = app.connection_for_write().transport
    if not isinstance(transport, Transport):
        raise ConsoleError(f"the application's broker is {type(transport).__module__}, not celery_postgres")
    stores = isinstance(app.backend, DatabaseBackend) and not app.backend.shares_broker()
    return Source(ReadModel(transport.sessions.dsn, app.backend.dsn if stores else None), broker=operations.of(app))
