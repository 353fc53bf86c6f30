"""The PostgreSQL of a run, as the harness sees it: databases for samples, counters, sizes."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import psycopg2

from benchmarks.systems import Broker, System
from environment.cluster import APP_ROLE
from environment.temporary import TemporaryCluster

#: What a crash loses of tasks in it, with the settings of ``environment.testkit.servers``.
DURABLE = "yes: fsync and synchronous_commit on"

#: Rows that make new statistics worth while.
_MANY = 20_000


def connect(url: str) -> Any:
    """Open a connection in autocommit, which counts as the harness' own."""
    connection = psycopg2.connect(url, application_name="benchmarks")
    connection.autocommit = True
    return connection


def administrate(cluster: TemporaryCluster, *statements: str) -> None:
    """Run statements as superuser, outside a transaction, in the database postgres."""
    with closing(connect(cluster.superuser_url)) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


@contextmanager
def database(cluster: TemporaryCluster, name: str, template: str | None = None) -> Iterator[str]:
    """Create a database of the application's role, empty or a copy; yield its URL, and drop it afterwards."""
    copied = f" TEMPLATE {template}" if template else ""
    administrate(cluster, f"CREATE DATABASE {name}{copied} OWNER {APP_ROLE}")
    try:
        # The server writes what the last sample left behind now, and not during the next one.
        administrate(cluster, "CHECKPOINT")
        yield cluster.tcp_url(database=name)
    finally:
        administrate(cluster, f"DROP DATABASE {name} WITH (FORCE)")


class InPostgres(System):
    """A system with a database of its own for each sample, copied from a template.

    Args:
        cluster: the server.
    """

    durable = DURABLE
    cluster: TemporaryCluster

    def __init__(self, cluster: TemporaryCluster) -> None:
        self.cluster = cluster
        self._numbers = itertools.count(1)
        self._prefix = f"bench_{self.name}".replace("-", "_")
        self._template = f"{self._prefix}_template"
        administrate(
            cluster, f"DROP DATABASE IF EXISTS {self._template}", f"CREATE DATABASE {self._template} OWNER {APP_ROLE}"
        )
        with closing(self.broker(self._template, results=False)) as broker:
            self.prepare(broker)

    @abstractmethod
    def broker(self, name: str, *, results: bool) -> Broker:
        """Return the broker of a database."""

    @abstractmethod
    def prepare(self, broker: Any) -> None:
        """Create the schema in the template."""

    @contextmanager
    def fresh(self, *, results: bool = False) -> Iterator[Any]:
        """A copy of the template.

        Raises:
            NotImplementedError: when results are wanted of a system that stores none.
        """
        if results and not self.results:
            raise NotImplementedError(f"{self.label} stores no results of tasks")
        name = f"{self._prefix}_{next(self._numbers)}"
        with (
            database(self.cluster, name, self._template),
            closing(self.broker(name, results=results)) as broker,
        ):
            yield broker

    def versions(self) -> dict[str, str]:
        return {"PostgreSQL": self.cluster.installation.version}

    def pids(self) -> list[int]:
        return postmaster(self.cluster)


@contextmanager
def without_autovacuum(cluster: TemporaryCluster) -> Iterator[None]:
    """Its visits to a database are transactions, and would be counted as such."""
    administrate(cluster, "ALTER SYSTEM SET autovacuum = off", "SELECT pg_reload_conf()")
    try:
        yield
    finally:
        administrate(cluster, "ALTER SYSTEM RESET autovacuum", "SELECT pg_reload_conf()")


def postmaster(cluster: TemporaryCluster) -> list[int]:
    """Return its process id, as a list."""
    pid = cluster.pid()
    return [] if pid is None else [pid]


def transactions(cluster: TemporaryCluster, name: str) -> int:
    """Return how many transactions of a database ended; reads it in another one, so that reading is not counted.

    A busy backend reports its own once a second, one that ends reports them at once.
    """
    with closing(psycopg2.connect(cluster.superuser_url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s", [name])
        return int(cursor.fetchone()[0])


def analyze(connection: Any, count: int, tables: Sequence[str]) -> None:
    """Analyze tables to which ``count`` rows were added, if these are many or the first: autovacuum does it within a
    minute, and until then the planner takes the tables for nearly empty.
    """
    with connection.cursor() as cursor:
        if count < _MANY:
            cursor.execute("SELECT reltuples < 0 FROM pg_class WHERE oid = %s::regclass", [tables[0]])
            if not cursor.fetchone()[0]:
                return
        cursor.execute("ANALYZE " + ", ".join(tables))


def pin(connection: Any) -> None:
    """Begin a transaction that holds back vacuum until the connection is closed."""
    connection.autocommit = False
    connection.set_session(isolation_level="REPEATABLE READ")
    with connection.cursor() as cursor:
        cursor.execute("SELECT txid_current()")


def sizes(connection: Any, tables: Sequence[str]) -> dict[str, Any]:
    """Return dead and live rows, and bytes of tables and indexes, summed over these tables."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")
        cursor.execute(
            "SELECT sum(n_dead_tup)::bigint, sum(n_live_tup)::bigint, sum(pg_table_size(relid))::bigint, "
            "sum(pg_indexes_size(relid))::bigint FROM pg_stat_user_tables WHERE relname = ANY(%s)",
            [list(tables)],
        )
        return dict(zip(("dead_tuples", "live_tuples", "table_bytes", "index_bytes"), cursor.fetchone(), strict=True))


def escaped(value: object) -> str:
    """Return a value as COPY reads it."""
    if isinstance(value, bool):
        return "t" if value else "f"
    text = str(value)
    for plain, written in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(plain, written)
    return text
