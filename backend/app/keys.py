"""The tool for API keys: `python -m app.keys`, or `./dev keys`, on the database of DATABASE_URL."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from app.core.errors import LoggableError
from app.core.settings import ConfigurationError, get_settings
from app.db import api_keys
from app.db.api_keys import ApiKey
from app.db.checks import reason
from app.db.engine import build_engine
from celery_postgres import console


def main(arguments: Sequence[str] | None = None, program: str = "python -m app.keys") -> int:
    """Run one command and return its exit status: 1 after one line for an expected failure."""
    given = _parser(program).parse_args(arguments)
    if given.run is None:  # the one command that needs no database
        try:
            lines = _console(given)
        except console.ConsoleError as error:
            return _failed(str(error))
        sys.stdout.writelines(f"{line}\n" for line in lines)
        return 0
    try:
        settings = get_settings()
        engine = build_engine(settings, pool_size=1)
        try:
            with engine.begin() as connection:
                lines = given.run(connection, given)
        finally:
            engine.dispose()
    except DBAPIError as error:
        return _failed(f"database {settings.dsn.describe()}: {reason(error)}")
    except (LoggableError, ConfigurationError) as error:
        return _failed(str(error))
    # After the commit: every key that was shown works.
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 0


class _NoSuchKeyError(LoggableError, LookupError):
    """The key does not exist, or was revoked before."""


def _issue(connection: Connection, given: argparse.Namespace) -> list[str]:
    record, key = api_keys.issue(connection, given.tenant, given.name)
    if given.json:
        return [json.dumps({**_plain(record), "key": key})]
    sys.stderr.write(f"key {record.id} of tenant {record.tenant_id}; it is shown only once:\n")
    return [key]


def _list(connection: Connection, given: argparse.Namespace) -> list[str]:
    records = api_keys.list_keys(connection, given.tenant)
    if given.json:
        return [json.dumps([_plain(record) for record in records])]
    return [
        f"{record.id}  {record.created_at:%Y-%m-%d}  "
        f"{f'revoked {record.revoked_at:%Y-%m-%d}' if record.revoked_at else 'valid':18}  {record.name}"
        for record in records
    ] or ["none"]


def _revoke(connection: Connection, given: argparse.Namespace) -> list[str]:
    record = api_keys.revoke(connection, given.key_id)
    if record is None:
        raise _NoSuchKeyError(f"there is no valid key {given.key_id}")
    return [json.dumps(_plain(record)) if given.json else f"revoked {record.id} of tenant {record.tenant_id}"]


def _console(given: argparse.Namespace) -> list[str]:
    key, line = console.new_key(given.role, given.name)
    if given.json:
        return [json.dumps({"key": key, "line": line})]
    sys.stderr.write("a key of the console; it is shown only once. Its line belongs into WEB_CONSOLE_KEYS:\n")
    return [key, line]


def _plain(record: ApiKey) -> dict[str, str | None]:
    return {
        "id": str(record.id),
        "tenant_id": str(record.tenant_id),
        "name": record.name,
        "created_at": record.created_at.isoformat(),
        "revoked_at": record.revoked_at.isoformat() if record.revoked_at else None,
    }


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description="API keys of the HTTP front, each of one tenant.")
    parser.add_argument("--json", action="store_true", help="for scripts")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    issue = commands.add_parser("issue", help="a new key; it is shown once and stored as a hash")
    issue.add_argument("tenant", type=UUID, help="the tenant's UUID")
    issue.add_argument("name", help="what the key is for")
    issue.set_defaults(run=_issue)
    listing = commands.add_parser("list", help="the keys of a tenant")
    listing.add_argument("tenant", type=UUID, help="the tenant's UUID")
    listing.set_defaults(run=_list)
    of_console = commands.add_parser("console", help="a new key of the console, for no tenant")
    of_console.add_argument("role", help="reader, operator, or operator+payloads, who sees the messages of errors")
    of_console.add_argument("name", help="who has it, without spaces")
    of_console.set_defaults(run=None)
    revoking = commands.add_parser("revoke", help="revoke a key, at once")
    revoking.add_argument("key_id", type=UUID, metavar="ID", help="the key's id, not the key")
    revoking.set_defaults(run=_revoke)
    return parser


def _failed(text: str) -> int:
    sys.stderr.write(f"keys: {text}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
