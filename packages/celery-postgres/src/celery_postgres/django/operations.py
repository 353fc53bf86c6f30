"""The operation of this app's migrations: one number of the package's migrations, up or down."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.core.management.base import CommandError
from django.db import router
from django.db.migrations.operations.base import Operation, OperationCategory

from celery_postgres.database import migrations
from celery_postgres.database.advisory_locks import LockHeldError
from celery_postgres.database.migrations.files import Step
from celery_postgres.django import way_down
from celery_postgres.django.addresses import dsn_of
from celery_postgres.django.broker import TOOL, used_aliases
from celery_postgres.errors import CeleryPostgresError


class Number(Operation):
    """Bring the tables to a number, or back to the one before; only in the database that Celery uses.

    The package migrates on a connection of its own, because each step is a transaction of its own. Tables that are
    there, from `python -m celery_postgres migrate` or from stock Kombu and Celery, are adopted.
    """

    category = OperationCategory.SQL
    reduces_to_sql = True
    reversible = True

    def __init__(self, number: int) -> None:
        self.number = number

    def state_forwards(self, app_label: str, state: Any) -> None:
        """There are no models."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        self._migrate(app_label, schema_editor, up=True)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        self._migrate(app_label, schema_editor, up=False)

    def describe(self) -> str:
        name = migrations.migrations()[self.number - 1].name.replace("_", " ")
        return f"Migration {self.number} of celery_postgres ({name})"

    def _migrate(self, app_label: str, schema_editor: Any, *, up: bool) -> None:
        alias = schema_editor.connection.alias
        if not router.allow_migrate(alias, app_label) or alias not in used_aliases():
            return
        migration = migrations.migrations()[self.number - 1]
        if schema_editor.collect_sql:
            schema_editor.collected_sql += _as_sql(migration.up if up else migration.down)
            return
        dsn = dsn_of(alias)
        target = way_down.target(alias, self.number)
        try:
            if up:
                migrations.migrate(dsn, self.number, only_up=True)
            elif (migrations.version(dsn) or 0) >= self.number:
                migrations.verify_down(dsn, target)
                migrations.migrate(dsn, self.number - 1)
        except (CeleryPostgresError, LockHeldError) as error:
            raise CommandError(_for_django(str(error), target)) from None


def _as_sql(steps: Iterable[Step]) -> list[str]:
    """The statements of a migration, for people: the package executes each step as a transaction of its own."""
    lines: list[str] = []
    for step in steps:
        if step.kind == "guard":
            continue
        lines.append(f"-- {step.doing}" + (f", unless {step.unless}" if step.unless else ""))
        lines += [*step.sql.strip().splitlines()[:-1], step.sql.strip().splitlines()[-1].rstrip(";") + ";"]
    return lines


def _for_django(text: str, number: int) -> str:
    return text.replace(
        "or pass --allow-data-loss",
        f"or run `{TOOL} migrate --to {number} --allow-data-loss` and then this command again",
    ).replace("python -m celery_postgres", TOOL)
