"""Databases that no migration has seen, roles of their own, and Alembic on them."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from alembic import command
from alembic.config import Config

from environment.sources import CHECKOUT
from environment.testkit.databases import as_role, run, stock_create_all


@pytest.fixture
def empty_database(fresh: Any) -> Iterator[Any]:
    """A database that the application's role owns, with nothing in it."""
    with fresh() as database:
        yield database


@pytest.fixture(scope="session")
def stock_template(make_template: Any) -> Any:
    """The name of a database with the tables of stock Celery."""
    return make_template("stock", stock_create_all)


@pytest.fixture
def stock_database(fresh: Any, stock_template: str) -> Iterator[Any]:
    """A database with the tables of stock Celery."""
    with fresh(stock_template) as database:
        yield database


@pytest.fixture
def foreign_database(server: Any) -> Iterator[tuple[Any, str]]:
    """A database whose owner is not app_user, and its URL as that owner, who is no superuser."""
    if server.superuser_url is None:
        pytest.skip("needs another role, and roles can be made on our own server only")
    name = f"skeldir_migrations_{secrets.token_hex(6)}"
    run(server.superuser_url, f'CREATE ROLE "{name}" LOGIN', f'CREATE DATABASE "{name}" OWNER "{name}"')
    database = server.database(name)
    try:
        yield database, as_role(database.superuser_url, name)
    finally:
        run(server.superuser_url, f'DROP DATABASE "{name}" WITH (FORCE)', f'DROP ROLE "{name}"')


@pytest.fixture
def alembic(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    """`alembic("upgrade", url, "head")`, in process."""

    def call(name: str, url: str, revision: str) -> None:
        monkeypatch.setenv("DATABASE_URL", url)
        getattr(command, name)(Config(str(CHECKOUT / "alembic.ini")), revision)

    return call


@pytest.fixture
def shell() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`shell(url, "upgrade", "head")`: the command, started."""
    started: list[subprocess.Popen[str]] = []

    def start(url: str, *words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "alembic.config", *words],
            env={**os.environ, "DATABASE_URL": url},
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
