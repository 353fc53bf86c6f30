"""The brokers that are compared, each as Celery sees it.

A peer makes fresh, empty brokers: a database of its own from a template, or a flushed Redis.  Every sample starts on
one, so that none inherits the dead rows of another.
"""

from __future__ import annotations

import importlib
import itertools
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from io import StringIO
from pathlib import Path
from typing import Any, Protocol

import psycopg2
from psycopg2.extras import RealDictCursor

from benchmarks.clones import SAMPLE_NUMBER, Clones
from benchmarks.clusters import DURABLE, administrate, database, postmaster
from benchmarks.processes import call, package_path
from benchmarks.program import QUEUE
from benchmarks.servers import POSTGRES, REDIS, Redis
from environment.cluster import APP_ROLE
from environment.temporary import TemporaryCluster

#: Rows in one COPY: large enough that the round trip does not count, small enough to hold in memory.
_CHUNK = 20_000

#: Copies that a feeder has ready.
_RESERVOIR = 20_000


class Broker(Protocol):
    """A fresh broker of a peer.

    :ivar variables: what a child needs to reach it.
    """

    variables: dict[str, str]

    def fill(self, first: int, count: int) -> None:
        """Add ``count`` messages for ``benchmarks.noop``, numbered from ``first``, visible at once together
        (each 20,000 of them, if there are more)."""

    def refill(self, count: int) -> None:
        """Add ``count`` messages as cheaply as possible, for a feeder beside the measured worker: copies that were
        made beforehand, used again after some thousands, when their first use is long over."""

    def close(self) -> None:
        """Let go of connections."""


class Peer(Protocol):
    """Who is compared.

    :ivar name: in file names.
    :ivar label: in the table.
    :ivar durable: what a crash of the server costs.
    """

    name: str
    label: str
    durable: str

    def fresh(self) -> Any:
        """A context manager: a fresh ``Broker``."""

    def describe(self) -> dict[str, Any]:
        """Version and settings of its server."""

    def pids(self) -> list[int]:
        """The processes of its server."""


class PostgresBroker:
    """A database with the broker's tables.

    :ivar libpq: how to look into it.
    """

    def __init__(self, peer: PostgresPeer, name: str, *, results: bool) -> None:
        self.name = name
        self.libpq = peer.cluster.tcp_url(database=name)
        self.variables = {"BENCH_BROKER": f"sqla+{self.libpq}", **peer.variables}
        if results:
            self.variables["BENCH_BACKEND"] = f"db+{self.libpq}"
        self._peer = peer
        self._connection: Any = None
        self._refilled: int | None = None

    def connect(self) -> Any:
        """A connection of the caller's own, in autocommit."""
        connection = psycopg2.connect(self.libpq, application_name="benchmarks")
        connection.autocommit = True
        return connection

    def fill(self, first: int, count: int) -> None:
        self.copy(first, count, self._peer.clones, self._peer.columns)

    def copy(self, first: int, count: int, clones: Clones, columns: dict[str, Any]) -> None:
        """Add copies of a sample (``take_sample``)."""
        if self._connection is None:
            self._connection = psycopg2.connect(self.libpq, application_name="benchmarks")
        names = ["id", "payload", *columns]
        with self._connection.cursor() as cursor:
            for start in range(first, first + count, _CHUNK):
                numbers = range(start, min(start + _CHUNK, first + count))
                cursor.execute("SELECT nextval(%s) FROM generate_series(1, %s)", [self._peer.sequence, len(numbers)])
                ids = [row[0] for row in cursor.fetchall()]
                lines = []
                for number, row_id in zip(numbers, ids, strict=True):
                    task_id, raw = clones.make(number)
                    values = [task_id if name == "task_id" else value for name, value in columns.items()]
                    lines.append("\t".join([str(row_id), *(escaped(value) for value in (raw, *values))]))
                cursor.copy_expert(f"COPY kombu_message ({', '.join(names)}) FROM STDIN", StringIO("\n".join(lines)))
                self._connection.commit()

    def refill(self, count: int) -> None:
        if self._refilled is None:
            self._make_reservoir()
            self._refilled = 0
        columns = ", ".join(["payload", *self._peer.columns])
        with self._connection.cursor() as cursor:
            while count > 0:
                part = min(count, _RESERVOIR - self._refilled)
                cursor.execute(
                    f"INSERT INTO kombu_message (id, {columns}) SELECT nextval(%s), {columns} FROM bench_reservoir "
                    "WHERE number > %s AND number <= %s ORDER BY number",
                    [self._peer.sequence, self._refilled, self._refilled + part],
                )
                self._connection.commit()
                self._refilled = (self._refilled + part) % _RESERVOIR
                count -= part

    def _make_reservoir(self) -> None:
        """Moved out of the queue itself, so that its rows are those that ``fill`` makes."""
        self.fill(1, 0)
        with self._connection.cursor() as cursor:
            cursor.execute(
                "CREATE UNLOGGED TABLE bench_reservoir AS SELECT 0::bigint AS number, * FROM kombu_message WHERE false"
            )
            lines = []
            for number in range(1, _RESERVOIR + 1):
                task_id, raw = self._peer.clones.make(number)
                values = [task_id if name == "task_id" else value for name, value in self._peer.columns.items()]
                lines.append("\t".join([str(number), *(escaped(value) for value in (raw, *values))]))
            cursor.copy_expert(
                f"COPY bench_reservoir (number, payload, {', '.join(self._peer.columns)}) FROM STDIN",
                StringIO("\n".join(lines)),
            )
            cursor.execute("CREATE INDEX ON bench_reservoir (number)")
            cursor.execute("ANALYZE bench_reservoir")
            cursor.execute("SET synchronous_commit = off")
            self._connection.commit()

    def take_sample(self) -> tuple[Clones, dict[str, Any]]:
        """Remove the one message there is; return it, and those of its columns that are not told by its number."""
        with closing(self.connect()) as connection, connection.cursor(cursor_factory=RealDictCursor) as cursor:
            cursor.execute("SELECT * FROM kombu_message")
            (row,) = cursor.fetchall()
            cursor.execute("DELETE FROM kombu_message")
            cursor.execute("VACUUM FULL kombu_message")
        clones = Clones(row.pop("payload"))
        del row["id"]
        return clones, {name: value for name, value in row.items() if value is not None}

    def count(self) -> int:
        """Messages of the program that are there, in whatever state."""
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM kombu_message JOIN kombu_queue ON kombu_queue.id = queue_id WHERE name = %s",
                [QUEUE],
            )
            return int(cursor.fetchone()[0])

    def count_results(self) -> int:
        """Tasks whose success is stored."""
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM celery_taskmeta WHERE status = 'SUCCESS'")
            return int(cursor.fetchone()[0])

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


class PostgresPeer:
    """Celery on PostgreSQL, by our transport or by Kombu's own.

    :param ours: which of the two.
    :param results: whether the same database keeps the tasks' results.
    :param name: in the names of its databases, where there are two of one kind.
    :param checkout: the checkout whose package is measured, instead of this one.
    """

    durable = DURABLE

    def __init__(
        self,
        cluster: TemporaryCluster,
        *,
        ours: bool,
        results: bool = False,
        name: str | None = None,
        checkout: Path | None = None,
    ) -> None:
        self.cluster = cluster
        self.results = results
        self.name = name or ("ours" if ours else "stock")
        self.label = "celery_postgres" if ours else "stock sqla"
        self.variables = {"BENCH_INSTALL": "1"} if ours else {}
        if checkout is not None:
            self.variables["PYTHONPATH"] = package_path(checkout)
        self.sequence = "message_id_sequence"
        self._numbers = itertools.count(1)
        self._template = f"bench_{self.name}_template"
        self._make_template()

    def _make_template(self) -> None:
        self.administrate(f"CREATE DATABASE {self._template} OWNER {APP_ROLE}")
        broker = PostgresBroker(self, self._template, results=self.results)
        if self.variables:
            call("benchmarks.schema", broker.libpq, variables=broker.variables)
        call("benchmarks.producer", "sample", SAMPLE_NUMBER, variables=broker.variables)
        self.clones, self.columns = broker.take_sample()

    @contextmanager
    def fresh(self, *, results: bool | None = None) -> Iterator[PostgresBroker]:
        """A database of its own.

        :param results: whether it keeps the tasks' results; as the peer does where it is not said.
        """
        name = f"bench_{self.name}_{next(self._numbers)}"
        with (
            database(self.cluster, name, self._template),
            closing(PostgresBroker(self, name, results=self.results if results is None else results)) as broker,
        ):
            yield broker

    def describe(self) -> dict[str, Any]:
        return {
            "server": f"PostgreSQL {self.cluster.installation.version}",
            "settings": POSTGRES,
            "durable": self.durable,
            "reached": "TCP on loopback",
        }

    def pids(self) -> list[int]:
        return postmaster(self.cluster)

    def administrate(self, statement: str) -> None:
        """Run a statement as superuser."""
        administrate(self.cluster, statement)


class RedisBroker:
    """A flushed Redis."""

    def __init__(self, server: Redis, clones: Clones | None, *, results: bool) -> None:
        self.variables = {"BENCH_BROKER": server.url, **({"BENCH_BACKEND": server.url} if results else {})}
        self.client: Any = importlib.import_module("redis").Redis(port=server.port)
        self._clones = clones
        self._prepared: list[str] = []
        self._refilled = 0

    def refill(self, count: int) -> None:
        if not self._prepared:
            assert self._clones is not None
            self._prepared = [self._clones.make(number)[1] for number in range(1, _RESERVOIR + 1)]
        with self.client.pipeline(transaction=False) as pipeline:
            for _ in range(count):
                self._refilled = (self._refilled + 1) % _RESERVOIR
                pipeline.lpush(QUEUE, self._prepared[self._refilled])
            pipeline.execute()

    def fill(self, first: int, count: int) -> None:
        assert self._clones is not None
        for start in range(first, first + count, _CHUNK):
            with self.client.pipeline(transaction=True) as pipeline:
                for number in range(start, min(start + _CHUNK, first + count)):
                    pipeline.lpush(QUEUE, self._clones.make(number)[1])
                pipeline.execute()

    def close(self) -> None:
        self.client.close()


class RedisPeer:
    """Celery on Redis.

    :param results: whether it keeps the tasks' results, too.
    """

    name = "redis"
    label = "Redis"
    durable = "no: nothing is written to disk"

    def __init__(self, server: Redis, *, results: bool = False) -> None:
        self._server = server
        self._results = results
        self._clones: Clones | None = None
        with self.fresh() as broker:
            call("benchmarks.producer", "sample", SAMPLE_NUMBER, variables=broker.variables)
            self._clones = Clones(broker.client.lindex(QUEUE, 0).decode())

    @contextmanager
    def fresh(self) -> Iterator[RedisBroker]:
        broker = RedisBroker(self._server, self._clones, results=self._results)
        broker.client.flushall()
        try:
            yield broker
        finally:
            broker.client.flushall()
            broker.close()

    def describe(self) -> dict[str, Any]:
        return {
            "server": f"Redis {self._server.version}",
            "settings": REDIS,
            "durable": self.durable,
            "reached": "TCP on loopback",
        }

    def pids(self) -> list[int]:
        return [self._server.pid]


class MemoryPeer:
    """Celery's in-memory transport: what Celery itself costs, and nothing else."""

    name = "memory"
    label = "in-memory"
    durable = "no: inside the process"

    @contextmanager
    def fresh(self) -> Iterator[MemoryBroker]:
        yield MemoryBroker()

    def describe(self) -> dict[str, Any]:
        return {"server": "none", "settings": {}, "durable": self.durable, "reached": "inside the process"}

    def pids(self) -> list[int]:
        return []


class MemoryBroker:
    """A queue inside the process that uses it."""

    variables = {"BENCH_BROKER": "memory://"}

    def fill(self, first: int, count: int) -> None:
        raise NotImplementedError("nobody else can fill it")

    def refill(self, count: int) -> None:
        raise NotImplementedError("nobody else can fill it")

    def close(self) -> None:
        pass


def escaped(value: object) -> str:
    """As COPY reads it."""
    if isinstance(value, bool):
        return "t" if value else "f"
    text = str(value)
    for plain, written in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(plain, written)
    return text


def our_transport_is_there() -> bool:
    """Whether ``celery_postgres`` can be installed over Kombu's transport."""
    try:
        call("benchmarks.schema", "--look", variables={}, timeout_s=60)
    except RuntimeError as error:
        if os.environ.get("BENCH_DEBUG"):
            print(error)
        return False
    return True
