"""Celery on PostgreSQL alone: a Kombu transport.

`install()`, once, before Celery connects; then `sqla+postgresql://…` is the broker.
"""

from celery_postgres.bulk import bulk
from celery_postgres.errors import LeaseLost, SchemaError
from celery_postgres.installation import install
from celery_postgres.schema import create_schema

__all__ = ["LeaseLost", "SchemaError", "bulk", "create_schema", "install"]
