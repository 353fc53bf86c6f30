"""Alembic, as ``alembic upgrade`` would run it."""

from functools import cache

import psycopg2

from environment.database import connect, describe, unreachable
from environment.errors import UserError
from environment.sources import CHECKOUT


def upgrade(url: str, revision: str = "head") -> None:
    """Bring a database to a revision.

    Args:
        url: must be this process's DATABASE_URL, which ``alembic/env.py`` reads.

    Raises:
        UserError: the database is unreachable, or the revision does not exist.
    """
    # Importing these takes 0.3 s, which `current` does not need.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError
    from sqlalchemy.exc import OperationalError

    try:
        command.upgrade(Config(CHECKOUT / "alembic.ini"), revision)
    except CommandError as error:
        raise UserError(str(error)) from None
    except OperationalError as error:
        raise UserError(unreachable(url, error.orig or error)) from None


def is_migrated(url: str) -> bool:
    """Whether a database has every migration of this checkout, or one of a later release, which is not known here.

    Raises:
        UserError: as for `current`.
    """
    found = _revisions(url)
    return bool(found) and not found <= _earlier_revisions()


@cache
def _earlier_revisions() -> frozenset[str]:
    """Those of this checkout that another one follows."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(Config(CHECKOUT / "alembic.ini"))
    return frozenset(revision.revision for revision in script.walk_revisions()) - frozenset(script.get_heads())


def current(url: str) -> str:
    """The revision of a database, for people; "none" without one.

    Raises:
        UserError: the database is unreachable, or its role may not read it.
    """
    return ", ".join(sorted(_revisions(url))) or "none"


def _revisions(url: str) -> set[str]:
    connection = connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT version_num FROM public.alembic_version")
            return {row[0] for row in cursor.fetchall()}
    except psycopg2.errors.UndefinedTable:
        return set()
    except psycopg2.errors.InsufficientPrivilege:
        role = connection.info.user
        raise UserError(f"{role} may not read alembic_version in {describe(url)}; its owner may GRANT SELECT") from None
    finally:
        connection.close()
