"""The broker's and the results' tables, for projects without migrations of their own."""

from __future__ import annotations

from typing import Any

from celery_postgres.database import migrations
from celery_postgres.database.consumer_store import ConsumerStore
from celery_postgres.database.schema_store import SchemaStore
from celery_postgres.database.store import Runner
from celery_postgres.errors import SchemaError


def create_schema(engine: Any, *, allow_stock: bool | None = None) -> None:
    """Create the tables, or bring them to this release; adopt those that stock Kombu and Celery have made. Rows stay.

    The same as `python -m celery_postgres migrate`: see `celery_postgres.database.migrations.migrate`.

    Args:
        engine: a SQLAlchemy engine on psycopg2, a psycopg2 connection outside of a transaction, or a libpq connection
            string or URI.
        allow_stock: whether stock Kombu's consumers may take messages; None leaves that as it is, and refuses them in
            new tables.

    Raises:
        SchemaError: the role lacks a right.
        LockHeldError: another session kept a table locked for about a minute, or another migration ran for a minute;
            the text names it.
        MigrationError: the file of an applied migration was changed.
    """
    migrations.migrate(engine, allow_stock=allow_stock)


def verify(runner: Runner) -> None:
    """Return if the tables are as this release needs them, for a publisher or a consumer.

    Raises:
        SchemaError: they are not. The text names the version found and the version needed.
        psycopg2.Error: the server cannot be asked now.
    """
    try:
        ConsumerStore(runner).check_tables()
    except SchemaError as error:
        if not error.outdated:
            raise
        version = SchemaStore(runner).version()
        if version is not None and version > migrations.NEWEST:
            raise SchemaError(
                f"the schema is at version {version}, with which this release (version {migrations.NEWEST}) cannot "
                "work: install the release of celery-postgres that has migrated it"
            ) from None
        found = "not recorded as migrated" if version is None else f"at version {version}"
        raise SchemaError(
            f"{error}; the schema is {found}, and this release needs version {migrations.NEWEST}"
        ) from None
