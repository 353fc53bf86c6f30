"""The broker's and the results' tables, for projects without migrations of their own."""

from __future__ import annotations

import logging
from typing import Any

import psycopg2
from psycopg2 import errorcodes

from celery_postgres.database import advisory_locks
from celery_postgres.database.statements import script
from celery_postgres.errors import translate

logger = logging.getLogger(__name__)

#: A worker that consumes meanwhile, stock's above all, takes the tables in another order than we do.
_ATTEMPTS = 10
_AGAIN = (errorcodes.DEADLOCK_DETECTED, errorcodes.LOCK_NOT_AVAILABLE)


def create_schema(engine: Any) -> None:
    """Create what is missing of the tables, and adopt those that stock Kombu and Celery have made; rows stay.

    Parameters:
        engine: a SQLAlchemy engine on psycopg2, a psycopg2 connection, or a libpq connection string or URI.

    Raises:
        SchemaError: the role may not.
        psycopg2.errors.LockNotAvailable: somebody kept a table locked for ten times 5 s.
        LockHeldError: another run of this has not ended for a minute; the text names who.
    """
    if isinstance(engine, str):
        connection = psycopg2.connect(engine)
        try:
            _create(connection)
        finally:
            connection.close()
        return
    if hasattr(engine, "raw_connection"):
        pooled = engine.raw_connection()
        try:
            _create(pooled)
        finally:
            pooled.close()
        return
    _create(engine)


def _create(connection: Any) -> None:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            # Two that start at once would collide in CREATE TABLE.
            advisory_locks.take(connection, "celery_postgres.schema", "transaction", tell=logger.warning)
            with connection.cursor() as cursor:
                # Whoever queues for a table has everybody after him queue as well: not for longer than this.
                cursor.execute("SET LOCAL lock_timeout = '5s'")
                for name in ("stock", "broker_up", "results_up", "compression"):
                    cursor.execute(script(name))
            connection.commit()
            return
        except psycopg2.Error as error:
            connection.rollback()
            if error.pgcode not in _AGAIN or attempt == _ATTEMPTS:
                raise translate(error) from None
