"""What a schema records about the migrations that were applied to it: the table `celery_postgres_migration`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from celery_postgres.database.migrations.files import Migration, MigrationError

#: Everybody may read which release made the tables: a worker names the number when they do not fit.
_CREATE = """
    CREATE TABLE IF NOT EXISTS celery_postgres_migration (
        number integer PRIMARY KEY,
        name text NOT NULL,
        checksum text NOT NULL,
        applied_at timestamptz
    );
    COMMENT ON COLUMN celery_postgres_migration.applied_at IS 'null while the migration is applied or removed';
    GRANT SELECT ON celery_postgres_migration TO PUBLIC
"""
_EXISTS = "SELECT to_regclass('celery_postgres_migration') IS NOT NULL"
_READ = "SELECT number, name, checksum, applied_at IS NOT NULL FROM celery_postgres_migration ORDER BY number"
_BEGIN = """
    INSERT INTO celery_postgres_migration (number, name, checksum) VALUES (%s, %s, %s)
    ON CONFLICT (number) DO UPDATE SET applied_at = NULL
"""
_APPLIED = "UPDATE celery_postgres_migration SET applied_at = now() WHERE number = %s"
_REMOVED = "DELETE FROM celery_postgres_migration WHERE number = %s"
_DROP = "DROP TABLE celery_postgres_migration"


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the table. `applied` is false while the migration is applied or removed, and after that was cut off."""

    number: int
    name: str
    checksum: str
    applied: bool


class Record:
    """The table, on a psycopg2 connection in autocommit mode whose search_path leads to the schema."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def exists(self) -> bool:
        self._cursor.execute(_EXISTS)
        return bool(self._cursor.fetchone()[0])

    def create(self) -> None:
        if not self.exists():
            self._cursor.execute(_CREATE)

    def drop(self) -> None:
        self._cursor.execute(_DROP)

    def entries(self) -> list[Entry]:
        if not self.exists():
            return []
        self._cursor.execute(_READ)
        return [Entry(*row) for row in self._cursor.fetchall()]

    def begin(self, migration: Migration) -> None:
        """The schema is between two numbers from now on."""
        self._cursor.execute(_BEGIN, (migration.number, migration.name, migration.checksum))

    def applied(self, migration: Migration) -> None:
        self._cursor.execute(_APPLIED, (migration.number,))

    def removed(self, migration: Migration) -> None:
        self._cursor.execute(_REMOVED, (migration.number,))


def version_of(entries: Iterable[Entry]) -> int:
    """The greatest number up to which every migration is applied."""
    version = 0
    for entry in sorted(entries, key=lambda one: one.number):
        if not entry.applied or entry.number != version + 1:
            break
        version = entry.number
    return version


def changed(entries: Iterable[Entry], known: Iterable[Migration]) -> list[str]:
    """One line for each applied migration whose file is no longer the one that was applied."""
    files = {migration.number: migration for migration in known}
    return [
        f"migration {entry.number:04} was applied as {entry.name} with the checksum {entry.checksum[:12]}, and this "
        f"release has {files[entry.number].name} with {files[entry.number].checksum[:12]}"
        for entry in entries
        if entry.number in files and entry.checksum != files[entry.number].checksum
    ]


def verify(entries: Iterable[Entry], known: Iterable[Migration]) -> None:
    """Raise an error if a released file was changed.

    Raises:
        MigrationError: the file of an applied migration has another checksum than was recorded.
    """
    lines = changed(entries, known)
    if lines:
        raise MigrationError(
            f"{'; '.join(lines)}: released migrations never change, so install the release that was used here, and add "
            "a new migration for what has to change"
        )
