"""Commands that use the database and end: ping, provision, migrate, psql, queues, flower, keys."""

import json
import os
import shutil
import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psycopg2
from psycopg2.extensions import make_dsn, parse_dsn

from app.core.dsn import DatabaseURLError, PostgresDSN
from environment.checkout import make_state, owner
from environment.database import check_settings, database, describe, setting, unreachable
from environment.errors import UserError
from environment.installation import find_installation
from environment.naming import is_installed, program, say
from environment.provision import provision
from environment.signals import run_in_foreground
from environment.waiting import wait_until
from environment.worker import APPLICATION
from environment.workerfile import WORKER_FILE, read_worker_file, supervisor, worker_is_ready

_PING = "app.tasks.housekeeping.ping"

#: Seconds without a sign of a worker before ping gives up. If ./dev worker was started in another shell at the same
#: moment, it has installed everything by then, because ping waits for that too; only its imports are left.
_PATIENCE_S = 15

#: libpq's environment variables for the parts of a URL (PostgreSQL documentation, "Environment Variables").
_LIBPQ_VARIABLES = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "passfile": "PGPASSFILE",
    "service": "PGSERVICE",
    "options": "PGOPTIONS",
    "application_name": "PGAPPNAME",
    "sslmode": "PGSSLMODE",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcrl": "PGSSLCRL",
    "sslcrldir": "PGSSLCRLDIR",
    "sslsni": "PGSSLSNI",
    "sslcompression": "PGSSLCOMPRESSION",
    "sslcertmode": "PGSSLCERTMODE",
    "ssl_min_protocol_version": "PGSSLMINPROTOCOLVERSION",
    "ssl_max_protocol_version": "PGSSLMAXPROTOCOLVERSION",
    "requirepeer": "PGREQUIREPEER",
    "require_auth": "PGREQUIREAUTH",
    "sslnegotiation": "PGSSLNEGOTIATION",
    "channel_binding": "PGCHANNELBINDING",
    "gssencmode": "PGGSSENCMODE",
    "gssdelegation": "PGGSSDELEGATION",
    "gsslib": "PGGSSLIB",
    "krbsrvname": "PGKRBSRVNAME",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "client_encoding": "PGCLIENTENCODING",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "load_balance_hosts": "PGLOADBALANCEHOSTS",
}

#: Parameters that have no variable, and must not be visible in the list of processes.
_SECRET = {"sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret"}


def ping(arguments: Sequence[str]) -> int:
    """Send ``app.tasks.housekeeping.ping`` and print its result, and after how long it came.

    If only a worker of this checkout can answer, wait for it before sending anything: a worker that is still starting
    may have to create the tables.
    """
    parser = ArgumentParser(prog=f"{program()} ping")
    parser.add_argument("--wait", type=float, default=30.0, metavar="SECONDS")
    wait_s: float = parser.parse_args(arguments).wait
    begun = time.monotonic()
    state = make_state()
    if setting("DATABASE_URL") is None or supervisor(state) is not None:
        _await_worker(state, wait_s)
    with database(state) as url:
        # Not earlier: importing the application reads DATABASE_URL.
        from celery.exceptions import TimeoutError as NoAnswer
        from kombu.exceptions import OperationalError as NoBroker
        from sqlalchemy.exc import DBAPIError

        from app.core.settings import ConfigurationError
        from celery_postgres import SchemaError
        from environment.migration import current, is_migrated

        try:
            from app.celery_app import celery_app
        except ConfigurationError as error:
            raise UserError(str(error)) from None

        # Without the tables Kombu would create its own, and half migrated ones lack what a task needs: a worker that
        # is starting commits each migration for itself.
        try:
            left_s = wait_s - (time.monotonic() - begun)
            wait_until(lambda: is_migrated(url), left_s, "the tables", interval_s=0.5)
        except TimeoutError:
            raise UserError(
                f"{describe(url)} is at revision {current(url)} after {wait_s:g} s; {program()} migrate brings it to "
                "this release's"
            ) from None

        sent = time.monotonic()
        left_s = max(1.0, wait_s - (sent - begun))
        try:
            result = celery_app.send_task(_PING, expires=left_s).get(timeout=left_s)
        except NoAnswer:
            raise UserError(f"no worker answered on {describe(url)} in {left_s:.0f} s; is one running?") from None
        except (NoBroker, DBAPIError, SchemaError) as error:
            cause = str(getattr(error, "orig", error)).strip().splitlines()
            raise UserError(
                f"cannot send a task through {describe(url)}: {cause[0] if cause else type(error).__name__}"
            ) from None
        print(f"{result} ({(time.monotonic() - sent) * 1000:.0f} ms)")
    return 0


def _await_worker(state: Path, wait_s: float, patience_s: float = _PATIENCE_S) -> None:
    """Return when the worker takes tasks.

    Raises:
        UserError: it does not in time, or no worker is starting for a while.
    """
    last_seen = time.monotonic()

    def ready() -> bool:
        nonlocal last_seen
        if worker_is_ready(state):
            return True
        if supervisor(state) is not None or read_worker_file(state / WORKER_FILE) is not None:
            last_seen = time.monotonic()
        elif time.monotonic() - last_seen > patience_s:
            raise UserError(
                f"no worker of {owner()} runs, and none was being started for {patience_s:g} s; "
                f"{program()} worker starts one"
            )
        return False

    try:
        wait_until(ready, wait_s, "a worker", interval_s=0.1)
    except TimeoutError:
        fault = _fault(state)
        if fault is not None:
            raise UserError(f"the worker of {owner()} is not ready after {wait_s:g} s: {fault}") from None
        raise UserError(f"no worker of {owner()} is ready after {wait_s:g} s; {program()} worker starts one") from None


def _fault(state: Path) -> str | None:
    """The fault that the worker of a state folder reports, in one line; None if there is no worker or no fault."""
    info = read_worker_file(state / WORKER_FILE)
    if info is None:
        return None
    try:
        checks = json.loads(info.get("/readyz")[1])["checks"]
    except (OSError, ValueError, KeyError):
        return None
    # Several checks may fail for one reason.
    return "; ".join(dict.fromkeys(check["error"] for check in checks.values() if check.get("error"))) or None


def provision_server(arguments: Sequence[str]) -> int:
    """Create the role and the database that DATABASE_URL names.

    SKELDIR_SUPERUSER_URL is the superuser's address of the server. It is not an argument, because every account can
    read those.
    """
    ArgumentParser(prog=f"{program()} provision").parse_args(arguments)
    url, superuser_url = setting("DATABASE_URL"), os.environ.get("SKELDIR_SUPERUSER_URL")
    if url is None or not superuser_url:
        raise UserError(
            "set DATABASE_URL to the role and database to create, "
            "and SKELDIR_SUPERUSER_URL to a superuser's address of that server"
        )
    os.environ["DATABASE_URL"] = url
    check_settings()
    wanted = PostgresDSN.parse(url)
    if not wanted.user or not wanted.password:
        raise UserError("DATABASE_URL names no user, or no password for it")
    try:
        superuser = PostgresDSN.parse(superuser_url)
        provision(superuser.libpq(), wanted.user, wanted.password, wanted.database)
    except DatabaseURLError as error:
        raise UserError(str(error).replace("DATABASE_URL", "SKELDIR_SUPERUSER_URL")) from None
    except psycopg2.OperationalError as error:
        raise UserError(unreachable(superuser_url, error)) from None
    except psycopg2.errors.InsufficientPrivilege as error:
        raise UserError(f"{superuser.user} may not create roles or databases: {error.diag.message_primary}") from None
    say(f"{describe(url)} is there and belongs to {wanted.user}")
    return 0


def migrate(arguments: Sequence[str]) -> int:
    """``alembic upgrade``."""
    parser = ArgumentParser(prog=f"{program()} migrate")
    parser.add_argument("revision", nargs="?", default="head")
    revision: str = parser.parse_args(arguments).revision
    with database(make_state()) as url:
        from environment.migration import current, upgrade

        upgrade(url, revision)
        say(f"{describe(url)} is at revision {current(url)}")
    return 0


def psql(arguments: Sequence[str]) -> int:
    """Run psql on the database. The address goes through the environment, so that argv contains no password.

    The few parameters without a variable become an argument, before the caller's.
    """
    program = _psql_program(ours=setting("DATABASE_URL") is None)
    with database(make_state()) as url:
        variables, words = _psql_address(url)
        return run_in_foreground([program, *words, *arguments], {**os.environ, **variables})


def queues(arguments: Sequence[str]) -> int:
    """The queue tool of the broker, on the database."""
    from celery_postgres.tool.cli import main

    with database(make_state()) as url:
        return main(arguments, PostgresDSN.parse(url).libpq())


def flower(arguments: Sequence[str]) -> int:
    """Run Flower on the database for a developer: on loopback, and read-only.

    Flower asks for no password, shows arguments and results, and can run any task; by default it listens on every
    address of the machine. So the address comes last on the command line, where it takes precedence over Flower's
    variables and its file.

    Raises:
        UserError: for a socket file, which Flower opens to all accounts (mode 0777), and for a word that is not an
            option: Flower's parser stops there, before our address.
    """
    if find_spec("flower") is None:
        remedy = "./dev flower in a checkout has it" if is_installed() else "it is an optional extra of pyproject.toml"
        raise UserError(f"flower is not installed: {remedy}")
    for word in arguments:
        name = word.lstrip("-").partition("=")[0]
        if not name or not word.startswith("-"):
            raise UserError(
                f"{program()} flower takes options only, as --port=5555, and {word.partition('=')[0]!r} is none"
            )
        if name.replace("_", "-") == "unix-socket":
            raise UserError(
                f"{program()} flower listens on 127.0.0.1, and on no socket file: every account could use that"
            )
    with database(make_state()):
        command = [sys.executable, "-P", "-m", "environment.celery", "-A", APPLICATION, "flower"]
        last = ["--address=127.0.0.1", "--unix-socket="]
        return run_in_foreground([*command, "--read-only", *arguments, *last], os.environ)


def keys(arguments: Sequence[str]) -> int:
    """The application's tool for API keys, on the database."""
    with database(make_state()):
        # Not earlier: the application reads DATABASE_URL.
        from app.keys import main

        return main(arguments, program=f"{program()} keys")


def _psql_program(ours: bool) -> str:
    """The psql beside our PostgreSQL. For a server that is not ours, the machine's psql is preferred: the wheel's was
    built without TLS.
    """
    candidates = [shutil.which("psql")]
    with suppress(UserError):
        own = find_installation().program("psql")
        if os.access(own, os.X_OK):
            candidates.insert(0 if ours else 1, str(own))
    found = next(filter(None, candidates), None)
    if found is None:
        raise UserError("psql is neither beside PostgreSQL's other programs nor on PATH")
    return found


def _psql_address(url: str) -> tuple[dict[str, str], list[str]]:
    """psql's environment variables, and its arguments for parameters without a variable."""
    parts = parse_dsn(PostgresDSN.parse(url).libpq())
    secret = sorted(_SECRET & set(parts))
    if secret:
        raise UserError(f"psql cannot take {', '.join(secret)} of DATABASE_URL without showing it to every account")
    variables = {_LIBPQ_VARIABLES[name]: value for name, value in parts.items() if name in _LIBPQ_VARIABLES}
    others = {name: value for name, value in parts.items() if name not in _LIBPQ_VARIABLES}
    return variables, ["--dbname", make_dsn(**others)] if others else []
