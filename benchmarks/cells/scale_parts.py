"""What the cells of ``./dev bench scale`` have in common: fleets, publishers, WAL, connections and their memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

from benchmarks.run import Run, worker_of
from benchmarks.systems.celery_systems import PostgresBroker, PostgresSystem
from benchmarks.systems.clusters import connect, transactions
from environment.testkit import measuring
from environment.testkit.children import call
from environment.testkit.journal_worker import JournalWorker, celery_command
from environment.waiting import wait_until

PROGRAM = "benchmarks.programs.scale_program"
#: Records of one process of a fleet.
_CAPACITY = 200_000
#: Seconds in which a hundred workers start on two processors that have other work.
_START_S = 240


def ours(run: Run) -> PostgresSystem:
    """Return the only system that is asked here."""
    system = run.systems["ours"]
    assert isinstance(system, PostgresSystem)
    return system


@contextmanager
def fleet(broker: PostgresBroker, count: int, *, late: bool = False) -> Iterator[JournalWorker]:
    """Yield so many solo workers, forked from one process, when all of them take tasks."""
    command = [sys.executable, "-m", PROGRAM, "fleet", str(count)]
    with JournalWorker(command, broker.variables, late=late, capacity=_CAPACITY, ready=False) as worker:
        wait_until(worker.is_ready, _START_S, f"{count} workers to be ready")
        yield worker


@contextmanager
def one_worker(broker: PostgresBroker, *words: str, capacity: int = _CAPACITY) -> Iterator[JournalWorker]:
    """Yield a solo worker; ``words`` go to ``celery worker``."""
    if not words:
        with worker_of(broker, 1, capacity, ready=True) as worker:
            yield worker
        return
    command = celery_command("solo", 1, *words)
    with JournalWorker(command, broker.variables, capacity=capacity, ready=False) as worker:
        wait_until(worker.is_ready, _START_S, "the worker to be ready")
        yield worker


def together(broker: PostgresBroker, processes: int, seconds: float, size: int = 0) -> dict[str, Any]:
    """Publish from several processes at once; see ``scale_program``."""
    found: dict[str, Any] = call(PROGRAM, "together", processes, seconds, size, variables=broker.variables)
    return found


def working(run: Run, broker: PostgresBroker, worker: JournalWorker, seconds: float) -> dict[str, Any]:
    """Return tasks a second for so many seconds, and the processor time of each, worker and server apart."""
    before = worker.journal.refresh()
    meter, began, done = run.meter(ours(run), worker), time.monotonic(), broker.operations()
    time.sleep(seconds)
    spent, took, tasks = meter.stop(), time.monotonic() - began, max(1, worker.journal.refresh() - before)
    return {
        "rate": tasks / took,
        "tasks": tasks,
        "worker_us": spent["worker"] / tasks * 1e6,
        "server_us": spent["server"] / tasks * 1e6,
        "operations": (broker.operations() - done) / tasks,
        "others": spent["others"] / spent["total"] if spent["total"] else 0.0,
    }


def sessions(run: Run, broker: PostgresBroker) -> dict[str, float]:
    """Return the connections of a database that are not the harness', and the private memory of their servers in MB.

    Private memory leaves out ``shared_buffers``, which all connections map.
    """
    with closing(connect(ours(run).cluster.superuser_url)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = %s AND application_name <> 'benchmarks'", [broker.name]
        )
        pids = [pid for (pid,) in cursor.fetchall()]
    found = []
    for pid in pids:
        # One may end meanwhile.
        with suppress(OSError, KeyError):
            found.append(measuring.memory(pid)["uss_mb"])
    return {"connections": len(pids), "connection_mb": sum(found) / len(found) if found else 0.0}


def quiet(broker: Any) -> None:
    """Wait until all but the caller's own connections are gone: a server process counts when it has been waited for."""
    with closing(connect(broker.url)) as connection, connection.cursor() as cursor:

        def gone() -> bool:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name = 'pgbench'"
            )
            return bool(cursor.fetchone()[0] == 0)

        wait_until(gone, 20, "pgbench's connections to end")


class Wal:
    """What a server writes to its log and how many transactions a database has, from the creation until ``since``."""

    def __init__(self, system: PostgresSystem, broker: PostgresBroker) -> None:
        self._system = system
        self._broker = broker
        self._before = self._read()

    def since(self, tasks: int) -> dict[str, float]:
        """Return bytes of WAL and transactions for each of ``tasks``."""
        before, after = self._before, self._read()
        written, ended = (second - first for first, second in zip(before, after, strict=True))
        return {"wal": written / tasks, "transactions": ended / tasks}

    def _read(self) -> tuple[int, int]:
        return position(self._system), transactions(self._system.cluster, self._broker.name)


def position(system: PostgresSystem) -> int:
    """Return the bytes of WAL that the server has written since it was made."""
    with closing(connect(system.cluster.superuser_url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint")
        return int(cursor.fetchone()[0])


def sql(broker: PostgresBroker, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """Run a statement in the sample's database."""
    with closing(connect(broker.url)) as connection, connection.cursor() as cursor:
        cursor.execute(statement, list(values))
        return list(cursor.fetchall()) if cursor.description else []


def spread_over_queues(broker: PostgresBroker, prefix: str, count: int) -> None:
    """Move all messages of the queue ``celery`` evenly to ``q0``, ``q1`` …"""
    sql(
        broker,
        """
        UPDATE kombu_message AS message SET queue_id = queue.id
        FROM kombu_queue AS queue
        WHERE message.queue_id = (SELECT id FROM kombu_queue WHERE name = 'celery')
          AND queue.name = %s || (message.id %% %s)
        """,
        prefix,
        count,
    )
    sql(broker, "VACUUM ANALYZE kombu_message")


def look(broker: PostgresBroker, times: int = 7) -> dict[str, float]:
    """Return milliseconds of an overview, a scrape and a count by tenant."""
    found: dict[str, float] = call(PROGRAM, "look", times, variables=broker.variables)
    return found
