"""How Alembic reaches the database: DATABASE_URL through the application's settings, one migration at a time.

Works from the shell and in process (`alembic.command.upgrade(Config("alembic.ini"), "head")`). What goes wrong is
one line (`alembic.util.CommandError`) without the URL or its password. Logging is configured for the shell alone:
in process it belongs to the application.
"""

from __future__ import annotations

import logging

import psycopg2
from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from app.core.settings import ConfigurationError, Settings, load_settings
from app.db.checks import reason
from celery_postgres.database import advisory_locks
from celery_postgres.errors import CeleryPostgresError

#: Two migrations at once would collide in CREATE TABLE; the second waits for this advisory lock instead.
MIGRATION_LOCK = "skeldir.alembic"
MIGRATION_UNLOCK = text("SELECT pg_advisory_unlock(hashtextextended('skeldir.alembic', 0))")
#: A statement that queues for a table lock makes everybody after it queue as well, so it gives up early.
DDL_LOCK_TIMEOUT = text("SET lock_timeout = '5s'")

_steps = logging.getLogger("alembic.runtime.migration")

INSUFFICIENT_PRIVILEGE, LOCK_NOT_AVAILABLE, DEADLOCK_DETECTED = "42501", "55P03", "40P01"
_MAY_CREATE = text(
    "SELECT current_user AS role, has_schema_privilege('public', 'CREATE') AS may_create,"
    " quote_ident(current_user) AS quoted_role"
)


def run() -> None:
    """Run the migrations that the Alembic command asks for."""
    if context.is_offline_mode():
        raise CommandError("--sql cannot work here: the migrations look at what the database already has")
    try:
        settings = load_settings()
    except ConfigurationError as error:
        raise CommandError(str(error)) from None
    _log_to_the_shell()
    engine = create_engine(
        settings.dsn.url(),
        poolclass=NullPool,
        hide_parameters=True,
        connect_args={
            "connect_timeout": settings.database_connect_timeout,
            "fallback_application_name": f"{settings.service_name}-alembic",
        },
    )
    try:
        connection = engine.connect()
    except DBAPIError as error:
        raise CommandError(f"database {settings.dsn.describe()} cannot be reached ({reason(error)})") from None
    with connection:
        try:
            _migrate(connection)
        except DBAPIError as error:
            raise CommandError(_explain(error, connection, settings)) from None
        except (CeleryPostgresError, psycopg2.Error) as error:
            raise CommandError(f"database {settings.dsn.describe()}: {error}") from None


def _migrate(connection: Connection) -> None:
    try:
        advisory_locks.take(connection.connection.driver_connection, MIGRATION_LOCK, tell=_steps.warning)
    except advisory_locks.LockHeldError as error:
        raise CommandError(str(error)) from None
    connection.execute(DDL_LOCK_TIMEOUT)
    connection.commit()
    context.configure(connection=connection, target_metadata=None, version_table_schema="public")
    with context.begin_transaction():
        context.run_migrations()
    # The end of the connection would do, but a pooler between us and the server may keep it.
    connection.execute(MIGRATION_UNLOCK)
    connection.commit()


def _explain(error: DBAPIError, connection: Connection, settings: Settings) -> str:
    """One line: which database, what failed, and what to do about the two things that are ours to know."""
    where, what = settings.dsn.describe(), reason(error)
    code = getattr(error.orig, "pgcode", None)
    if code in (LOCK_NOT_AVAILABLE, DEADLOCK_DETECTED):
        return f"database {where}: {what}: another session uses the table; run it again"
    if code == INSUFFICIENT_PRIVILEGE:
        connection.rollback()
        role = connection.execute(_MAY_CREATE).one()
        if not role.may_create:
            return (
                f"database {where}: role {role.role} may not create tables in the schema public; as the owner of the "
                f"database run: GRANT USAGE, CREATE ON SCHEMA public TO {role.quoted_role}"
            )
        return f"database {where}: {what}; run the migration as the role that owns it"
    return f"database {where}: {what}"


def _log_to_the_shell() -> None:
    """Show which revisions run, when the `alembic` command runs them. fileConfig would disable other loggers."""
    if context.config.cmd_opts is None:
        return
    _steps.addHandler(logging.StreamHandler())
    _steps.setLevel(logging.INFO)


run()
