"""A run's PostgreSQL, seen from outside: databases for its samples, its process, its counters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import psycopg2

from environment.cluster import APP_ROLE
from environment.temporary import TemporaryCluster

#: What a crash costs those who keep tasks in it, as ``benchmarks.servers`` sets it up.
DURABLE = "yes: fsync and synchronous_commit on"

#: Rows that are worth new statistics.
_MANY = 20_000


def administrate(cluster: TemporaryCluster, statement: str) -> None:
    """Run a statement as superuser, outside a transaction and of the database postgres."""
    with closing(psycopg2.connect(cluster.superuser_url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)


@contextmanager
def database(cluster: TemporaryCluster, name: str, template: str | None = None) -> Iterator[None]:
    """A database of the application's role, empty or a copy; gone afterwards."""
    copied = f" TEMPLATE {template}" if template else ""
    administrate(cluster, f"CREATE DATABASE {name}{copied} OWNER {APP_ROLE}")
    try:
        # What the last sample left to write is written now, not during the next.
        administrate(cluster, "CHECKPOINT")
        yield
    finally:
        administrate(cluster, f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def without_autovacuum(cluster: TemporaryCluster) -> Iterator[None]:
    """Its visits to a database are transactions, and counted as such."""
    administrate(cluster, "ALTER SYSTEM SET autovacuum = off")
    administrate(cluster, "SELECT pg_reload_conf()")
    try:
        yield
    finally:
        administrate(cluster, "ALTER SYSTEM RESET autovacuum")
        administrate(cluster, "SELECT pg_reload_conf()")


def postmaster(cluster: TemporaryCluster) -> list[int]:
    """Its process, for a list."""
    pid = cluster.pid()
    return [] if pid is None else [pid]


def transactions(cluster: TemporaryCluster, name: str) -> int:
    """Of a database, committed and rolled back; asked in another, so that asking is not counted.

    A process that is busy reports its own once a second, one that ends at once.
    """
    with closing(psycopg2.connect(cluster.superuser_url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s", [name])
        return int(cursor.fetchone()[0])


def analyze(connection: Any, count: int, tables: Sequence[str]) -> None:
    """After ``count`` rows were added, for the first time or many: autovacuum does it within a minute, and until then
    the planner believes the tables to be as good as empty.
    """
    with connection.cursor() as cursor:
        if count < _MANY:
            cursor.execute("SELECT reltuples < 0 FROM pg_class WHERE oid = %s::regclass", [tables[0]])
            if not cursor.fetchone()[0]:
                return
        cursor.execute("ANALYZE " + ", ".join(tables))
