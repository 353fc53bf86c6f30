"""The connection that a migration runs on, and the schema that it sees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
from psycopg2 import errorcodes

from celery_postgres.database import server
from celery_postgres.database.address import direct_dsn
from celery_postgres.database.migrations.files import MigrationError
from celery_postgres.database.notification_probe import hears
from celery_postgres.database.session import Session
from celery_postgres.database.translating import translate
from celery_postgres.errors import SchemaError, primary

#: The schema of the tables, if there are any, else the one where tables would be created.
_SCHEMA = """
    SELECT coalesce(
        (SELECT n.nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
         WHERE c.oid = coalesce(to_regclass('celery_postgres_migration'), to_regclass('kombu_message'),
                                to_regclass('kombu_queue'), to_regclass('celery_taskmeta'))),
        current_schema()
    )
"""
_SETTINGS = (
    "SELECT current_setting('search_path'), current_setting('statement_timeout'), current_setting('lock_timeout')"
)
_SET = """
    SELECT set_config('search_path', %s, false), set_config('statement_timeout', %s, false),
        set_config('lock_timeout', %s, false)
"""
_ONLY = "SELECT quote_ident(%s) FROM pg_namespace WHERE nspname = %s"


@contextmanager
def connected(target: Any) -> Iterator[Any]:
    """The psycopg2 connection of a target."""
    if isinstance(target, str):
        try:
            dsn = direct_dsn(target, "address")
        except ValueError as error:
            raise MigrationError(str(error)) from None  # libpq's own text quotes the address, password included
        _refuse_pooler(dsn)
        connection = psycopg2.connect(dsn)
        try:
            yield connection
        finally:
            connection.close()
    elif hasattr(target, "raw_connection"):
        pooled = target.raw_connection()
        try:
            yield pooled.driver_connection
        finally:
            pooled.close()
    else:
        yield target


def _refuse_pooler(dsn: str) -> None:
    """A migration keeps a lock and settings in its session, which a transaction pooler lends to others meanwhile.

    Raises:
        MigrationError: the address is that of one.
    """
    with closing(Session(dsn)) as session:
        if not hears(session, dsn, lambda: Session(dsn)):
            raise MigrationError(
                "a transaction pooler stands before the database, and a migration needs a session of its own: use the "
                "server's own address, or a pool in session mode"
            )


@contextmanager
def prepared(connection: Any, schema: str | None) -> Iterator[Any]:
    """A cursor in autocommit mode that sees the schema alone; afterwards the connection is as it was.

    A role's own statement_timeout would end the building of a large index.
    """
    if connection.info.transaction_status != psycopg2.extensions.TRANSACTION_STATUS_IDLE:
        raise MigrationError("the connection is in a transaction: migrations have transactions of their own")
    autocommit, connection.autocommit = connection.autocommit, True
    try:
        server.verify(connection)
        with connection.cursor() as cursor:
            cursor.execute(_SETTINGS)
            before = cursor.fetchone()
            cursor.execute(_SET, (_schema(cursor, schema), "0", "0"))
            try:
                yield cursor
            finally:
                if not connection.closed:
                    cursor.execute(_SET, before)
    except psycopg2.Error as error:
        if error.pgcode == errorcodes.INSUFFICIENT_PRIVILEGE:
            raise SchemaError(
                f"the role {connection.info.user} may not migrate ({primary(error)}): migrate as the role that owns "
                "the tables, or that may create tables in the schema"
            ) from None
        translated = translate(error)
        if getattr(translated, "outdated", False):
            raise MigrationError(f"the tables that exist cannot be adopted: {primary(error)}") from None
        raise translated from None
    finally:
        if not connection.closed:
            connection.autocommit = autocommit


def _schema(cursor: Any, schema: str | None) -> str:
    if schema is None:
        cursor.execute(_SCHEMA)
        schema = cursor.fetchone()[0]
        if schema is None:
            raise MigrationError("the search_path leads to no schema: name one, or ALTER ROLE … SET search_path")
    cursor.execute(_ONLY, (schema, schema))
    found = cursor.fetchone()
    if found is None:
        raise MigrationError(f"there is no schema {schema!r}")
    return str(found[0])
