"""Celery on PostgreSQL alone: a Kombu transport and a result backend.

Call `install()` once, before Celery connects; then `postgresql://…` is the broker, and keeps the results.
"""

# First of all, and in words that an old Python can read: it gets one clear line instead of a SyntaxError.
from celery_postgres.prerequisites import require_all as _require_all

_require_all()

from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from celery_postgres.broker.bulk import bulk
from celery_postgres.broker.flow import Flow
from celery_postgres.broker.transaction import publishing_on
from celery_postgres.database.migrations import migrate
from celery_postgres.database.placement import Databases
from celery_postgres.database.schema import create_schema
from celery_postgres.errors import (
    DuplicateTaskError,
    FlowError,
    LeaseLost,
    NotPublishedError,
    RateLimited,
    SchemaError,
    UnstorableResultError,
)
from celery_postgres.installation import install
from celery_postgres.observer import Observer, observe
from celery_postgres.results import handover as _handover  # noqa: F401  # before a worker forks its children

if _TYPE_CHECKING:
    from celery_postgres.broker.transport import Transport

__version__ = "0.1.0"

__all__ = [
    "Databases",
    "DuplicateTaskError",
    "Flow",
    "FlowError",
    "LeaseLost",
    "NotPublishedError",
    "Observer",
    "RateLimited",
    "SchemaError",
    "Transport",
    "UnstorableResultError",
    "bulk",
    "create_schema",
    "install",
    "migrate",
    "observe",
    "publishing_on",
]


def __getattr__(name: str) -> _Any:
    """Load `Transport` when `broker_transport="celery_postgres:Transport"` first connects, and not with the package."""
    if name == "Transport":
        from celery_postgres.installation import transport_class

        return transport_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
