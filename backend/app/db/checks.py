"""What must hold for the database before a worker serves tasks."""

from __future__ import annotations

from functools import lru_cache

from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from app.core.errors import LoggableError
from app.core.settings import CHECKOUT, Settings
from app.db.engine import patience
from celery_postgres.errors import explained
from celery_postgres.operations import WORKER_FUNCTIONS, WORKER_SEQUENCES, WORKER_TABLES

_MISSING = text("SELECT name FROM unnest(CAST(:names AS text[])) AS name WHERE to_regclass('public.' || name) IS NULL")
_ELSEWHERE = text("""
    SELECT name FROM unnest(CAST(:names AS text[])) AS name
    WHERE to_regclass(name) IS DISTINCT FROM to_regclass('public.' || name)
""")
_SEARCH_PATH = text(
    "SELECT current_user, current_setting('search_path'), quote_ident(current_user), quote_ident(current_database())"
)
_LACKED = text("""
    SELECT wanted.privilege, string_agg(wanted.name, ', ' ORDER BY wanted.place)
    FROM unnest(CAST(:names AS text[]), CAST(:privileges AS text[])) WITH ORDINALITY AS wanted (name, privilege, place)
    WHERE NOT CASE wanted.privilege
        WHEN 'USAGE' THEN has_sequence_privilege(to_regclass('public.' || wanted.name), wanted.privilege)
        WHEN 'EXECUTE' THEN has_function_privilege(to_regprocedure('public.' || wanted.name), wanted.privilege)
        ELSE has_table_privilege(to_regclass('public.' || wanted.name), wanted.privilege)
    END
    GROUP BY wanted.privilege
    ORDER BY min(wanted.place)
""")
_STANDBY = text("SELECT pg_is_in_recovery()")
#: The setting with which a session's transactions begin. A single transaction may be more careful, as in a health
#: check.
_SET_READ_ONLY = text("SELECT current_setting('default_transaction_read_only')::boolean")
_ROLE = text("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")
_CURRENT_USER = text("SELECT current_user, quote_ident(current_user)")


class DatabaseUnfit(LoggableError):  # noqa: N818
    """The database answers but lacks something that waiting does not bring. The message is one line with the remedy."""


class DatabaseReadOnly(LoggableError):  # noqa: N818
    """The database answers but takes no writes. The message is one line with the reason."""


def check_database(settings: Settings) -> None:
    """Return if a worker may serve tasks on this database.

    Raises:
        DatabaseUnfit: tables are missing, not on the search_path or not accessible to the role, or, in production, the
            role bypasses row-level security.
        DatabaseReadOnly: it takes no writes at the moment.
        sqlalchemy.exc.DBAPIError: the database is unreachable at the moment.
    """
    engine = create_engine(settings.dsn.url(), poolclass=NullPool, connect_args=patience(settings))
    with engine.connect() as connection:
        check_writable(connection)
        missing = missing_tables(connection)
        if missing:
            raise DatabaseUnfit(
                f"database {settings.dsn.describe()} lacks the table{'s'[: len(missing) > 1]} {', '.join(missing)}: "
                "run `alembic upgrade head` (or `./dev migrate`) first"
            )
        elsewhere = connection.execute(_ELSEWHERE, {"names": [*WORKER_TABLES, *WORKER_SEQUENCES]}).scalars().all()
        if elsewhere:
            role, path, quoted, database = connection.execute(_SEARCH_PATH).one()
            raise DatabaseUnfit(
                f"database {settings.dsn.describe()}: the search_path of {role}, {path!r}, does not lead to "
                f"{', '.join(elsewhere)} in the schema public: take it out of the options of DATABASE_URL if it is "
                f"there, else ALTER ROLE {quoted} IN DATABASE {database} SET search_path = public"
            )
        lacked = lacked_rights(connection)
        if lacked:
            role, quoted = connection.execute(_CURRENT_USER).one()
            raise DatabaseUnfit(
                f"database {settings.dsn.describe()}: the role {role} of DATABASE_URL lacks {lacked}: as the owner of "
                f"these tables run ops/postgres/roles.sql, and then GRANT celery_worker TO {quoted}"
            )
        if settings.environment == "production" and connection.execute(_ROLE).scalar_one():
            raise DatabaseUnfit(
                "the role of DATABASE_URL is superuser or has BYPASSRLS, so tenants would see each other's rows: "
                "use a role without both, or set ENVIRONMENT=development"
            )


def check_writable(connection: Connection) -> None:
    """Return if sessions that begin as this one did may write. This function writes nothing.

    Raises:
        DatabaseReadOnly: they may not.
    """
    if connection.execute(_STANDBY).scalar_one():
        raise DatabaseReadOnly("it takes no writes: it is a standby")
    if connection.execute(_SET_READ_ONLY).scalar_one():
        raise DatabaseReadOnly("it takes no writes: default_transaction_read_only is on")


def missing_tables(connection: Connection) -> list[str]:
    """The tables that Celery needs and that do not exist."""
    return list(connection.execute(_MISSING, {"names": list(WORKER_TABLES)}).scalars())


def lacked_rights(connection: Connection) -> str | None:
    """The worker's rights that the current role lacks, as text for people; None if it has them all."""
    wanted = [(name, right) for name, rights in WORKER_TABLES.items() for right in rights]
    wanted += [(name, "USAGE") for name in WORKER_SEQUENCES] + [(name, "EXECUTE") for name in WORKER_FUNCTIONS]
    names, privileges = zip(*wanted, strict=True)
    found = connection.execute(_LACKED, {"names": list(names), "privileges": list(privileges)})
    return "; ".join(f"{right} on {tables}" for right, tables in found) or None


@lru_cache(maxsize=1)
def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(Config(str(CHECKOUT / "alembic.ini")))


def schema_head() -> str | None:
    """The newest revision in this checkout."""
    return _scripts().get_current_head()


def schema_is_behind(revision: str | None) -> bool:
    """Whether a database at `revision` lacks migrations of this checkout.

    An unknown revision counts as newer: in a rolling deployment the schema changes first, and workers of the old
    version must stay in service until they are replaced.
    """
    known = {script.revision for script in _scripts().walk_revisions()}
    return revision is None or (revision in known and revision != schema_head())


def schema_revision(connection: Connection) -> str | None:
    """The database's revision; None if it was never migrated."""
    if connection.execute(text("SELECT to_regclass('public.alembic_version')")).scalar_one() is None:
        return None
    return connection.execute(text("SELECT version_num FROM public.alembic_version")).scalar_one_or_none()


def reason(error: DBAPIError) -> str:
    """The first line of the driver's message: what failed, without SQL, parameters or a DSN."""
    lines = str(error.orig).split("\n") if error.orig else []
    return explained(next((line.strip() for line in lines if line.strip()), type(error.orig or error).__name__))
