"""Dramatiq on Redis."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from typing import Any

from benchmarks.systems import Broker, System, sized
from benchmarks.systems.celery_systems import commands, redis_durable, redis_settings
from environment.testkit import servers

_QUEUE = "dramatiq:bench"
#: Messages that its worker may prefetch: 8,600 tasks a second, against 2,100 with the default of two for each thread.
#: More do nothing.
PREFETCH = 100
#: Messages of one round trip.
_CHUNK = 5_000


class DramatiqBroker(Broker):
    """A flushed Redis."""

    program = (sys.executable, "-m", "benchmarks.programs.dramatiq_program")

    def __init__(self, server: servers.Redis, *, results: bool) -> None:
        self.variables = {
            "BENCH_BROKER": server.url,
            "BENCH_RESULTS": "1" if results else "",
            "dramatiq_queue_prefetch": str(PREFETCH),
        }
        self.client: Any = importlib.import_module("redis").Redis(port=server.port)
        self.client.flushall()

    def fill(self, first: int, count: int, seconds: float = 0.0, size: int = 0) -> None:
        """By the two commands of its ``enqueue``, many in one round trip."""
        padding = sized(size)
        step = max(1, min(_CHUNK, 10_000_000 // (size + 1)))
        now = time.time_ns() // 1_000_000
        for start in range(first, first + count, step):
            messages = {}
            for number in range(start, min(start + step, first + count)):
                identity = str(uuid.uuid4())
                messages[identity] = json.dumps(
                    {
                        "queue_name": "bench",
                        "actor_name": "work",
                        "args": [number, seconds, padding],
                        "kwargs": {},
                        "options": {"redis_message_id": identity},
                        "message_id": str(uuid.uuid4()),
                        "message_timestamp": now,
                    },
                    separators=(",", ":"),
                )
            with self.client.pipeline(transaction=True) as pipeline:
                pipeline.hset(f"{_QUEUE}.msgs", mapping=messages)
                pipeline.rpush(_QUEUE, *messages)
                pipeline.execute()

    def waiting(self) -> int:
        """Return the messages that are not acknowledged."""
        return int(self.client.hlen(f"{_QUEUE}.msgs"))

    def operations(self) -> int:
        """Commands, those inside its scripts too."""
        return commands(self.client)

    def close(self) -> None:
        """Empty it and let go of the connection."""
        self.client.flushall()
        self.client.close()


class DramatiqSystem(System):
    """Dramatiq on Redis."""

    name = "dramatiq"
    label = "Dramatiq, Redis"
    #: With 1 it is 7,100 tasks in a second, with 4 7,200, with 8, the default, 6,500.
    concurrency = 2
    rough = 4_500
    results = True
    bulk = False

    def __init__(self, server: servers.Redis) -> None:
        self.server = server
        self.durable = redis_durable(server)
        self.settings = (
            f"one process, {self.concurrency} threads, dramatiq_queue_prefetch {PREFETCH}; late ack, its only one; "
            "dramatiq_worker_timeout 1 s, the default: with 20 ms an idle worker sees a task after 8 ms and not 40, "
            "but sends 400 commands a second and not 12; "
            f"results by its RedisBackend; {redis_settings(server)}"
        )

    @contextmanager
    def fresh(self, *, results: bool = False) -> Iterator[Broker]:
        """The same server, flushed."""
        with closing(DramatiqBroker(self.server, results=results)) as broker:
            yield broker

    def versions(self) -> dict[str, str]:
        """Redis and Dramatiq."""
        return {
            "Redis": self.server.version,
            "Dramatiq": version("dramatiq"),
            "redis (Python)": version("redis"),
        }

    def pids(self) -> list[int]:
        """The server."""
        return [self.server.pid]

    @classmethod
    def missing(cls) -> str | None:
        """The server and the package."""
        if importlib.util.find_spec("dramatiq") is None:
            return "dramatiq is not installed; run ./dev bench"
        return None if servers.Redis.is_available() else "redis-server is not installed: apt-get install redis-server"
