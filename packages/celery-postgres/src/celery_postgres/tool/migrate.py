"""The commands `migrate`, `version` and `check`: create the tables, bring them to a release, compare them with it."""

from __future__ import annotations

import argparse
import json
import re
import sys
from typing import Any

from celery_postgres.database import migrations
from celery_postgres.database.advisory_locks import LockHeldError
from celery_postgres.database.migrations import NEWEST, MigrationError, stock_consumers
from celery_postgres.database.migrations.log_settings import LOGGED
from celery_postgres.prerequisites import both_drivers
from celery_postgres.tool.operator import OperatorError


def register(commands: Any) -> None:
    """Add the commands to a parser's subcommands."""
    for name, method in (("migrate", _migrate), ("version", _version), ("check", _check)):
        summary = " ".join((method.__doc__ or "").split())
        made = commands.add_parser(name, help=summary, description=summary)
        made.add_argument("--schema", help="the schema of the tables; by default where the search_path finds them")
        made.set_defaults(migration=_reporting(method))
        if method is _migrate:
            made.add_argument(
                "--to",
                type=_number,
                metavar="N",
                help=f"up or down to this number (0 to {NEWEST}); by default {NEWEST}",
            )
            made.add_argument(
                "--allow-data-loss",
                action="store_true",
                help="go down also where messages, dead letters, results or chords would be deleted",
            )
            stock = made.add_mutually_exclusive_group()
            stock.add_argument(
                "--allow-stock",
                dest="allow_stock",
                action="store_true",
                default=None,
                help="let workers with stock Kombu consume, while you move to this package or back",
            )
            stock.add_argument(
                "--refuse-stock",
                dest="allow_stock",
                action="store_false",
                default=None,
                help="refuse them again; without either option it stays as it is",
            )


def _number(text: str) -> int:
    if not re.fullmatch(r"\d{1,4}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a migration: 0 to {NEWEST}")
    return int(text)


def _reporting(method: Any) -> Any:
    def call(dsn: str, given: argparse.Namespace) -> int:
        try:
            return int(method(dsn, given))
        except (MigrationError, LockHeldError) as error:
            raise OperatorError(str(error)) from None

    return call


def _migrate(dsn: str, given: argparse.Namespace) -> int:
    """Create the broker's and the results' tables, or bring them to a version, while workers go on."""
    number = migrations.migrate(
        dsn,
        given.to,
        schema=given.schema,
        allow_data_loss=given.allow_data_loss,
        allow_stock=given.allow_stock,
        tell=_say,
    )
    _answer(given, {"version": number}, f"the schema is at version {number}")
    return 0


def _version(dsn: str, given: argparse.Namespace) -> int:
    """Show the version of the schema, and the one that this release needs."""
    number = migrations.version(dsn, schema=given.schema)
    found = "not recorded as migrated" if number is None else f"at version {number}"
    _answer(given, {"version": number, "newest": NEWEST}, f"the schema is {found}; this release needs version {NEWEST}")
    return 0


def _check(dsn: str, given: argparse.Namespace) -> int:
    """Compare the schema with this release; the exit status is 1 if something has to be done."""
    if twice := both_drivers():
        _say(f"celery_postgres: {twice}")
    status = migrations.check(dsn, schema=given.schema)
    if status.logged:
        _say(f"celery_postgres: {LOGGED.format(', '.join(status.logged))}")
    lines = [*status.problems, *(f"migration {one} is not applied" for one in status.pending)]
    newer = [f"a newer release has applied the migrations {', '.join(map(str, status.newer))}"] if status.newer else []
    stock = [stock_consumers.ALLOWED] if status.stock_allowed else []
    told = {
        "version": status.version,
        "newest": status.newest,
        "pending": status.pending,
        "problems": status.problems,
        "newer": status.newer,
        "stock_allowed": status.stock_allowed,
        "logged": status.logged,
    }
    fitting = [f"the schema is at version {status.version}, as it should be"]
    _answer(given, told, "\n".join([*([*lines, *newer] or fitting), *stock]))
    return 0 if status.current else 1


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201


def _answer(given: argparse.Namespace, as_json: dict[str, Any], text: str) -> None:
    print(json.dumps(as_json) if given.json else text, flush=True)  # noqa: T201
