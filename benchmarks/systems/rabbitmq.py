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

from benchmarks import clones
from benchmarks.systems import Broker
from benchmarks.systems.celery_systems import (
    CELERY_RESULTS,
    LONG_PREFETCH,
    CeleryBroker,
    CelerySystem,
    Shape,
    celery_settings,
    celery_versions,
    publish_sample,
)
from benchmarks.systems.clusters import database, postmaster
from environment.temporary import TemporaryCluster
from environment.testkit import servers
from environment.testkit.journal_app import QUEUE

#: The queue of samples.
_ASIDE = "bench-sample"


class RabbitMQBroker(CeleryBroker):
    """An empty RabbitMQ.

    Args:
        database: the URL of the database for results; None for RabbitMQ itself.
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
        sample = self._system.sample(self._results, seconds, size)
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
        """Return the messages that no worker has prefetched; RabbitMQ does not tell the others over AMQP."""
        with self._connection.channel() as channel:
            try:
                return int(channel.queue_declare(QUEUE, passive=True).message_count)
            except importlib.import_module("amqp").NotFound:
                return 0

    def close(self) -> None:
        """Empty it and let go of the connection."""
        self._empty()
        self._connection.close()

    def _empty(self) -> None:
        self._channel.queue_delete(QUEUE)


class RabbitMQSystem(CelerySystem):
    """Celery on RabbitMQ.

    Args:
        server: a running RabbitMQ.
        results: the PostgreSQL for the results, by Celery's own ``db+postgresql://``; None for ``rpc://``.
        confirm: whether a publish waits until RabbitMQ confirms that the message is safe.
    """

    rough = 3_000
    results = True

    def __init__(
        self, server: servers.RabbitMQ, *, results: TemporaryCluster | None = None, confirm: bool = False
    ) -> None:
        self.server = server
        # Celery's rpc backend refuses chords.
        self.chords = results is not None
        self.results = not confirm
        self.late = self.prefork = results is None and not confirm
        self._cluster = results
        self._confirm = confirm
        self.name = "rabbitmq" + ("-confirm" if confirm else "") + ("-db" if results else "")
        self.label = (
            "Celery, RabbitMQ" + (" (confirms)" if confirm else "") + (" (results in PostgreSQL)" if results else "")
        )
        where = CELERY_RESULTS if results else "results by rpc://"
        self.settings = f"{celery_settings(RabbitMQBroker)}; {where}; classic durable queue, persistent messages" + (
            "; confirm_publish" if confirm else ""
        )
        self.durable = (
            "yes: a publish waits for the disk"
            if confirm
            else "almost: messages go to disk, but a publish returns before (Celery does not ask for confirmation)"
        )
        self._numbers = itertools.count(1)

    @contextmanager
    def fresh(self, *, results: bool = False) -> Iterator[Broker]:
        """The same server, without queues."""
        made = self._database(self._cluster) if results and self._cluster else nullcontext()
        with made as url, closing(RabbitMQBroker(self, results=results, database=url)) as broker:
            self._variables = broker.variables
            yield broker

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

    def take_sample(self, shape: Shape) -> clones.Frames:
        _, seconds, size = shape
        publish_sample(self._variables, seconds, size, _ASIDE)
        with self.connect() as connection, connection.channel() as channel:
            frames = clones.Frames(channel.basic_get(_ASIDE, no_ack=True))
            channel.queue_delete(_ASIDE)
            return frames

    def versions(self) -> dict[str, str]:
        """RabbitMQ, Celery, and PostgreSQL if it has the results."""
        found = celery_versions(RabbitMQ=self.server.version, amqp=version("amqp"))
        return found if self._cluster is None else {**found, "PostgreSQL": self._cluster.installation.version}

    def pids(self) -> list[int]:
        """Its server, and that of the results."""
        return self.server.pids + ([] if self._cluster is None else postmaster(self._cluster))

    @classmethod
    def missing(cls) -> str | None:
        """The server."""
        if servers.RabbitMQ.is_available():
            return None
        return "rabbitmq-server is not installed: apt-get install rabbitmq-server"
