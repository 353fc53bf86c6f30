"""Bring a schema to a number, up or down, while workers go on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from celery_postgres.database import advisory_locks
from celery_postgres.database.migrations import stock_consumers
from celery_postgres.database.migrations.executing import Executor
from celery_postgres.database.migrations.files import NEWEST, Migration, MigrationError, migrations
from celery_postgres.database.migrations.log_settings import logged
from celery_postgres.database.migrations.record import Entry, Record, changed, verify, version_of
from celery_postgres.database.migrations.target import connected, prepared

logger = logging.getLogger(__name__)

LOCK = "celery_postgres.schema"
_UNLOCK = "SELECT pg_advisory_unlock(hashtextextended(%s, 0))"
_INVALID = """
    SELECT c.relname FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
    WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
      AND NOT i.indisvalid AND c.relname ~ '^ix_(kombu|celery)_'
    ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class Status:
    """A schema, compared with this release.

    Attributes:
        version: the number up to which every migration is applied; None if nothing is recorded.
        newest: the newest number of this release.
        pending: the migrations that are still to be applied.
        problems: one line for each thing that is wrong: a file that was changed, an invalid index, a migration that was
            cut off.
        newer: numbers that a newer release has applied.
        stock_allowed: stock Kombu's consumers are allowed, as while a project moves over.
        logged: settings by which PostgreSQL's log gets payloads, each with its value.
    """

    version: int | None
    newest: int
    pending: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    newer: list[int] = field(default_factory=list)
    stock_allowed: bool = False
    logged: list[str] = field(default_factory=list)

    @property
    def current(self) -> bool:
        """This release finds everything that it needs."""
        return not self.pending and not self.problems


def migrate(
    target: Any,
    to: int | None = None,
    *,
    schema: str | None = None,
    only_up: bool = False,
    allow_data_loss: bool = False,
    allow_stock: bool | None = None,
    tell: Callable[[str], object] | None = None,
) -> int:
    """Migrate up or down. Workers may go on meanwhile; only one migration of a database runs at a time.

    Tables that stock Kombu and Celery, an older release or Alembic have made are adopted with their rows.

    Args:
        target: a SQLAlchemy engine on psycopg2, a psycopg2 connection outside of a transaction, or a libpq connection
            string or URI. Not through a transaction pooler.
        to: the number to migrate to; the newest of this release if None. 0 removes everything but adopted tables.
        schema: the schema of the tables; by default where the search_path finds them, or where it creates tables.
        only_up: leave a schema that is at a greater number as it is, as the migrations of a project want it.
        allow_data_loss: go down also where messages, dead letters, results or chords would be deleted.
        allow_stock: whether stock Kombu's consumers may take messages. None leaves that as it is; a schema that gets
            there from below 9 then refuses them, unless one has taken a message in the last seven days.
        tell: receives a line for each migration and for each wait, and one if stock consumers are allowed; by default
            they are logged, the latter two as warnings.

    Returns:
        The number that the schema has now.

    Raises:
        MigrationError: an applied migration was changed, something would be lost, or the number is unknown.
        LockHeldError: another session kept a table, or the lock of migrations, for about a minute; the text names it.
        SchemaError: the role lacks a right.
    """
    if to is not None and not 0 <= to <= NEWEST:
        raise MigrationError(f"there is no migration {to}: this release knows 0 to {NEWEST}")
    stock_consumers.verify(allow_stock, to)
    with connected(target) as connection, prepared(connection, schema) as cursor:
        advisory_locks.take(connection, LOCK, tell=tell or logger.warning)
        try:
            executor = Executor(cursor, tell or logger.warning)
            with stock_consumers.asked(cursor, allow_stock):
                reached = _migrate(
                    executor, Record(cursor), to, only_up or to is None, allow_data_loss, tell or logger.info
                )
            stock_consumers.switch(executor, cursor, allow_stock, tell or logger.warning)
            return reached
        finally:
            if not connection.closed:
                cursor.execute(_UNLOCK, (LOCK,))


def _migrate(
    executor: Executor,
    record: Record,
    to: int | None,
    only_up: bool,
    allow_data_loss: bool,
    tell: Callable[[str], object],
) -> int:
    entries = record.entries()
    verify(entries, migrations())
    newer = [entry.number for entry in entries if entry.number > NEWEST]
    if newer and only_up:
        tell(f"the schema is at {max(newer)}, which a newer release has applied: nothing to do")
        return max(newer)
    if newer:
        raise MigrationError(
            f"the schema is at {max(newer)} and this release knows {NEWEST}: migrate down with the newer release"
        )
    to = NEWEST if to is None else to
    to = max(to, version_of(entries)) if only_up else to
    applied = {entry.number for entry in entries if entry.applied}
    down = _down(entries, to)
    up = [one for one in migrations() if one.number <= to and one.number not in applied]
    if not allow_data_loss:
        for migration in down:
            executor.guard(migration.down)
    if down:
        executor.drop_views()
    for migration in down:
        tell(f"removing {migration.number:04} {migration.name}")
        record.begin(migration)
        executor.apply(migration.down)
        record.removed(migration)
    if up:
        record.create()
    for migration in up:
        tell(f"applying {migration.number:04} {migration.name}")
        record.begin(migration)
        executor.apply(migration.up)
        record.applied(migration)
    if to == 0 and record.exists():
        record.drop()
    return to


def _down(entries: list[Entry], to: int) -> list[Migration]:
    recorded = {entry.number for entry in entries}
    return [one for one in reversed(migrations()) if one.number > to and one.number in recorded]


def verify_down(target: Any, to: int) -> None:
    """Raise an error if the way down to a number would delete something. Changes nothing.

    Raises:
        MigrationError: it would.
    """
    with connected(target) as connection, prepared(connection, None) as cursor:
        for migration in _down(Record(cursor).entries(), to):
            Executor(cursor, logger.info).guard(migration.down)


def version(target: Any, *, schema: str | None = None) -> int | None:
    """The number up to which every migration is applied to a schema; None if none is recorded.

    Args:
        target: as for `migrate`.
        schema: as for `migrate`.
    """
    with connected(target) as connection, prepared(connection, schema) as cursor:
        return _found(Record(cursor).entries())


def _found(entries: list[Entry]) -> int | None:
    return version_of(entries) if entries else None


def check(target: Any, *, schema: str | None = None) -> Status:
    """Compare a schema with this release. Changes nothing, and needs no right but to read `celery_postgres_migration`.

    Args:
        target: as for `migrate`.
        schema: as for `migrate`.
    """
    with connected(target) as connection, prepared(connection, schema) as cursor:
        entries = Record(cursor).entries()
        cursor.execute(_INVALID)
        invalid = [name for (name,) in cursor.fetchall()]
        refused = stock_consumers.refused(cursor)
        settings = logged(cursor)
    known: tuple[Migration, ...] = migrations()
    applied = {entry.number for entry in entries if entry.applied}
    return Status(
        _found(entries),
        NEWEST,
        [f"{one.number:04} {one.name}" for one in known if one.number not in applied],
        [
            *changed(entries, known),
            *(f"migration {one.number:04} {one.name} was cut off" for one in entries if not one.applied),
            *(f"the index {name} is invalid" for name in invalid),
        ],
        [entry.number for entry in entries if entry.number > NEWEST],
        refused is False,
        settings,
    )
