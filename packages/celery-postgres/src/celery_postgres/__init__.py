"""Celery on PostgreSQL alone: a Kombu transport and a result backend.

`install()`, once, before Celery connects; then `sqla+postgresql://…` is the broker, and `db+postgresql://…` keeps the
results.
"""

# First of all, and in words that an old Python can read: it gets one clear line instead of a SyntaxError.
from celery_postgres.prerequisites import require_all as _require_all

_require_all()

from celery_postgres.broker.bulk import bulk
from celery_postgres.broker.transaction import publishing_on
from celery_postgres.database.migrations import migrate
from celery_postgres.database.schema import create_schema
from celery_postgres.errors import LeaseLost, NotPublishedError, SchemaError, UnstorableResultError
from celery_postgres.installation import install
from celery_postgres.observer import Observer, observe
from celery_postgres.results import handover as _handover  # noqa: F401  # before a worker forks its children

__version__ = "0.1.0"

__all__ = [
    "LeaseLost",
    "NotPublishedError",
    "Observer",
    "SchemaError",
    "UnstorableResultError",
    "bulk",
    "create_schema",
    "install",
    "migrate",
    "observe",
    "publishing_on",
]
