"""What the systems in PostgreSQL have in common: a database for each sample, copied from a template."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any, ClassVar

import psycopg2

from benchmarks.systems import Broker, sized
from benchmarks.systems.clusters import InPostgres, analyze, connect, transactions
from environment.testkit.children import answer, spawn

#: Tasks that one statement of ``fill`` adds: the round trip does not matter, and a running worker sees the first soon.
_CHUNK = 20_000


class DatabaseBroker(Broker):
    """A database with the tables of a system.

    Attributes:
        url: its libpq URL.
    """

    def __init__(self, system: DatabaseSystem, name: str, *, results: bool = False) -> None:
        self.url = system.cluster.tcp_url(database=name)
        self.program = system.program
        self.variables = {"BENCH_BROKER": self.url, **system.variables}
        if results:
            self.variables["BENCH_RESULTS"] = "1"
        self._name = name
        self._system = system
        self._connection: Any = None

    def fill(self, first: int, count: int, seconds: float = 0.0, size: int = 0) -> None:
        padding = sized(size)
        for start in range(first, first + count, _CHUNK):
            end = min(start + _CHUNK, first + count) - 1
            numbers = {"first": start, "last": end, "plain": "BENCH_RESULTS" not in self.variables}
            self._execute(self._system.filling, {**numbers, "seconds": seconds, "padding": padding})
        analyze(self._connection, count, self._system.tables)

    def waiting(self) -> int | None:
        ((count,),) = self._execute(self._system.counting) or [(None,)]
        return count

    def operations(self) -> int | None:
        return transactions(self._system.cluster, self._name)

    def tables(self) -> list[str]:
        return [table.split(".")[-1] for table in self._system.tables]

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _execute(self, statement: str, values: dict[str, object] | None = None) -> list[tuple[Any, ...]] | None:
        if self._connection is None:
            self._connection = connect(self.url)
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values)
            return list(cursor.fetchall()) if cursor.description else None


class DatabaseSystem(InPostgres):
    """A system whose tasks are rows in PostgreSQL.

    Its program has a third command: ``install`` creates the schema by the system's own means.

    Attributes:
        program: its command line, without the command.
        tables: with their schema, the first being that of the tasks.
        counting: the statement that counts the tasks that are not done.
        filling: the statement that adds tasks ``%(first)s`` to ``%(last)s`` with ``%(seconds)s`` and ``%(padding)s``;
            ``%(plain)s`` where they store no results.
    """

    variables: ClassVar[dict[str, str]] = {}
    program: ClassVar[Sequence[str]]
    tables: ClassVar[Sequence[str]]
    counting: ClassVar[str]
    filling: ClassVar[str]

    def broker(self, name: str, *, results: bool) -> DatabaseBroker:
        return DatabaseBroker(self, name, results=results)

    def prepare(self, broker: DatabaseBroker) -> None:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        answer(spawn([*self.program, "install"], broker.variables, **pipes))


# -- ceilings: what PostgreSQL and psycopg2 allow on the broker's own table, without Celery and without a lease.  Both
#    take a row by deleting it, so that a killed worker loses the rows that it has taken: they are no task queues.

#: Characters of the message that Celery makes of the task ``work`` with no padding.
ENVELOPE = 914

#: The columns that a row of ours must have; the rest are defaults.
COLUMNS = "id, visible, version, queue_id, task_id, payload"
CLAIM = """
    WITH batch AS MATERIALIZED (
        SELECT id FROM kombu_message
        WHERE queue_id = 1 AND visible AND available_at IS NULL
        ORDER BY priority DESC, id + 0
        LIMIT {count}
        FOR UPDATE SKIP LOCKED
    )
    DELETE FROM kombu_message AS message USING batch WHERE message.id = batch.id"""


class _Psycopg2(DatabaseSystem):
    program = (sys.executable, "-m", "benchmarks.programs.psycopg2_program")
    tables = ("kombu_message",)
    counting = "SELECT count(*) FROM kombu_message"
    filling = f"""
        INSERT INTO kombu_message ({COLUMNS})
        SELECT nextval('message_id_sequence'), true, 1, 1, gen_random_uuid()::text, jsonb_build_object(
            'number', number, 'seconds', %(seconds)s, 'padding', %(padding)s, 'envelope', repeat('e', {ENVELOPE})
        )::text
        FROM generate_series(%(first)s, %(last)s) AS number"""

    def versions(self) -> dict[str, str]:
        return {**super().versions(), "psycopg2": psycopg2.__version__.split()[0]}


class Psycopg2One(_Psycopg2):
    """The limit of one transaction per task that waits for the disk."""

    name = "psycopg2-one"
    label = "psycopg2, one at a time"
    settings = "a prepared DELETE … RETURNING … SKIP LOCKED for each task, and its commit waited for, as ours are not"
    variables = {"BENCH_BATCH": "1"}
    rough = 6_000


class Psycopg2Batch(_Psycopg2):
    """The limit of batches."""

    name = "psycopg2-batch"
    label = "psycopg2, batches"
    settings = "the same for 1,000 tasks at a time: 100 are a fifth slower, 10,000 are not faster"
    variables = {"BENCH_BATCH": "1000"}
    rough = 100_000


class PgBench(_Psycopg2):
    """The same table for pgbench (``cells/ceiling.py``); no system of its own."""

    name = "pgbench"
    label = settings = ""
