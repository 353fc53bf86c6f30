"""The migrations of the package's tables: numbered SQL files, recorded in the database that they have changed.

`migrate` brings a schema to a number, `version` returns the number of a schema, `check` compares a schema with this
release. The files never change once released; `celery_postgres_migration` records the checksum of each.
"""

from celery_postgres.database.migrations.files import NEWEST, Migration, MigrationError, migrations
from celery_postgres.database.migrations.migrating import Status, check, migrate, verify_down, version

__all__ = [
    "NEWEST",
    "Migration",
    "MigrationError",
    "Status",
    "check",
    "migrate",
    "migrations",
    "verify_down",
    "version",
]
