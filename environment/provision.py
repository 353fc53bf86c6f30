"""The application's role and database on a server: our own, CI's service, or somebody's PostgreSQL."""

from collections.abc import Iterable
from contextlib import closing, suppress

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import cursor, encrypt_password

#: For the application's role: the driver writes parameters into its statements, so a failed statement in the server's
#: log is a payload in it; so is the DETAIL of an error, which quotes rows and others' statements. As in
#: ops/postgres/roles.sql, which a test holds to this.
QUIET = {"log_min_error_statement": "panic", "log_error_verbosity": "terse", "log_parameter_max_length": "0"}
#: For the session that sets a password, whatever the server logs otherwise.
_SILENT = {"log_statement": "none", "log_min_duration_statement": "-1", "log_duration": "off", **QUIET}


def provision(superuser: str, role: str, password: str, database: str) -> None:
    """Make the role and its database, as far as they are missing.

    The role may log in and create databases; it is no superuser and does not bypass row security.  It owns the
    database: since PostgreSQL 15 nobody else may create tables in ``public``.  The database comes last: where it
    exists, everything does.

    Its password is not sent, but what the server would store of it; and where ``superuser`` is one, neither that nor a
    statement of the role that fails is in the server's log.

    Args:
        superuser: libpq's URL or connection string of a role that may make both.

    Raises:
        psycopg2.Error: when the server cannot be reached, or the superuser is none.
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
