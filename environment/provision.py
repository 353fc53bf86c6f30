"""The application's role and database on a server: our own, CI's service, or somebody's PostgreSQL."""

from contextlib import closing

import psycopg2
from psycopg2 import sql


def provision(superuser: str, role: str, password: str, database: str) -> None:
    """Make the role and its database, as far as they are missing.

    The role may log in and create databases; it is no superuser and does not bypass row security.  It owns the
    database: since PostgreSQL 15 nobody else may create tables in ``public``.  The database comes last: where it
    exists, everything does.

    :param superuser: libpq's URL or connection string of a role that may make both.
    :raises psycopg2.Error: when the server cannot be reached, or the superuser is none.
    """
    with closing(psycopg2.connect(superuser)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role])
        if cursor.fetchone() is None:
            statement = sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER NOBYPASSRLS CREATEDB PASSWORD {}")
            cursor.execute(statement.format(sql.Identifier(role), sql.Literal(password)))
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database])
        if cursor.fetchone() is None:
            statement = sql.SQL("CREATE DATABASE {} OWNER {}")
            cursor.execute(statement.format(sql.Identifier(database), sql.Identifier(role)))
