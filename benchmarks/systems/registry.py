"""All systems, by name and in the order of the tables.  A new one is a line here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from benchmarks.systems import System
from benchmarks.systems.celery_systems import MemorySystem, PostgresSystem, RedisSystem
from benchmarks.systems.databases import Psycopg2Batch, Psycopg2One
from benchmarks.systems.dbos import Dbos
from benchmarks.systems.dramatiq import DramatiqSystem
from benchmarks.systems.node import GraphileWorker, PgBoss
from benchmarks.systems.oban import Oban
from benchmarks.systems.pgmq import PgmqSystem
from benchmarks.systems.pgqueuer import PgQueuer
from benchmarks.systems.potatoq import Potatoq
from benchmarks.systems.procrastinate import Procrastinate
from benchmarks.systems.rabbitmq import RabbitMQSystem
from environment.temporary import TemporaryCluster
from environment.testkit.servers import REDIS_ALWAYS, RabbitMQ, Redis

#: Opens a system; the stack stops what it starts.
Opener = Callable[[TemporaryCluster, ExitStack], System]

_SYSTEMS: dict[str, tuple[type[System], Opener]] = {
    "ours": (PostgresSystem, lambda cluster, stack: PostgresSystem(cluster, ours=True)),
    "stock": (PostgresSystem, lambda cluster, stack: PostgresSystem(cluster, ours=False)),
    "redis": (RedisSystem, lambda cluster, stack: RedisSystem(stack.enter_context(Redis()))),
    "redis-always": (RedisSystem, lambda cluster, stack: RedisSystem(stack.enter_context(Redis(REDIS_ALWAYS)))),
    "rabbitmq": (RabbitMQSystem, lambda cluster, stack: RabbitMQSystem(stack.enter_context(RabbitMQ()))),
    "rabbitmq-db": (
        RabbitMQSystem,
        lambda cluster, stack: RabbitMQSystem(stack.enter_context(RabbitMQ()), results=cluster),
    ),
    "rabbitmq-confirm": (
        RabbitMQSystem,
        lambda cluster, stack: RabbitMQSystem(stack.enter_context(RabbitMQ()), confirm=True),
    ),
    "pgmq": (PgmqSystem, lambda cluster, stack: PgmqSystem(cluster)),
    "potatoq": (Potatoq, lambda cluster, stack: Potatoq(cluster)),
    "procrastinate": (Procrastinate, lambda cluster, stack: Procrastinate(cluster)),
    "pgqueuer": (PgQueuer, lambda cluster, stack: PgQueuer(cluster)),
    "oban": (Oban, lambda cluster, stack: Oban(cluster)),
    "dbos": (Dbos, lambda cluster, stack: Dbos(cluster)),
    "graphile": (GraphileWorker, lambda cluster, stack: GraphileWorker(cluster)),
    "pgboss": (PgBoss, lambda cluster, stack: PgBoss(cluster)),
    "dramatiq": (DramatiqSystem, lambda cluster, stack: DramatiqSystem(stack.enter_context(Redis()))),
    "memory": (MemorySystem, lambda cluster, stack: MemorySystem()),
    "psycopg2-one": (Psycopg2One, lambda cluster, stack: Psycopg2One(cluster)),
    "psycopg2-batch": (Psycopg2Batch, lambda cluster, stack: Psycopg2Batch(cluster)),
}
NAMES = tuple(_SYSTEMS)


def open_systems(
    cluster: TemporaryCluster, stack: ExitStack, names: Sequence[str]
) -> tuple[dict[str, System], dict[str, str]]:
    """Start those of the named systems that can run; return them, and the reason for each of the others."""
    systems: dict[str, System] = {}
    missing: dict[str, str] = {}
    for name in names:
        kind, opener = _SYSTEMS[name]
        reason = kind.missing()
        if reason is None:
            systems[name] = opener(cluster, stack)
        else:
            missing[name] = reason
    return systems, missing
