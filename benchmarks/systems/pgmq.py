"""Celery on PGMQ, by Kombu's own transport for it."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from io import StringIO
from itertools import islice
from typing import Any

import psycopg2

from benchmarks.clones import Clones
from benchmarks.clusters import DURABLE, administrate, analyze, database, postmaster, transactions
from benchmarks.peers import escaped
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
from environment.cluster import APP_ROLE
from environment.temporary import TemporaryCluster

#: Rows in a transaction: for each its trigger updates the one row that throttles NOTIFY, and reads the versions of it
#: that are left from before. 20,000 rows take 70 s at once, and 3 s in hundreds.
_CHUNK = 200

#: The extension is there already, as plain SQL.  A worker reads its queues one after the other: if each read waits at
#: the server (``wait_time_seconds``), a task waits while an empty queue of remote control is looked at.  Woken by
#: NOTIFY instead, without a throttle, so that no wake-up is left out.
OPTIONS = {"init_extension": False, "wait_time_seconds": 0, "use_notify": True, "notify_throttle_interval_ms": 0}


class PgmqGround(CeleryGround):
    """A database with PGMQ's schema.

    :ivar libpq: how to look into it.
    """

    #: It reads ten at most, and as many fewer as the worker may have: 1,570 tasks in a second and not 1,260.
    prefetch = LONG_PREFETCH

    def __init__(self, system: PgmqSystem, name: str, *, results: bool) -> None:
        self.name = name
        self.libpq = system.cluster.tcp_url(database=name)
        self.variables = {
            "BENCH_BROKER": self.libpq.replace("postgresql://", "pgmq://", 1),
            "BENCH_TRANSPORT": json.dumps(OPTIONS),
        }
        if results:
            self.variables["BENCH_BACKEND"] = f"db+{self.libpq}"
        self._system = system
        self.connection: Any = psycopg2.connect(self.libpq, application_name="benchmarks")

    def fill(self, first: int, count: int, seconds: float = 0.0, size: int = 0) -> None:
        """By COPY, as the transport's ``pgmq.send`` would write them."""
        clones = self._system.sample("BENCH_BACKEND" in self.variables, seconds, size)
        made = (escaped(clones.make(number)[1]) for number in range(first, first + count))
        with self.connection.cursor() as cursor:
            while chunk := list(islice(made, _CHUNK)):
                cursor.execute("CREATE TEMPORARY TABLE bench_fill (message jsonb) ON COMMIT DROP")
                cursor.copy_expert("COPY bench_fill FROM STDIN", StringIO("\n".join(chunk)))
                cursor.execute(
                    f"INSERT INTO pgmq.q_{QUEUE} (vt, message, headers) "
                    "SELECT clock_timestamp(), message, message -> 'headers' FROM bench_fill"
                )
                self.connection.commit()
        analyze(self.connection, count, [f"pgmq.q_{QUEUE}"])
        self.connection.commit()

    def waiting(self) -> int:
        """Rows: a task that is done has none."""
        with self.connection.cursor() as cursor:
            cursor.execute(f"SELECT count(*) FROM pgmq.q_{QUEUE}")
            found = int(cursor.fetchone()[0])
        self.connection.commit()
        return found

    def operations(self) -> int:
        """Transactions."""
        return transactions(self._system.cluster, self.name)

    def tables(self) -> list[str]:
        """Those that hold tasks."""
        return [f"q_{QUEUE}"]

    def close(self) -> None:
        """Let go of the connection."""
        self.connection.close()


class PgmqSystem:
    """Celery on PGMQ."""

    name = "pgmq"
    label = "Celery, PGMQ"
    durable = DURABLE
    settings = (
        f"{celery_settings(PgmqGround)}; {CELERY_RESULTS}; PGMQ installed from its SQL; "
        "use_notify without throttle, wait_time_seconds 0: with the defaults a task waits up to 4 s"
    )
    concurrency = 1

    def __init__(self, cluster: TemporaryCluster) -> None:
        self.cluster = cluster
        self._numbers = itertools.count(1)
        self._template = "bench_pgmq_template"
        self._samples: dict[Shape, Clones] = {}
        self._make_template()

    @contextmanager
    def fresh(self, *, results: bool = False) -> Iterator[Ground]:
        """A database of its own."""
        with self._database(results=results) as ground:
            yield ground

    def sample(self, results: bool, seconds: float, size: int) -> Clones:
        """What to copy; published when it is first asked for."""
        shape = (results, seconds, size)
        if shape not in self._samples:
            with self._database(results=results) as ground, ground.connection.cursor() as cursor:
                publish_sample(ground.variables, seconds, size)
                cursor.execute(f"SELECT message::text FROM pgmq.q_{QUEUE}")
                self._samples[shape] = Clones(cursor.fetchone()[0])
        return self._samples[shape]

    def versions(self) -> dict[str, str]:
        """PostgreSQL, PGMQ and Celery."""
        return celery_versions(
            PostgreSQL=self.cluster.installation.version,
            PGMQ=importlib.import_module("pgmq.install").get_embedded_sql_version(),
            **{"pgmq (Python)": version("pgmq")},
        )

    def pids(self) -> list[int]:
        """The postmaster."""
        return postmaster(self.cluster)

    @staticmethod
    def missing() -> str | None:
        """The client, which brings the schema, and Kombu's transport."""
        for module in ("pgmq", "kombu.transport.pgmq"):
            if importlib.util.find_spec(module) is None:
                return f"{module} is not installed; run ./dev bench"
        return None

    def _make_template(self) -> None:
        """The schema, and the queue, so that a fill finds it."""
        administrate(self.cluster, f"CREATE DATABASE {self._template} OWNER {APP_ROLE}")
        administrate(self.cluster, f"GRANT CREATE ON DATABASE {self._template} TO {APP_ROLE}")
        importlib.import_module("pgmq.install").install_pgmq_from_sql(dsn=self.cluster.tcp_url(database=self._template))
        with closing(PgmqGround(self, self._template, results=False)) as ground:
            publish_sample(ground.variables, 0.0, 0)
            with ground.connection.cursor() as cursor:
                cursor.execute(f"TRUNCATE pgmq.q_{QUEUE}")
            ground.connection.commit()

    @contextmanager
    def _database(self, *, results: bool) -> Iterator[PgmqGround]:
        name = f"bench_pgmq_{next(self._numbers)}"
        with (
            database(self.cluster, name, self._template),
            closing(PgmqGround(self, name, results=results)) as ground,
        ):
            yield ground
