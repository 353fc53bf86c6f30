"""A server with roles of ops/postgres/roles.sql (of the package's in the database `plain`), and a login for each."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg2
import pytest

import celery_postgres
from celery_postgres.database.rights import roles_script
from environment.installation import DEFAULT_MAJOR
from environment.sources import CHECKOUT
from environment.temporary import TemporaryCluster

ROLES_SQL = (CHECKOUT / "ops/postgres/roles.sql").read_text()
PASSWORD = secrets.token_urlsafe()  # every account of the machine reaches 127.0.0.1
#: Logins, and the roles that they are members of.
LOGINS = {
    "deploy": ("celery_migrator",),
    "runner": ("celery_worker",),
    "sender": ("celery_producer",),
    "asker": ("celery_producer", "celery_result_reader"),
    "watcher": ("celery_monitor",),
    "looker": ("celery_console",),
    "helper": ("celery_operator",),
}


class Databases:
    """The databases of one server: ``migrated``, and ``plain`` with the broker alone, as other projects have it."""

    def __init__(self, cluster: TemporaryCluster) -> None:
        self.cluster = cluster

    def url(self, login: str, database: str = "migrated") -> str:
        """Over TCP, with a password."""
        return self.cluster.tcp_url(login, PASSWORD, database)

    def superuser_url(self, database: str = "migrated") -> str:
        return self.cluster.url("postgres", database)

    def run(self, url: str, *statements: str) -> list[tuple[object, ...]]:
        """Execute them, each in a transaction of its own; the rows of the last."""
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def make(self, name: str, script: str = ROLES_SQL) -> None:
        """An empty database in which the migrator may begin."""
        self.run(self.cluster.superuser_url, f"CREATE DATABASE {name}")
        self.run(self.superuser_url(name), script)


@pytest.fixture(scope="module")
def databases(migrate: Callable[[str], None]) -> Iterator[Databases]:
    with TemporaryCluster(int(os.environ.get("SKELDIR_POSTGRES_MAJOR", DEFAULT_MAJOR)), tcp=True) as cluster:
        made = Databases(cluster)
        made.make("migrated")
        made.make("plain", roles_script())
        for login, roles in LOGINS.items():
            made.run(
                cluster.superuser_url,
                f"CREATE ROLE {login} LOGIN PASSWORD '{PASSWORD}' IN ROLE {', '.join(roles)}",
            )
        # What a migrator makes belongs to the role, whoever logs in.
        made.run(cluster.superuser_url, "ALTER ROLE deploy SET role = 'celery_migrator'")
        made.run(cluster.superuser_url, "ALTER ROLE looker SET search_path = public_console, public")
        migrate(made.url("deploy"))
        celery_postgres.create_schema(made.url("deploy", "plain"))
        made.run(made.url("deploy"), ROLES_SQL)
        made.run(made.url("deploy", "plain"), roles_script())
        yield made
