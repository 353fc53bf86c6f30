"""Whether two connection strings lead to the same tables."""

from __future__ import annotations

import secrets

from celery_postgres.database.address import database_of
from celery_postgres.database.schema_store import SchemaStore
from celery_postgres.database.session import Session


def same_tables(one: Session, other: Session) -> bool:
    """Whether two sessions see the same tables: a lock that one holds, the other cannot take.

    A lock is of one database of one running server. Its identifier and its oids are not: a restored copy has the same.
    It is held by a transaction, so also behind a transaction pooler.
    """
    if database_of(one.dsn) == database_of(other.dsn):
        return True
    key = secrets.randbits(62)
    with one.transaction():
        mine = SchemaStore(one).hold(key)
        return SchemaStore(other).sees_held(key) == mine
