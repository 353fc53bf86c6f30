"""`manage.py check`: Celery uses this package and this project's database, and the tables are those of this release."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, Tags, Warning, register
from django.db import connections, router
from django.db.migrations.recorder import MigrationRecorder

from celery_postgres.database import driver, migrations
from celery_postgres.database.address import is_postgresql
from celery_postgres.django.addresses import SCHEME, dsn_of
from celery_postgres.django.atomic import SETTING
from celery_postgres.django.broker import TOOL, aliases_of, broker_urls, celery_app, urls, used_aliases
from celery_postgres.errors import CeleryPostgresError, primary

_USE = 'CELERY_BROKER_URL = celery_postgres.django.database_url("default")'


@register()
def check_settings(app_configs: Any = None, **_: Any) -> list[CheckMessage]:
    """What can be seen without a connection."""
    return [*_setting(), *_broker(), *_addresses()]


def _setting() -> Iterator[CheckMessage]:
    if not isinstance(getattr(settings, SETTING, True), bool):
        yield Error(
            f"{SETTING} is neither True nor False.",
            hint="True, the default, publishes as part of transaction.atomic(); False publishes at once.",
            id="celery_postgres.E003",
        )


def _broker() -> Iterator[CheckMessage]:
    found = broker_urls(celery_app())
    if not found:
        yield Error(
            "Celery has no broker: the application that this process knows has no broker_url.",
            hint=f"Set {_USE}, read the settings with app.config_from_object('django.conf:settings', "
            "namespace='CELERY'), and import the application in the __init__.py beside settings.py.",
            id="celery_postgres.E001",
        )
    elif not any(is_postgresql(url) for url in found):
        yield Warning(
            "Celery's broker is not PostgreSQL.",
            hint=f"Set {_USE}, or silence this check if only the results are to be in PostgreSQL.",
            id="celery_postgres.W001",
        )


def _addresses() -> Iterator[CheckMessage]:
    for url in urls(celery_app()):
        try:
            aliases = aliases_of(url)
        except ValueError as error:
            yield Error(
                f"Celery cannot use its database: {error}.",
                hint=f"Name an alias of DATABASES whose ENGINE is django.db.backends.postgresql: {SCHEME}://ALIAS.",
                id="celery_postgres.E002",
            )
            continue
        if not aliases:
            yield Warning(
                "Celery uses a PostgreSQL that is not in DATABASES: tasks that are published within "
                "transaction.atomic() are no part of it, and manage.py migrate does not create the tables.",
                hint=f"Set {_USE}; or create the tables with `{TOOL} migrate`, or with `python -m celery_postgres "
                "migrate` if only the results are there, and silence this check.",
                id="celery_postgres.W002",
            )
        elif not any(router.allow_migrate(alias, "celery_postgres") for alias in aliases):
            yield Warning(
                f"A database router keeps the migrations of celery_postgres out of {_named(aliases)}, which Celery "
                "uses.",
                hint="Let allow_migrate return True or None for the app label celery_postgres and this database.",
                id="celery_postgres.W003",
            )


@register(Tags.database)
def check_tables(app_configs: Any = None, databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """What a connection shows: `manage.py check --database default`."""
    if sys.argv[1:2] == ["migrate"]:
        return []  # it checks before it migrates
    try:
        used = used_aliases()
    except ValueError:
        return []  # E002
    return [message for alias in databases or () if alias in used for message in _tables(alias)]


def _tables(alias: str) -> Iterator[CheckMessage]:
    try:
        status = migrations.check(dsn_of(alias))
    except (CeleryPostgresError, driver.Error) as error:
        text = str(error) if isinstance(error, CeleryPostgresError) else primary(error)
        yield Warning(
            f"Celery's tables in the database {alias!r} cannot be checked: {text}.",
            hint="Start the server, or correct DATABASES.",
            id="celery_postgres.W006",
        )
        return
    if status.pending:
        yield Warning(
            f"Celery's tables in the database {alias!r} lack the migrations {', '.join(status.pending)}.",
            hint=_cure(alias, status.pending),
            id="celery_postgres.W004",
        )
    for problem in status.problems:
        yield Warning(
            f"Celery's tables in the database {alias!r}: {problem}.",
            hint=f"`{TOOL} check` shows the same; `{TOOL} migrate` continues a migration that was cut off.",
            id="celery_postgres.W005",
        )
    if status.newer:
        yield Info(
            f"Celery's tables in the database {alias!r} are of a newer release: {', '.join(map(str, status.newer))}.",
            hint="Install the release of celery-postgres that has migrated them.",
            id="celery_postgres.I001",
        )
    if status.stock_allowed:
        yield Info(
            f"In the database {alias!r} stock Kombu's consumers are allowed, and lose the tasks of a killed worker.",
            hint=f"When the last one has ended, run `{TOOL} migrate --refuse-stock`.",
            id="celery_postgres.I002",
        )


def _cure(alias: str, pending: Sequence[str]) -> str:
    """How to apply migrations that Django may have recorded while the broker was elsewhere."""
    applied = MigrationRecorder(connections[alias]).applied_migrations()
    recorded = {name for label, name in applied if label == "celery_postgres"}
    if recorded.isdisjoint(one.replace(" ", "_") for one in pending):
        return f"Run `python manage.py migrate celery_postgres --database {alias}`."
    return (
        "Django has recorded them as applied, when Celery used another database or with --fake. Run "
        f"`python manage.py migrate celery_postgres zero --fake --database {alias}` and then "
        f"`python manage.py migrate celery_postgres --database {alias}`."
    )


def _named(aliases: Sequence[str]) -> str:
    return " and ".join(repr(alias) for alias in aliases)
