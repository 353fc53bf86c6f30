"""What must be true of the database before a worker serves tasks."""

from __future__ import annotations

from functools import lru_cache

from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from app.core.errors import LoggableError
from app.core.settings import CHECKOUT, Settings

#: What broker and results need: migrations 006 to 008 make them.
CELERY_TABLES = (
    "kombu_queue",
    "kombu_message",
    "kombu_consumer",
    "celery_taskmeta",
    "celery_tasksetmeta",
    "celery_chord",
    "celery_chord_part",
    "celery_waiter",
)

_MISSING = text("SELECT name FROM unnest(CAST(:names AS text[])) AS name WHERE to_regclass('public.' || name) IS NULL")
_CLOSED = text("""
    SELECT name
    FROM unnest(CAST(:names AS text[])) AS name
    WHERE NOT (
        has_table_privilege('public.' || name, 'SELECT')
        AND has_table_privilege('public.' || name, 'INSERT')
        AND has_table_privilege('public.' || name, 'UPDATE')
        AND has_table_privilege('public.' || name, 'DELETE')
    )
""")
_ROLE = text("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")


class DatabaseUnfit(LoggableError):  # noqa: N818
    """The database answers but lacks something that waiting does not bring. One line that says what to do."""


def check_database(settings: Settings) -> None:
    """Return if a worker may serve tasks on this database.

    Raises:
        DatabaseUnfit: tables are missing or closed to the role, or, in production, row-level security does not
            bind the role.
        sqlalchemy.exc.DBAPIError: the database cannot be reached, now.
    """
    engine = create_engine(
        settings.dsn.url(),
        poolclass=NullPool,
        connect_args={"connect_timeout": settings.database_connect_timeout},
    )
    with engine.connect() as connection:
        missing = missing_tables(connection)
        if missing:
            raise DatabaseUnfit(
                f"database {settings.dsn.describe()} lacks the table{'s'[: len(missing) > 1]} {', '.join(missing)}: "
                "run `alembic upgrade head` (or `./dev migrate`) first"
            )
        closed = list(connection.execute(_CLOSED, {"names": list(CELERY_TABLES)}).scalars())
        if closed:
            raise DatabaseUnfit(
                f"database {settings.dsn.describe()}: the role of DATABASE_URL may not use {', '.join(closed)}: "
                f"as their owner, GRANT SELECT, INSERT, UPDATE, DELETE ON {', '.join(closed)} and USAGE on the "
                "sequences of the schema public to it"
            )
        if settings.environment == "production" and connection.execute(_ROLE).scalar_one():
            raise DatabaseUnfit(
                "the role of DATABASE_URL is superuser or has BYPASSRLS, so tenants would see each other's rows: "
                "use a role without both, or set ENVIRONMENT=development"
            )


def missing_tables(connection: Connection) -> list[str]:
    """Which of the tables that Celery needs are not there."""
    return list(connection.execute(_MISSING, {"names": list(CELERY_TABLES)}).scalars())


@lru_cache(maxsize=1)
def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(Config(str(CHECKOUT / "alembic.ini")))


def schema_head() -> str | None:
    """The newest revision that this checkout knows."""
    return _scripts().get_current_head()


def schema_is_behind(revision: str | None) -> bool:
    """Whether a database at `revision` lacks migrations of this checkout.

    A revision that this checkout does not know is a newer one: in a rolling deploy the schema goes first, and the
    workers of the old version must stay in service until they are replaced.
    """
    known = {script.revision for script in _scripts().walk_revisions()}
    return revision is None or (revision in known and revision != schema_head())


def schema_revision(connection: Connection) -> str | None:
    """The revision that the database is at; None if it was never migrated."""
    if connection.execute(text("SELECT to_regclass('public.alembic_version')")).scalar_one() is None:
        return None
    return connection.execute(text("SELECT version_num FROM public.alembic_version")).scalar_one_or_none()


def reason(error: DBAPIError) -> str:
    """The first line of the driver's message: what failed, without SQL, parameters or a DSN."""
    lines = str(error.orig).split("\n") if error.orig else []
    return next((line.strip() for line in lines if line.strip()), type(error.orig or error).__name__)
