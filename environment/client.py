"""Commands that use the database for a moment: ping, provision, migrate, psql."""

import os
import shutil
import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence

import psycopg2
from psycopg2.extensions import parse_dsn

from app.core.dsn import DatabaseURLError, PostgresDSN
from environment.checkout import make_state
from environment.database import check_settings, database, describe, setting, unreachable
from environment.errors import UserError
from environment.installation import find_installation
from environment.provision import provision
from environment.signals import run_in_foreground
from environment.waiting import wait_until
from environment.workerfile import supervisor, worker_is_ready

_PING = "app.tasks.housekeeping.ping"

#: libpq's environment variables for what stands in a URL (PostgreSQL documentation, "Environment Variables").
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
    "sslnegotiation": "PGSSLNEGOTIATION",
    "channel_binding": "PGCHANNELBINDING",
    "gssencmode": "PGGSSENCMODE",
    "krbsrvname": "PGKRBSRVNAME",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "client_encoding": "PGCLIENTENCODING",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "load_balance_hosts": "PGLOADBALANCEHOSTS",
}


def ping(arguments: Sequence[str]) -> int:
    """Send ``app.tasks.housekeeping.ping`` and show what came back, and after how long.

    Where only a worker of this checkout can answer, it is waited for before anything is sent: a worker that
    is just being set up may still have to make the tables.
    """
    parser = ArgumentParser(prog="./dev ping")
    parser.add_argument("--wait", type=float, default=30.0, metavar="SECONDS")
    wait_s: float = parser.parse_args(arguments).wait
    begun = time.monotonic()
    state = make_state()
    if setting("DATABASE_URL") is None or supervisor(state) is not None:
        try:
            wait_until(lambda: worker_is_ready(state), wait_s, "a worker")
        except TimeoutError:
            raise UserError(
                f"no worker of this checkout is ready after {wait_s:g} s; ./dev worker starts one"
            ) from None
    with database(state) as url:
        # Only now: importing the application reads DATABASE_URL.
        from celery.exceptions import TimeoutError as NoAnswer
        from kombu.exceptions import OperationalError as NoBroker
        from sqlalchemy.exc import DBAPIError

        from app.celery_app import celery_app
        from environment.migration import current

        # Kombu would make its tables by itself, and then nobody would know why no result comes.
        try:
            left_s = wait_s - (time.monotonic() - begun)
            wait_until(lambda: current(url) != "none", left_s, "the tables", interval_s=0.5)
        except TimeoutError:
            raise UserError(f"{describe(url)} has no tables after {wait_s:g} s; ./dev migrate makes them") from None

        sent = time.monotonic()
        left_s = max(1.0, wait_s - (sent - begun))
        try:
            result = celery_app.send_task(_PING, expires=left_s).get(timeout=left_s)
        except NoAnswer:
            raise UserError(f"no worker answered on {describe(url)} in {left_s:.0f} s; is one running?") from None
        except (NoBroker, DBAPIError) as error:
            cause = str(getattr(error, "orig", error)).strip().splitlines()
            raise UserError(
                f"cannot send a task through {describe(url)}: {cause[0] if cause else type(error).__name__}"
            ) from None
        print(f"{result} ({(time.monotonic() - sent) * 1000:.0f} ms)")
    return 0


def provision_server(arguments: Sequence[str]) -> int:
    """Make the role and the database that DATABASE_URL names.

    SKELDIR_SUPERUSER_URL says how the server's superuser gets there; it is no argument, for anybody can read those.
    """
    ArgumentParser(prog="./dev provision").parse_args(arguments)
    url, superuser_url = setting("DATABASE_URL"), os.environ.get("SKELDIR_SUPERUSER_URL")
    if url is None or not superuser_url:
        raise UserError("set DATABASE_URL to what is wanted, and SKELDIR_SUPERUSER_URL to how a superuser gets there")
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
        raise UserError(f"{superuser.user} may not make roles or databases: {error.diag.message_primary}") from None
    print(f"dev: {describe(url)} is there and belongs to {wanted.user}", file=sys.stderr)
    return 0


def migrate(arguments: Sequence[str]) -> int:
    """``alembic upgrade``."""
    parser = ArgumentParser(prog="./dev migrate")
    parser.add_argument("revision", nargs="?", default="head")
    revision: str = parser.parse_args(arguments).revision
    with database(make_state()) as url:
        from environment.migration import current, upgrade

        upgrade(url, revision)
        print(f"dev: {describe(url)} is at revision {current(url)}", file=sys.stderr)
    return 0


def psql(arguments: Sequence[str]) -> int:
    """psql on the database; the address goes through the environment, so that no password is in argv."""
    program = _psql_program()
    with database(make_state()) as url:
        return run_in_foreground([program, *arguments], {**os.environ, **_libpq_environment(url)})


def _psql_program() -> str:
    try:
        own = find_installation().program("psql")
        if os.access(own, os.X_OK):
            return str(own)
    except UserError:
        pass
    found = shutil.which("psql")
    if found is None:
        raise UserError("no psql, neither beside PostgreSQL's other programs nor on PATH")
    return found


def _libpq_environment(url: str) -> dict[str, str]:
    parts = parse_dsn(PostgresDSN.parse(url).libpq())
    unknown = sorted(set(parts) - set(_LIBPQ_VARIABLES))
    if unknown:
        raise UserError(f"psql cannot take {', '.join(unknown)} of DATABASE_URL from the environment")
    return {_LIBPQ_VARIABLES[name]: value for name, value in parts.items()}
