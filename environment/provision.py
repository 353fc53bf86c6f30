"""The application's role and database on a server: its own, CI's service, or somebody's PostgreSQL."""

import os
import sys
from collections.abc import Sequence
from contextlib import closing

import psycopg2
from psycopg2 import sql

from app.core.dsn import PostgresDSN
from environment.database import check_settings, connect, describe, setting
from environment.errors import UserError

#: Names the server as its superuser; not an argument, because everybody can read those.
SUPERUSER_URL = "SKELDIR_SUPERUSER_URL"


def provision(superuser_url: str, role: str, password: str, database: str) -> None:
    """Make the role and its database, as far as they are missing.

    The role may log in and create databases; it is no superuser and does not bypass row security.  It owns the
    database: since PostgreSQL 15 nobody else may create tables in ``public``.  The database comes last: where it
    exists, everything does.

    :raises UserError: when the server cannot be reached or the superuser is none.
    """
    with closing(connect(superuser_url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        try:
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role])
            if cursor.fetchone() is None:
                statement = sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER NOBYPASSRLS CREATEDB PASSWORD {}")
                cursor.execute(statement.format(sql.Identifier(role), sql.Literal(password)))
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database])
            if cursor.fetchone() is None:
                statement = sql.SQL("CREATE DATABASE {} OWNER {}")
                cursor.execute(statement.format(sql.Identifier(database), sql.Identifier(role)))
        except psycopg2.errors.InsufficientPrivilege as error:
            raise UserError(f"the role of {SUPERUSER_URL} may not do this: {error.diag.message_primary}") from None


def main(arguments: Sequence[str]) -> int:
    """``./dev provision``: make what DATABASE_URL names."""
    if arguments:
        raise UserError(f"./dev provision takes no arguments: it reads DATABASE_URL and {SUPERUSER_URL}")
    url, superuser_url = setting("DATABASE_URL"), os.environ.get(SUPERUSER_URL)
    if url is None or not superuser_url:
        raise UserError(f"set DATABASE_URL to what is wanted and {SUPERUSER_URL} to how its superuser gets there")
    os.environ["DATABASE_URL"] = url
    check_settings()
    wanted = PostgresDSN.parse(url)
    if not wanted.user or not wanted.password:
        raise UserError("DATABASE_URL names no user, or no password for it")
    provision(superuser_url, wanted.user, wanted.password, wanted.database)
    print(f"dev: {describe(url)} is there and belongs to {wanted.user}", file=sys.stderr)
    return 0
