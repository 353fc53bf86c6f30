"""Celery's systems: on PostgreSQL by this project and by Kombu's own transport, on Redis, and in memory."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from importlib.metadata import version
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

from psycopg2.extras import RealDictCursor

from benchmarks.clones import SAMPLE_NUMBER, Clones
from benchmarks.systems import Broker, System
from benchmarks.systems.clusters import InPostgres, analyze, connect, escaped, transactions
from environment.temporary import TemporaryCluster
from environment.testkit import servers
from environment.testkit.children import call, package_path
from environment.testkit.journal_app import QUEUE
from environment.testkit.journal_worker import celery_command

#: Celery's default prefetch multiplier, and the one that its documentation recommends for short tasks.
DEFAULT_PREFETCH, LONG_PREFETCH = 4, 64

#: In solo, threads and prefork alike; ours, under the same name, keeps one connection.
CELERY_RESULTS = "results by Celery's own db+postgresql://, which connects anew for each"

#: Rows of one COPY: the round trip does not matter, and the rows fit into memory.
_ROWS = 20_000
#: Messages of one command of Redis.
_MESSAGES = 5_000

#: What a message depends on besides its number: whether results are stored, seconds, size.
Shape = tuple[bool, float, int]

PROGRAM = "benchmarks.programs.celery_program"


class CeleryBroker(Broker):
    """A broker of Celery.

    Attributes:
        prefetch: its ``worker_prefetch_multiplier``.
    """

    program = (sys.executable, "-m", PROGRAM)
    prefetch = DEFAULT_PREFETCH

    def worker(self, concurrency: int, pool: str | None = None) -> list[str]:
        """Celery's own worker: solo where one task at a time is enough."""
        pool = pool or ("solo" if concurrency == 1 else "threads")
        return celery_command(pool, concurrency, "--prefetch-multiplier", str(self.prefetch))


class CelerySystem(System):
    """Celery on a broker whose messages can be copied: a sample of each shape is published once."""

    bulk = False

    @cached_property
    def _samples(self) -> dict[Shape, Any]:
        return {}

    def sample(self, results: bool, seconds: float, size: int) -> Any:
        """Return what ``fill`` copies; publishes it when it is asked for the first time."""
        shape = (results, seconds, size)
        if shape not in self._samples:
            self._samples[shape] = self.take_sample(shape)
        return self._samples[shape]

    def take_sample(self, shape: Shape) -> Any:
        """Publish a task, apart from the sample under way, and take its message."""
        raise NotImplementedError


def celery_settings(broker: type[CeleryBroker]) -> str:
    """How its worker is set up, for a table."""
    return f"pool solo, early ack, prefetch multiplier {broker.prefetch}"


def publish_sample(variables: dict[str, str], seconds: float, size: int, queue: str = QUEUE) -> None:
    """Declare the queue and publish the task that is copied."""
    call(PROGRAM, "sample", SAMPLE_NUMBER, seconds, size, queue, variables=variables)


def celery_versions(**others: str) -> dict[str, str]:
    """Return these versions, and those of Celery and Kombu."""
    return {**others, "Celery": version("celery"), "Kombu": version("kombu")}


# -- PostgreSQL


class PostgresBroker(CeleryBroker):
    """A database with the tables of this project, or with Kombu's."""

    def __init__(self, system: PostgresSystem, name: str, *, results: bool) -> None:
        self.name = name
        self.url = system.cluster.tcp_url(database=name)
        self.variables = {"BENCH_BROKER": f"sqla+{self.url}", **system.variables}
        if results:
            self.variables["BENCH_BACKEND"] = f"db+{self.url}"
        self._system = system
        self._connection: Any = None

    def fill(self, first: int, count: int, seconds: float = 0.0, size: int = 0) -> None:
        """Add copies by COPY."""
        clones, columns = self._system.sample("BENCH_BACKEND" in self.variables, seconds, size)
        names = ", ".join(["id", "payload", *columns])
        with self._own().cursor() as cursor:
            for start in range(first, first + count, _ROWS):
                numbers = range(start, min(start + _ROWS, first + count))
                cursor.execute("SELECT nextval('message_id_sequence') FROM generate_series(1, %s)", [len(numbers)])
                lines = []
                for number, (row,) in zip(numbers, cursor.fetchall(), strict=True):
                    task_id, raw = clones.make(number)
                    values = [task_id if name == "task_id" else value for name, value in columns.items()]
                    lines.append("\t".join([str(row), *map(escaped, (raw, *values))]))
                cursor.copy_expert(f"COPY kombu_message ({names}) FROM STDIN", StringIO("\n".join(lines)))
            analyze(self._own(), count, self.tables())
            if self._system.ours:
                # As a publish does; consumers that are awake poll by themselves.
                cursor.execute("SELECT pg_notify('kombu_' || consumer_id, '') FROM kombu_subscription WHERE asleep")

    def waiting(self) -> int:
        """Kombu's own transport keeps the rows of tasks that are done."""
        condition = "" if self._system.ours else " AND message.visible"
        with self._own().cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM kombu_message AS message JOIN kombu_queue AS queue ON queue.id = queue_id "
                f"WHERE queue.name = %s{condition}",
                [QUEUE],
            )
            return int(cursor.fetchone()[0])

    def operations(self) -> int:
        """Return its transactions."""
        return transactions(self._system.cluster, self.name)

    def tables(self) -> list[str]:
        """Return the tables that a task changes."""
        side = ["kombu_subscription", "kombu_consumer"] if self._system.ours else []
        return ["kombu_message", "kombu_queue", *side]

    def take_sample(self) -> tuple[Clones, dict[str, Any]]:
        """Remove the only message; return it, and its columns that do not depend on its number."""
        with closing(connect(self.url)) as connection, connection.cursor(cursor_factory=RealDictCursor) as cursor:
            cursor.execute("SELECT * FROM kombu_message")
            (row,) = cursor.fetchall()
            cursor.execute("DELETE FROM kombu_message")
            cursor.execute("VACUUM FULL kombu_message")
        clones = Clones(row.pop("payload"))
        del row["id"]
        return clones, {name: value for name, value in row.items() if value is not None}

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _own(self) -> Any:
        if self._connection is None:
            self._connection = connect(self.url)
        return self._connection


class PostgresSystem(InPostgres, CelerySystem):
    """Celery on PostgreSQL.

    Args:
        cluster: the server.
        ours: by ``celery_postgres``, and not by Kombu's own transport.
        name: another name than ``ours`` or ``stock``, where there are two of one kind.
        checkout: the checkout whose ``celery_postgres`` is measured, instead of this one.
    """

    results = prefork = chords = True

    def __init__(
        self, cluster: TemporaryCluster, *, ours: bool, name: str | None = None, checkout: Path | None = None
    ) -> None:
        self.ours = self.late = self.bulk = ours
        self.name = name or ("ours" if ours else "stock")
        self.label = "celery_postgres" if ours else "Celery, Kombu's sqla"
        self.rough = 11_000 if ours else 700
        self.variables = {"BENCH_INSTALL": "1"} if ours else {}
        if checkout is not None:
            self.variables["PYTHONPATH"] = package_path(checkout)
        self.settings = f"{celery_settings(PostgresBroker)}; " + (
            "up to 500 claimed ahead of that; results by its own db+postgresql://; a publish waits for the disk, a "
            "claim and a settlement do not: a crash of the server may run a task again; payloads beyond 2 kB by lz4 "
            "or, where the server was built without it (the wheel's was), as they are; those of the other systems by "
            "pglz, the default"
            if ours
            # Whatever else is in its transport options goes to SQLAlchemy's create_engine, which refuses it.
            else f"{CELERY_RESULTS}; looks once a second, which none of its options changes"
        )
        super().__init__(cluster)

    def broker(self, name: str, *, results: bool) -> PostgresBroker:
        return PostgresBroker(self, name, results=results)

    def prepare(self, broker: PostgresBroker) -> None:
        if self.ours:
            call(PROGRAM, "create_schema", broker.url, variables=broker.variables)
        publish_sample(broker.variables, 0.0, 0)
        self._samples[False, 0.0, 0] = broker.take_sample()

    def take_sample(self, shape: Shape) -> tuple[Clones, dict[str, Any]]:
        results, seconds, size = shape
        with self.fresh(results=results) as broker:
            publish_sample(broker.variables, seconds, size)
            return broker.take_sample()

    def versions(self) -> dict[str, str]:
        return celery_versions(**super().versions())


# -- Redis


class RedisBroker(CeleryBroker):
    """A flushed Redis."""

    def __init__(self, system: RedisSystem, *, results: bool) -> None:
        url = system.server.url
        self.variables = {"BENCH_BROKER": url, **({"BENCH_BACKEND": url} if results else {})}
        self.client: Any = importlib.import_module("redis").Redis(port=system.server.port)
        self._system = system
        self.client.flushall()

    def fill(self, first: int, count: int, seconds: float = 0.0, size: int = 0) -> None:
        """Add copies by LPUSH, many in one round trip."""
        clones = self._system.sample("BENCH_BACKEND" in self.variables, seconds, size)
        made = (clones.make(number)[1] for number in range(first, first + count))
        while chunk := list(islice(made, max(1, min(_MESSAGES, 10_000_000 // (size + 1))))):
            self.client.lpush(QUEUE, *chunk)

    def waiting(self) -> int:
        """Those in the queue, and those that a worker has prefetched."""
        return int(self.client.llen(QUEUE)) + int(self.client.hlen("unacked"))

    def operations(self) -> int:
        """Return its commands."""
        return commands(self.client)

    def close(self) -> None:
        """Flush it and close the connection."""
        self.client.flushall()
        self.client.close()


class RedisSystem(CelerySystem):
    """Celery on Redis.

    Args:
        server: with ``servers.REDIS`` or ``servers.REDIS_ALWAYS``.
    """

    results = chords = True

    def __init__(self, server: servers.Redis) -> None:
        self.server = server
        always = server.settings == servers.REDIS_ALWAYS
        self.late = self.prefork = not always
        self.name = "redis-always" if always else "redis"
        self.label = "Celery, Redis (fsync always)" if always else "Celery, Redis"
        self.durable = redis_durable(server)
        self.settings = f"{celery_settings(RedisBroker)}; results in the same Redis; {redis_settings(server)}"

    @contextmanager
    def fresh(self, *, results: bool = False) -> Iterator[RedisBroker]:
        """The same server, flushed."""
        with closing(RedisBroker(self, results=results)) as broker:
            yield broker

    def take_sample(self, shape: Shape) -> Clones:
        results, seconds, size = shape
        aside = f"{self.server.url.rsplit('/', 1)[0]}/1"
        publish_sample({"BENCH_BROKER": aside, **({"BENCH_BACKEND": aside} if results else {})}, seconds, size)
        with closing(importlib.import_module("redis").Redis(port=self.server.port, db=1)) as client:
            clones = Clones(client.lpop(QUEUE).decode())
            client.flushdb()
            return clones

    def versions(self) -> dict[str, str]:
        return celery_versions(Redis=self.server.version, **{"redis (Python)": version("redis")})

    def pids(self) -> list[int]:
        return [self.server.pid]

    @classmethod
    def missing(cls) -> str | None:
        return None if servers.Redis.is_available() else "redis-server is not installed: apt-get install redis-server"


def commands(client: Any) -> int:
    """Return the commands of Redis since it started, including those of scripts and transactions."""
    return int(client.info("stats")["total_commands_processed"])


def redis_durable(server: servers.Redis) -> str:
    """What a crash of this Redis loses."""
    if server.settings == servers.REDIS_ALWAYS:
        return "yes: what was answered is on disk"
    return "no: nothing is written to disk"


def redis_settings(server: servers.Redis) -> str:
    """Its settings, as in its configuration file."""
    return "Redis with " + ", ".join(f"{name} {value or repr('')}" for name, value in server.settings.items())


# -- memory


class MemoryBroker(CeleryBroker):
    """A queue inside the worker, which fills it before it starts."""

    def __init__(self) -> None:
        self.variables = {"BENCH_BROKER": "memory://"}
        self._count = 0

    def worker(self, concurrency: int, pool: str | None = None) -> list[str]:
        return [*self.program, "fill_and_work", str(self._count)]

    def fill(self, first: int, count: int, seconds: float = 0.0, size: int = 0) -> None:
        self._count += count

    def close(self) -> None:
        """There is nothing to close."""


class MemorySystem(System):
    """Celery's in-memory transport: what Celery itself costs, in one process and without any server."""

    name = "memory"
    label = "Celery in memory"
    durable = "no: inside the process"
    settings = "no queue for others: what Celery's own worker costs"
    rough = 9_000
    late = True

    @contextmanager
    def fresh(self, *, results: bool = False) -> Iterator[Broker]:
        yield MemoryBroker()

    def versions(self) -> dict[str, str]:
        return {"Celery": version("celery")}
