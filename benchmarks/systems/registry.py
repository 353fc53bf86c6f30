"""All systems, by name and in the order of the tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from benchmarks import servers
from benchmarks.systems import System
from benchmarks.systems.ceilings import Psycopg2Batch, Psycopg2One
from benchmarks.systems.celery_systems import PostgresSystem, RedisSystem
from benchmarks.systems.dramatiq import DramatiqSystem
from benchmarks.systems.memory import MemorySystem
from benchmarks.systems.node import GraphileWorker, PgBoss
from benchmarks.systems.pgmq import PgmqSystem
from benchmarks.systems.pgqueuer import PgQueuer
from benchmarks.systems.procrastinate import Procrastinate
from benchmarks.systems.rabbitmq import RabbitMQSystem
from environment.temporary import TemporaryCluster

#: Opens a system; what it starts is stopped by the stack.
Opener = Callable[[TemporaryCluster, ExitStack], System]

_SYSTEMS: dict[str, tuple[Callable[[], str | None], Opener]] = {
    "ours": (PostgresSystem.missing, lambda cluster, stack: PostgresSystem(cluster, ours=True)),
    "stock": (PostgresSystem.missing, lambda cluster, stack: PostgresSystem(cluster, ours=False)),
    "redis": (RedisSystem.missing, lambda cluster, stack: RedisSystem(stack.enter_context(servers.Redis()))),
    "redis-always": (
        RedisSystem.missing,
        lambda cluster, stack: RedisSystem(stack.enter_context(servers.Redis(servers.REDIS_ALWAYS))),
    ),
    "rabbitmq": (
        RabbitMQSystem.missing,
        lambda cluster, stack: RabbitMQSystem(stack.enter_context(servers.RabbitMQ())),
    ),
    "rabbitmq-db": (
        RabbitMQSystem.missing,
        lambda cluster, stack: RabbitMQSystem(stack.enter_context(servers.RabbitMQ()), results=cluster),
    ),
    "rabbitmq-confirm": (
        RabbitMQSystem.missing,
        lambda cluster, stack: RabbitMQSystem(stack.enter_context(servers.RabbitMQ()), confirm=True),
    ),
    "pgmq": (PgmqSystem.missing, lambda cluster, stack: PgmqSystem(cluster)),
    "procrastinate": (Procrastinate.missing, lambda cluster, stack: Procrastinate(cluster)),
    "pgqueuer": (PgQueuer.missing, lambda cluster, stack: PgQueuer(cluster)),
    "graphile": (GraphileWorker.missing, lambda cluster, stack: GraphileWorker(cluster)),
    "pgboss": (PgBoss.missing, lambda cluster, stack: PgBoss(cluster)),
    "dramatiq": (DramatiqSystem.missing, lambda cluster, stack: DramatiqSystem(stack.enter_context(servers.Redis()))),
    "memory": (MemorySystem.missing, lambda cluster, stack: MemorySystem()),
    "psycopg2-one": (Psycopg2One.missing, lambda cluster, stack: Psycopg2One(cluster)),
    "psycopg2-batch": (Psycopg2Batch.missing, lambda cluster, stack: Psycopg2Batch(cluster)),
}
NAMES = tuple(_SYSTEMS)


def open_systems(
    cluster: TemporaryCluster, stack: ExitStack, names: Sequence[str]
) -> tuple[dict[str, System], dict[str, str]]:
    """Start those of the named that can run; the others with what they lack."""
    systems: dict[str, System] = {}
    missing: dict[str, str] = {}
    for name in names:
        look, opener = _SYSTEMS[name]
        reason = look()
        if reason is None:
            systems[name] = opener(cluster, stack)
        else:
            missing[name] = reason
    return systems, missing
