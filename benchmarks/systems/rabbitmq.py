"""Celery on RabbitMQ."""

from __future__ import annotations

import importlib
import itertools
import json
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from importlib.metadata import version
from typing import Any

from benchmarks import frames, servers
from benchmarks.clusters import database, postmaster
from benchmarks.program import QUEUE
from benchmarks.systems import Ground
from benchmarks.systems.celery_systems import (
    CELERY_RESULTS,
    LONG_PREFETCH,
    CeleryGround,
    Shape,
    celery_settings,
    celery_versions,
    publish_sample,
)
from environment.temporary import TemporaryCluster

#: Where samples are published.
_ASIDE = "bench-sample"


class RabbitMQGround(CeleryGround):
    """An empty RabbitMQ.

    :param database: where results go; None for RabbitMQ itself.
    """

    #: With 4, and with 16, a solo worker that has taken all it may have waits up to 2 s for the next event before it
    #: sends what it owes: 50 tasks of 1 ms in a second, with 64 it is 800 (Kombu's event loop, celery/kombu#1587).
    prefetch = LONG_PREFETCH

    def __init__(self, system: RabbitMQSystem, *, results: bool, database: str | None) -> None:
        self.variables = system.variables()
        self._results = results
        self._replies: set[str] = set()
        if results:
            self.variables["BENCH_BACKEND"] = "rpc://" if database is None else f"db+{database}"
        self._system = system
        self._connection: Any = system.connect()
        self._channel: Any = self._connection.channel()
        self._empty()

    def fill(self, first: int, count: int, seconds: float = 0.0, size: int = 0) -> None:
        """By frames of Basic.Publish, copied."""
        sample = self._system.sample(self.variables, seconds, size)
        if self._results and sample.reply_to and sample.reply_to not in self._replies:
            self._replies.add(sample.reply_to)
            # The queue of the client that would wait for these results; without it RabbitMQ would drop them.
            # The sample's own client has left a queue of that name, or is just removing it.
            self._channel.queue_delete(sample.reply_to)
            self._channel.queue_declare(sample.reply_to, durable=False, auto_delete=False, exclusive=True)
        self._channel.queue_declare(QUEUE, durable=True, auto_delete=False)
        sample.publish(self._connection.transport.write, self._channel.channel_id, QUEUE, first, count)
        # The channel answers in turn: by now it has handed all of them to the queue.
        self._channel.queue_declare(QUEUE, passive=True)

    def waiting(self) -> int | None:
        """Those that no worker holds; RabbitMQ does not tell the others over AMQP."""
        with self._connection.channel() as channel:
            try:
                return int(channel.queue_declare(QUEUE, passive=True).message_count)
            except importlib.import_module("amqp").NotFound:
                return 0

    def operations(self) -> int | None:
        """RabbitMQ counts no commands."""
        return None

    def close(self) -> None:
        """Empty it and let go of the connection."""
        self._empty()
        self._connection.close()

    def _empty(self) -> None:
        self._channel.queue_delete(QUEUE)


class RabbitMQSystem:
    """Celery on RabbitMQ.

    :param results: the PostgreSQL that keeps the results, by Celery's own ``db+postgresql://``; None for ``rpc://``.
    :param confirm: whether a publish waits until RabbitMQ has said that the message is safe.
    """

    concurrency = 1
    cluster = None

    def __init__(
        self, server: servers.RabbitMQ, *, results: TemporaryCluster | None = None, confirm: bool = False
    ) -> None:
        self.server = server
        self._cluster = results
        self._confirm = confirm
        self.name = "rabbitmq" + ("-confirm" if confirm else "") + ("-db" if results else "")
        self.label = (
            "Celery, RabbitMQ" + (" (confirms)" if confirm else "") + (" (results in PostgreSQL)" if results else "")
        )
        where = CELERY_RESULTS if results else "results by rpc://"
        self.settings = f"{celery_settings(RabbitMQGround)}; {where}; classic durable queue, persistent messages" + (
            "; confirm_publish" if confirm else ""
        )
        self.durable = (
            "yes: a publish waits for the disk"
            if confirm
            else "almost: messages go to disk, but a publish returns before (Celery does not ask for confirmation)"
        )
        self._numbers = itertools.count(1)
        self._samples: dict[Shape, frames.Sample] = {}

    @contextmanager
    def fresh(self, *, results: bool = False) -> Iterator[Ground]:
        """The same server, without queues."""
        made = self._database(self._cluster) if results and self._cluster else nullcontext()
        with made as url, closing(RabbitMQGround(self, results=results, database=url)) as ground:
            yield ground

    @contextmanager
    def _database(self, cluster: TemporaryCluster) -> Iterator[str]:
        """An empty database, in which Celery makes its tables."""
        name = f"bench_rabbitmq_{next(self._numbers)}"
        with database(cluster, name):
            yield cluster.tcp_url(database=name)

    def variables(self) -> dict[str, str]:
        """What a program needs to reach it."""
        options = {"confirm_publish": True} if self._confirm else {}
        return {"BENCH_BROKER": self.server.url, "BENCH_TRANSPORT": json.dumps(options)}

    def connect(self) -> Any:
        """A connection of AMQP."""
        # While it pages a long queue out it reads nothing for seconds; amqp gives up after one.
        patient = {socket.TCP_USER_TIMEOUT: 120_000}
        connection = importlib.import_module("amqp").Connection(
            f"127.0.0.1:{self.server.port}", socket_settings=patient
        )
        connection.connect()
        return connection

    def sample(self, variables: dict[str, str], seconds: float, size: int) -> frames.Sample:
        """What to copy; published when it is first asked for, into a queue of its own."""
        shape = ("BENCH_BACKEND" in variables, seconds, size)
        if shape not in self._samples:
            publish_sample(variables, seconds, size, _ASIDE)
            with self.connect() as connection, connection.channel() as channel:
                self._samples[shape] = frames.Sample(channel.basic_get(_ASIDE, no_ack=True))
                channel.queue_delete(_ASIDE)
        return self._samples[shape]

    def versions(self) -> dict[str, str]:
        """RabbitMQ, Celery, and PostgreSQL if it has the results."""
        found = celery_versions(RabbitMQ=self.server.version, amqp=version("amqp"))
        return found if self._cluster is None else {**found, "PostgreSQL": self._cluster.installation.version}

    def pids(self) -> list[int]:
        """Its server, and that of the results."""
        return self.server.pids + ([] if self._cluster is None else postmaster(self._cluster))

    @staticmethod
    def missing() -> str | None:
        """The server."""
        if servers.RabbitMQ.is_available():
            return None
        return "rabbitmq-server is not installed: apt-get install rabbitmq-server"
