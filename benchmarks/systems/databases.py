"""What the systems in PostgreSQL have in common: a database of its own for each sample, made from a template."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, ClassVar

import psycopg2

from benchmarks.clusters import DURABLE, administrate, analyze, database, postmaster, transactions
from benchmarks.processes import answer, spawn
from benchmarks.systems import sized
from environment.cluster import APP_ROLE
from environment.temporary import TemporaryCluster

#: Tasks that one statement of ``fill`` adds: large enough that the round trip does not count, small enough that a
#: worker that is running sees the first soon.
_CHUNK = 20_000


class DatabaseGround:
    """A database with the tables of a system.

    :ivar libpq: how to look into it.
    """

    def __init__(self, system: DatabaseSystem, name: str, *, results: bool = False) -> None:
        self.libpq = system.cluster.tcp_url(database=name)
        self.variables = {"BENCH_BROKER": self.libpq, **system.variables}
        if results:
            self.variables["BENCH_RESULTS"] = "1"
        self._name = name
        self._system = system
        self._connection: Any = None

    def worker(self, concurrency: int) -> list[str]:
        return [*self._system.program, "worker"]

    def publisher(self, mode: str, *arguments: object) -> list[str]:
        return [*self._system.program, "publish", mode, *map(str, arguments)]

    def fill(self, first: int, count: int, seconds: float = 0.0, size: int = 0) -> None:
        padding = sized(size)
        for start in range(first, first + count, _CHUNK):
            end = min(start + _CHUNK, first + count) - 1
            self._execute(self._system.filling, {"first": start, "last": end, "seconds": seconds, "padding": padding})
        analyze(self._connection, count, self._system.tables)

    def waiting(self) -> int | None:
        ((count,),) = self._execute(self._system.counting) or [(None,)]
        return count

    def operations(self) -> int | None:
        return transactions(self._system.cluster, self._name)

    def tables(self) -> list[str]:
        """The tables, without their schema, whose size and dead rows tell how the system ages."""
        return [table.split(".")[-1] for table in self._system.tables]

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _execute(self, statement: str, values: dict[str, object] | None = None) -> list[tuple[Any, ...]] | None:
        if self._connection is None:
            self._connection = psycopg2.connect(self.libpq, application_name="benchmarks")
            self._connection.autocommit = True
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values)
            return list(cursor.fetchall()) if cursor.description else None


class DatabaseSystem:
    """A system whose tasks lie in PostgreSQL.

    Its program has a third command: ``install`` makes the schema by the system's own means.

    :cvar program: its command line, without the command.
    :cvar tables: with their schema, the first being that of the tasks.
    :cvar counting: the statement that counts the tasks that are not done.
    :cvar filling: the statement that adds tasks ``%(first)s`` to ``%(last)s`` with ``%(seconds)s`` and ``%(padding)s``.
    :cvar keeps_results: whether it stores what a task returns.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    settings: ClassVar[str]
    concurrency: ClassVar[int]
    durable = DURABLE
    variables: ClassVar[dict[str, str]] = {}
    program: ClassVar[Sequence[str]]
    tables: ClassVar[Sequence[str]]
    counting: ClassVar[str]
    filling: ClassVar[str]
    keeps_results: ClassVar[bool] = False

    def __init__(self, cluster: TemporaryCluster) -> None:
        self.cluster = cluster
        self._numbers = itertools.count(1)
        self._prefix = f"bench_{self.name}".replace("-", "_")
        self._template = f"{self._prefix}_template"
        administrate(cluster, f"DROP DATABASE IF EXISTS {self._template}")
        administrate(cluster, f"CREATE DATABASE {self._template} OWNER {APP_ROLE}")
        with closing(DatabaseGround(self, self._template)) as ground:
            command = [*self.program, "install"]
            answer(spawn(command, ground.variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE))

    @contextmanager
    def fresh(self, *, results: bool = False) -> Iterator[DatabaseGround]:
        """See ``System``.

        :raises NotImplementedError: when results are wanted of a system that keeps none.
        """
        if results and not self.keeps_results:
            raise NotImplementedError(f"{self.label} keeps no results of tasks")
        name = f"{self._prefix}_{next(self._numbers)}"
        with (
            database(self.cluster, name, self._template),
            closing(DatabaseGround(self, name, results=results)) as ground,
        ):
            yield ground

    def versions(self) -> dict[str, str]:
        return {"PostgreSQL": self.cluster.installation.version}

    def pids(self) -> list[int]:
        return postmaster(self.cluster)
