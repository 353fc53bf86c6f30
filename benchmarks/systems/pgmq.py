"""Celery on PGMQ, by Kombu's own transport for it."""

from __future__ import annotations

import importlib
import importlib.util
import json
from importlib.metadata import version
from io import StringIO
from itertools import islice
from typing import Any

from benchmarks.clones import Clones
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
from benchmarks.systems.clusters import InPostgres, administrate, analyze, connect, escaped, transactions
from environment.cluster import APP_ROLE
from environment.testkit.journal_app import QUEUE

#: Rows of a transaction: for each, a trigger updates the one row that throttles NOTIFY, and reads its old versions.
#: 20,000 rows take 70 s at once, and 3 s in hundreds.
_CHUNK = 200

#: The extension is there already, as plain SQL.  A worker reads its queues one after the other: if each read waits at
#: the server (``wait_time_seconds``), a task waits while an empty queue of remote control is looked at.  Woken by
#: NOTIFY instead, without a throttle, so that no wake-up is left out.
OPTIONS = {"init_extension": False, "wait_time_seconds": 0, "use_notify": True, "notify_throttle_interval_ms": 0}


class PgmqBroker(CeleryBroker):
    """A database with PGMQ's schema.

    Attributes:
        url: its libpq URL.
    """

    #: It reads ten at most, and as many fewer as the worker may have: 1,570 tasks in a second and not 1,260.
    prefetch = LONG_PREFETCH

    def __init__(self, system: PgmqSystem, name: str, *, results: bool) -> None:
        self.name = name
        self.url = system.cluster.tcp_url(database=name)
        self.variables = {
            "BENCH_BROKER": self.url.replace("postgresql://", "pgmq://", 1),
            "BENCH_TRANSPORT": json.dumps(OPTIONS),
        }
        if results:
            self.variables["BENCH_BACKEND"] = f"db+{self.url}"
        self._system = system
        self.connection: Any = connect(self.url)

    def fill(self, first: int, count: int, seconds: float = 0.0, size: int = 0) -> None:
        """By COPY, as the transport's ``pgmq.send`` would write them."""
        clones = self._system.sample("BENCH_BACKEND" in self.variables, seconds, size)
        made = (escaped(clones.make(number)[1]) for number in range(first, first + count))
        with self.connection.cursor() as cursor:
            while chunk := list(islice(made, _CHUNK)):
                cursor.execute("BEGIN")
                cursor.execute("CREATE TEMPORARY TABLE bench_fill (message jsonb) ON COMMIT DROP")
                cursor.copy_expert("COPY bench_fill FROM STDIN", StringIO("\n".join(chunk)))
                cursor.execute(
                    f"INSERT INTO pgmq.q_{QUEUE} (vt, message, headers) "
                    "SELECT clock_timestamp(), message, message -> 'headers' FROM bench_fill"
                )
                cursor.execute("COMMIT")
        analyze(self.connection, count, [f"pgmq.q_{QUEUE}"])

    def waiting(self) -> int:
        """Rows: a task that is done has none."""
        with self.connection.cursor() as cursor:
            cursor.execute(f"SELECT count(*) FROM pgmq.q_{QUEUE}")
            return int(cursor.fetchone()[0])

    def operations(self) -> int:
        """Transactions."""
        return transactions(self._system.cluster, self.name)

    def tables(self) -> list[str]:
        """Those that hold tasks."""
        return [f"q_{QUEUE}"]

    def close(self) -> None:
        """Let go of the connection."""
        self.connection.close()


class PgmqSystem(InPostgres, CelerySystem):
    """Celery on PGMQ."""

    name = "pgmq"
    label = "Celery, PGMQ"
    settings = (
        f"{celery_settings(PgmqBroker)}; {CELERY_RESULTS}; PGMQ installed from its SQL; "
        "use_notify without throttle, wait_time_seconds 0: with the defaults a task waits up to 4 s"
    )
    results = prefork = True

    def broker(self, name: str, *, results: bool) -> PgmqBroker:
        return PgmqBroker(self, name, results=results)

    def prepare(self, broker: PgmqBroker) -> None:
        """Create the schema, and the queue, so that ``fill`` finds it."""
        administrate(self.cluster, f"GRANT CREATE ON DATABASE {broker.name} TO {APP_ROLE}")
        importlib.import_module("pgmq.install").install_pgmq_from_sql(dsn=broker.url)
        publish_sample(broker.variables, 0.0, 0)
        with broker.connection.cursor() as cursor:
            cursor.execute(f"TRUNCATE pgmq.q_{QUEUE}")

    def take_sample(self, shape: Shape) -> Clones:
        results, seconds, size = shape
        with self.fresh(results=results) as broker, broker.connection.cursor() as cursor:
            publish_sample(broker.variables, seconds, size)
            cursor.execute(f"SELECT message::text FROM pgmq.q_{QUEUE}")
            return Clones(cursor.fetchone()[0])

    def versions(self) -> dict[str, str]:
        return celery_versions(
            **super().versions(),
            PGMQ=importlib.import_module("pgmq.install").get_embedded_sql_version(),
            **{"pgmq (Python)": version("pgmq")},
        )

    @classmethod
    def missing(cls) -> str | None:
        """The client, which brings the schema, and Kombu's transport."""
        for module in ("pgmq", "kombu.transport.pgmq"):
            if importlib.util.find_spec(module) is None:
                return f"{module} is not installed; run ./dev bench"
        return None
