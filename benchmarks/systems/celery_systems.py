"""Celery on PostgreSQL, by this project and by Kombu's own transport, and on Redis."""

from __future__ import annotations

import importlib
import secrets
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks import servers, worker
from benchmarks.clones import SAMPLE_NUMBER, Clones
from benchmarks.clusters import DURABLE, analyze, postmaster, transactions
from benchmarks.peers import PostgresBroker, PostgresPeer, our_transport_is_there
from benchmarks.processes import call
from benchmarks.program import QUEUE
from benchmarks.systems import Ground
from environment.temporary import TemporaryCluster

#: Celery's default, and what its documentation names for short tasks.
DEFAULT_PREFETCH, LONG_PREFETCH = 4, 64

#: In solo, threads and prefork alike; ours, under the same name, keeps one.
CELERY_RESULTS = "results by Celery's own db+postgresql://, which connects anew for each"

#: Messages that travel together to Redis.
_CHUNK = 5_000

#: What decides how a message looks, apart from its number: are results stored, seconds, size.
Shape = tuple[bool, float, int]


class CeleryGround:
    """What every broker of Celery has in common.

    :ivar prefetch: its ``worker_prefetch_multiplier``.
    """

    variables: dict[str, str]
    prefetch = DEFAULT_PREFETCH

    def worker(self, concurrency: int) -> list[str]:
        """Celery's own worker: solo where one task at a time is enough."""
        return self._worker("solo" if concurrency == 1 else "threads", concurrency)

    def prefork(self, processes: int) -> list[str]:
        """The command line of a worker with so many child processes."""
        return self._worker("prefork", processes)

    def _worker(self, pool: str, concurrency: int) -> list[str]:
        return worker.celery(pool, concurrency, _name(), "--prefetch-multiplier", str(self.prefetch))

    def publisher(self, mode: str, *arguments: object) -> list[str]:
        """The command line of ``publish MODE …``."""
        return [sys.executable, "-m", "benchmarks.programs.celery_program", "publish", mode, *map(str, arguments)]


def celery_settings(ground: type[CeleryGround]) -> str:
    """How a worker of it is set up, for a table."""
    return f"pool solo, early ack, prefetch multiplier {ground.prefetch}"


def _name() -> str:
    # PGMQ admits queues of 47 characters, and the queue of remote control has this in its name.
    return secrets.token_hex(4)


def publish_sample(variables: dict[str, str], seconds: float, size: int, queue: str = QUEUE) -> None:
    """Declare the queue and publish the one task that is copied."""
    call("benchmarks.producer", "sample_work", SAMPLE_NUMBER, seconds, size, queue, variables=variables)


def celery_versions(**others: str) -> dict[str, str]:
    """Of Celery and of these."""
    return {**others, "Celery": version("celery"), "Kombu": version("kombu")}


class PostgresGround(CeleryGround):
    """A database with Kombu's tables, or ours.

    :ivar libpq: how to look into it.
    """

    def __init__(self, system: PostgresSystem, broker: PostgresBroker) -> None:
        self.variables = broker.variables
        self.libpq = broker.libpq
        self.broker = broker
        self._system = system
        self._connection = broker.connect()

    def fill(self, first: int, count: int, seconds: float = 0.0, size: int = 0) -> None:
        """By COPY."""
        sample = self._system.sample("BENCH_BACKEND" in self.variables, seconds, size)
        self.broker.copy(first, count, *sample)
        analyze(self._connection, count, self.tables())
        with self._connection.cursor() as cursor:
            if self._system.ours:
                # As a publish does; whoever is awake looks by itself.
                cursor.execute("SELECT pg_notify('kombu_' || consumer_id, '') FROM kombu_subscription WHERE asleep")

    def waiting(self) -> int:
        """Kombu's own transport keeps the rows of tasks that are done."""
        condition = "" if self._system.ours else " AND message.visible"
        with self._connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM kombu_message AS message JOIN kombu_queue AS queue ON queue.id = queue_id "
                f"WHERE queue.name = %s{condition}",
                [QUEUE],
            )
            return int(cursor.fetchone()[0])

    def operations(self) -> int:
        """Transactions."""
        return transactions(self._system.cluster, self.broker.name)

    def tables(self) -> list[str]:
        """Those that a task changes."""
        side = ["kombu_subscription", "kombu_consumer"] if self._system.ours else []
        return ["kombu_message", "kombu_queue", *side]

    def close(self) -> None:
        """Let go of its connection; the system closes the broker."""
        self._connection.close()


class PostgresSystem:
    """Celery on PostgreSQL.

    Args:
        cluster: the server.
        ours: by ``celery_postgres``, and not by Kombu's own transport.
        name: another name than ``ours`` or ``stock``, where there are two of one kind.
        checkout: the checkout whose ``celery_postgres`` is measured, instead of this one.
    """

    concurrency = 1
    durable = DURABLE

    def __init__(
        self, cluster: TemporaryCluster, *, ours: bool, name: str | None = None, checkout: Path | None = None
    ) -> None:
        self.cluster = cluster
        self.ours = ours
        self.name = name or ("ours" if ours else "stock")
        self.label = "celery_postgres" if ours else "Celery, Kombu's sqla"
        self.settings = f"{celery_settings(PostgresGround)}; " + (
            "up to 500 claimed ahead of that; results by its own db+postgresql://; a publish waits for the disk, a "
            "claim and a settlement do not: a crash of the server may run a task again; payloads beyond 2 kB by lz4 "
            "or, where the server was built without it (the wheel's was), as they are; those of the other systems by "
            "pglz, the default"
            if ours
            # Whatever else is in its transport options goes to SQLAlchemy's create_engine, which refuses it.
            else f"{CELERY_RESULTS}; looks once a second, which none of its options changes"
        )
        self._peer = PostgresPeer(cluster, ours=ours, name=name, checkout=checkout)
        self._samples: dict[Shape, tuple[Clones, dict[str, Any]]] = {}

    @contextmanager
    def fresh(self, *, results: bool = False) -> Iterator[Ground]:
        """A database of its own."""
        with self._peer.fresh(results=results) as broker, closing(PostgresGround(self, broker)) as ground:
            yield ground

    def sample(self, results: bool, seconds: float, size: int) -> tuple[Clones, dict[str, Any]]:
        """What to copy; published when it is first asked for."""
        shape = (results, seconds, size)
        if shape not in self._samples:
            with self._peer.fresh(results=results) as broker:
                publish_sample(broker.variables, seconds, size)
                self._samples[shape] = broker.take_sample()
        return self._samples[shape]

    def versions(self) -> dict[str, str]:
        """PostgreSQL and Celery."""
        return celery_versions(PostgreSQL=self.cluster.installation.version)

    def pids(self) -> list[int]:
        """The postmaster."""
        return postmaster(self.cluster)

    @staticmethod
    def missing() -> str | None:
        """The package of this checkout."""
        return None if our_transport_is_there() else "celery_postgres cannot be imported; run ./dev bench"


class RedisGround(CeleryGround):
    """A flushed Redis."""

    def __init__(self, system: RedisSystem, *, results: bool) -> None:
        url = system.server.url
        self.variables = {"BENCH_BROKER": url, **({"BENCH_BACKEND": url} if results else {})}
        self.client: Any = importlib.import_module("redis").Redis(port=system.server.port)
        self._system = system

    def fill(self, first: int, count: int, seconds: float = 0.0, size: int = 0) -> None:
        """By LPUSH, many in one round trip."""
        clones = self._system.sample("BENCH_BACKEND" in self.variables, seconds, size)
        made = (clones.make(number)[1] for number in range(first, first + count))
        while chunk := list(islice(made, max(1, min(_CHUNK, 10_000_000 // (size + 1))))):
            self.client.lpush(QUEUE, *chunk)

    def waiting(self) -> int:
        """Those in the queue, and those that a worker holds."""
        return int(self.client.llen(QUEUE)) + int(self.client.hlen("unacked"))

    def operations(self) -> int:
        """Commands."""
        return commands(self.client)

    def close(self) -> None:
        """Empty it and let go of the connection."""
        self.client.flushall()
        self.client.close()


class RedisSystem:
    """Celery on Redis.

    :param server: made with ``servers.REDIS`` or ``servers.REDIS_ALWAYS``.
    """

    concurrency = 1
    cluster = None

    def __init__(self, server: servers.Redis) -> None:
        self.server = server
        always = server.settings == servers.REDIS_ALWAYS
        self.name = "redis-always" if always else "redis"
        self.label = "Celery, Redis (fsync always)" if always else "Celery, Redis"
        self.durable = redis_durable(server)
        self.settings = f"{celery_settings(RedisGround)}; results in the same Redis; {redis_settings(server)}"
        self._samples: dict[Shape, Clones] = {}

    @contextmanager
    def fresh(self, *, results: bool = False) -> Iterator[Ground]:
        """The same server, flushed."""
        ground = RedisGround(self, results=results)
        ground.client.flushall()
        with closing(ground):
            yield ground

    def sample(self, results: bool, seconds: float, size: int) -> Clones:
        """What to copy; published when it is first asked for, aside from what lies in the queue."""
        shape = (results, seconds, size)
        if shape not in self._samples:
            aside = f"{self.server.url.rsplit('/', 1)[0]}/1"
            variables = {"BENCH_BROKER": aside, **({"BENCH_BACKEND": aside} if results else {})}
            publish_sample(variables, seconds, size)
            with closing(importlib.import_module("redis").Redis(port=self.server.port, db=1)) as client:
                self._samples[shape] = Clones(client.lpop(QUEUE).decode())
                client.flushdb()
        return self._samples[shape]

    def versions(self) -> dict[str, str]:
        """Redis and Celery."""
        return celery_versions(Redis=self.server.version, **{"redis (Python)": version("redis")})

    def pids(self) -> list[int]:
        """The server."""
        return [self.server.pid]

    @staticmethod
    def missing() -> str | None:
        """The server."""
        return None if servers.Redis.is_available() else "redis-server is not installed: apt-get install redis-server"


def commands(client: Any) -> int:
    """Commands of Redis since it began, those inside scripts and transactions too."""
    return int(client.info("stats")["total_commands_processed"])


def redis_durable(server: servers.Redis) -> str:
    """What a crash of this Redis costs."""
    if server.settings == servers.REDIS_ALWAYS:
        return "yes: what was answered is on disk"
    return "no: nothing is written to disk"


def redis_settings(server: servers.Redis) -> str:
    """As in its configuration file."""
    return "Redis with " + ", ".join(f"{name} {value or repr('')}" for name, value in server.settings.items())
