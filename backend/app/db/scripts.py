"""What migrations that run a whole SQL script share."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from alembic import op

from app.core.settings import CHECKOUT
from celery_postgres import migrate

_steps = logging.getLogger("alembic.runtime.migration")
_FROZEN = CHECKOUT / "alembic/frozen"

#: The rights that a worker under app_user needs on objects that another role has created. The role is looked up by
#: name, because 'app_user'::regrole is an error where the role does not exist, anywhere in a statement.
_GRANT_TO_APP_USER = """
DO $$
BEGIN
    IF EXISTS (
        SELECT FROM pg_class AS c, pg_roles AS r
        WHERE c.oid = 'public.{first}'::regclass AND r.rolname = 'app_user' AND c.relowner <> r.oid
    ) THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO app_user;{sequences}
    END IF;
END
$$
"""


def run_script(statements: str) -> None:
    """Execute a script as one string without parameters, so that a % stays a %."""
    op.get_bind().exec_driver_sql(statements, execution_options={"no_parameters": True})


def run_frozen(name: str) -> None:
    """Execute a script of `alembic/frozen` in the schema public. They never change: revisions depend on them."""
    run_script("SET LOCAL search_path = public")
    run_script((_FROZEN / f"{name}.sql").read_text(encoding="utf-8"))


def upgrade_package(number: int) -> None:
    """Bring the package's tables in the schema public up to a number, outside of Alembic's transaction.

    A schema that is at a greater number, by the package's own command, stays there.

    Raises:
        MigrationError, LockHeldError, SchemaError: see `celery_postgres.migrate`.
    """
    with op.get_context().autocommit_block():
        connection = op.get_bind().connection.driver_connection
        migrate(connection, number, schema="public", only_up=True, tell=_steps.info)


def downgrade_package(number: int) -> None:
    """Bring them down to a number.

    Raises:
        MigrationError, LockHeldError, SchemaError: see `celery_postgres.migrate`.
    """
    with op.get_context().autocommit_block():
        migrate(op.get_bind().connection.driver_connection, number, schema="public", tell=_steps.info)


def run_beside(migration: str, suffix: str) -> None:
    """Execute the script beside a migration: the same name with another suffix."""
    run_script(Path(migration).with_suffix(suffix).read_text(encoding="utf-8"))


def grant_to_app_user(tables: Sequence[str], sequences: Sequence[str] = ()) -> None:
    """Grant what a worker under `app_user` needs on tables of `public`, if that role exists and does not own the first
    one.
    """
    also = "".join(f"\n        GRANT USAGE ON SEQUENCE public.{name} TO app_user;" for name in sequences)
    named = ", ".join(f"public.{name}" for name in tables)
    run_script(_GRANT_TO_APP_USER.format(first=tables[0], tables=named, sequences=also))
