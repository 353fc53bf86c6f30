"""The application's role and database on a server: our own, CI's service, or any other PostgreSQL."""

from collections.abc import Iterable
from contextlib import closing, suppress

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import cursor, encrypt_password

#: For the application's role. The driver writes parameters into its statements, so the log of a failed statement
#: contains a payload; so does the DETAIL of an error, which quotes rows and other statements. The same values as in
#: ops/postgres/roles.sql; a test compares them.
QUIET = {"log_min_error_statement": "panic", "log_error_verbosity": "terse", "log_parameter_max_length": "0"}
#: For the session that sets a password, whatever else the server logs.
_SILENT = {"log_statement": "none", "log_min_duration_statement": "-1", "log_duration": "off", **QUIET}


def provision(superuser: str, role: str, password: str, database: str) -> None:
    """Create the role and its database, if they are missing.

    The role may log in and create databases; it is not a superuser and does not bypass row-level security. It owns the
    database: since PostgreSQL 15 only the owner may create tables in ``public``. The database comes last: if it exists,
    everything does.

    Not the password is sent, but the verifier that the server would store. If ``superuser`` is a superuser, the
    server's log contains neither that nor a failed statement of the role.

    Args:
        superuser: libpq's URL or connection string of a role that may create both.

    Raises:
        psycopg2.Error: the server is unreachable, or the role may not create them.
    """
    with closing(psycopg2.connect(superuser)) as connection, connection.cursor() as at:
        connection.autocommit = True
        at.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role])
        if at.fetchone() is None:
            _as_far_as_allowed(at, (_setting("SET {} = {}", *one) for one in _SILENT.items()))
            verifier = encrypt_password(password, role, scope=connection)
            statement = sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER NOBYPASSRLS CREATEDB PASSWORD {}")
            at.execute(statement.format(sql.Identifier(role), sql.Literal(verifier)))
            _as_far_as_allowed(at, (_setting("ALTER ROLE {role} SET {} = {}", *one, role) for one in QUIET.items()))
        at.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database])
        if at.fetchone() is None:
            statement = sql.SQL("CREATE DATABASE {} OWNER {}")
            at.execute(statement.format(sql.Identifier(database), sql.Identifier(role)))


def _setting(statement: str, name: str, value: str, role: str = "") -> sql.Composed:
    return sql.SQL(statement).format(sql.Identifier(name), sql.Literal(value), role=sql.Identifier(role))


def _as_far_as_allowed(at: cursor, statements: Iterable[sql.Composed]) -> None:
    for statement in statements:
        with suppress(psycopg2.errors.InsufficientPrivilege):
            at.execute(statement)
