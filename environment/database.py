"""Which database a command uses."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
from dotenv import dotenv_values

from app.core.dsn import PostgresDSN
from app.core.settings import ConfigurationError, load_settings
from environment.checkout import is_checkout, project
from environment.errors import UserError
from environment.kept import KeptCluster
from environment.naming import say
from environment.sources import CHECKOUT


def setting(name: str) -> str | None:
    """A setting as the application reads it: from the environment, then from ``.env``; empty means unset."""
    return os.environ.get(name) or _dotenv().get(name) or None


def _dotenv() -> dict[str, str | None]:
    """The variables of ``.env``; none outside of a checkout, because a ``.env`` there belongs to another project."""
    folder = project()
    return dotenv_values(folder / ".env") if is_checkout(folder) else {}


@contextmanager
def database(state: Path) -> Iterator[str]:
    """The URL of ``served_database``."""
    with served_database(state) as (url, _):
        yield url


@contextmanager
def served_database(state: Path) -> Iterator[tuple[str, KeptCluster | None]]:
    """Yield the URL of the database to use, which is also put into this process's DATABASE_URL, and the server if it is
    ours.

    The database is the configured one. Without a configured one it is the checkout's own PostgreSQL, which runs while
    the block does.

    Args:
        state: the state folder.

    Raises:
        UserError: the settings are wrong, or PostgreSQL does not start.
    """
    if project() != CHECKOUT:
        # The application reads the .env of its own source tree.
        for name, value in _dotenv().items():
            os.environ[name] = os.environ.get(name) or value or ""
        if not is_checkout(project()) and (project() / ".env").exists():
            say(f"{project()}/.env is not read: it is not in a checkout of this project")
        # Before the state of the installed program was the account's, it lay where the program was started.
        if not is_checkout(project()) and state != (old := project() / ".skeldir") and (old / "postgres").is_dir():
            say(f"the data in {old} is not used; SKELDIR_STATE_DIR={old} uses it")
    configured = setting("DATABASE_URL")
    if configured is not None:
        os.environ["DATABASE_URL"] = configured
        check_settings()
        yield configured, None
        return
    cluster = KeptCluster(state)
    os.environ["DATABASE_URL"] = cluster.url()
    check_settings()
    with cluster:
        # Set again, because the server may have been started with its socket elsewhere.
        os.environ["DATABASE_URL"] = cluster.url()
        yield cluster.url(), cluster


def check_settings() -> None:
    """Let the application check its settings.

    Raises:
        UserError: with the application's text, which names the variable and never a value.
    """
    try:
        load_settings()
    except ConfigurationError as error:
        raise UserError("; ".join(str(error).splitlines())) from None


def describe(url: str) -> str:
    """The host and database of a URL, without user and password."""
    return PostgresDSN.parse(url).describe()


def connect(url: str) -> "psycopg2.extensions.connection":
    """A plain connection.

    Raises:
        UserError: one line with the host, the database and PostgreSQL's reason.
    """
    try:
        return psycopg2.connect(PostgresDSN.parse(url).libpq(), connect_timeout=5)
    except psycopg2.OperationalError as error:
        raise UserError(unreachable(url, error)) from None


def unreachable(url: str, error: BaseException) -> str:
    """One line for an unreachable database."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"cannot reach the database {describe(url)}: {reason}"
