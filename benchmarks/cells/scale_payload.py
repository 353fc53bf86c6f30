"""What a task writes: WAL, transactions, disk of a waiting message and of a kept result; and what the disk bears."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.cells import Cell
from benchmarks.cells.scale_parts import Wal, ours, sql
from benchmarks.programs.publishing import WARM_UP
from benchmarks.run import Run, worker_of
from benchmarks.systems.celery_systems import PostgresBroker, PostgresSystem
from benchmarks.systems.clusters import administrate
from environment.waiting import wait_until

#: Characters of the argument → the most tasks.
SIZES = {0: 4_000, 1_000: 4_000, 10_000: 3_000, 100_000: 600, 1_000_000: 80}
_MEGABYTE = 1 << 20


def variants(run: Run) -> list[str]:
    """Characters of the argument; results stored or not; ``full_page_writes``."""
    found = [f"{size} {kept} off" for size in SIZES for kept in ("plain", "results")]
    if run.quick:
        return [f"{size} results off" for size in (0, 10_000)] + ["0 results on"]
    return found + [f"{size} results on" for size in SIZES]


def measure(run: Run, variant: str) -> dict[str, Any]:
    """Bytes of WAL and transactions of a publish, and of a run with late acknowledgement; bytes on disk of a message
    that waits (table and indexes), and of a result that is kept.

    ``off``: ``full_page_writes``, so that only the changes are counted.  ``on``: all pages are written whole with their
    first change after a checkpoint, and a checkpoint is just over: the most that it can be.
    """
    words = variant.split()
    size, system = int(words[0]), ours(run)
    with _full_page_writes(system, words[2]), system.fresh(results=words[1] == "results") as broker:
        _publish(broker, size, 1)  # the queue's row, and tables that have a first page
        administrate(system.cluster, "CHECKPOINT")
        before, wal = _size(broker, "kombu_message"), Wal(system, broker)
        count, rate = _publish(broker, size, int(SIZES[size] * run.pick(0.25, 1)))
        published, waiting = wal.since(count), _size(broker, "kombu_message") - before
        administrate(system.cluster, "CHECKPOINT")
        before, wal = _size(broker, "celery_taskmeta"), Wal(system, broker)
        with worker_of(broker, 1, 100_000, ready=True, late=True) as worker:
            tasks = worker.run_until(count + 1, 60)
            wait_until(lambda: broker.waiting() == 0, 20, "the acknowledgements")
            ran = wal.since(tasks)
        kept = _size(broker, "celery_taskmeta") - before
    return {
        "publish_wal": published["wal"],
        "publish_transactions": published["transactions"],
        "publishes": rate,
        "run_wal": ran["wal"],
        "run_transactions": ran["transactions"],
        "message_bytes": waiting / count,
        "result_bytes": kept / tasks,
        "tasks": tasks,
    }


def _publish(broker: PostgresBroker, size: int, count: int) -> tuple[int, float]:
    """Publish one by one; return how many, and how many a second."""
    done = broker.publish("one_by_one", 1, count, 20, size)
    return done["published"] + (WARM_UP if count > WARM_UP else 0), done["rate"]


def _size(broker: PostgresBroker, table: str) -> int:
    return int(sql(broker, "SELECT pg_total_relation_size(%s::regclass)", table)[0][0])


@contextmanager
def _full_page_writes(system: PostgresSystem, value: str) -> Iterator[None]:
    administrate(system.cluster, f"ALTER SYSTEM SET full_page_writes = {value}", "SELECT pg_reload_conf()")
    try:
        yield
    finally:
        administrate(system.cluster, "ALTER SYSTEM RESET full_page_writes", "SELECT pg_reload_conf()")


def measure_disk(run: Run, variant: str) -> dict[str, Any]:
    """Flushes a second of 8 kB, as a commit's, and megabytes a second of 16 MB, as a segment's, in the folder of the
    server."""
    seconds = run.pick(1, 3)
    return {
        "flushes": _flushed(run, 8_192, seconds),
        "mb_s": _flushed(run, 16 * _MEGABYTE, seconds) * 16,
    }


def _flushed(run: Run, size: int, seconds: float) -> float:
    block = os.urandom(size)
    with tempfile.TemporaryFile(dir=ours(run).cluster.home) as file:
        # The file has its length before, as a segment of WAL has.
        os.posix_fallocate(file.fileno(), 0, 16 * _MEGABYTE)
        count, position, begin = 0, 0, time.perf_counter()
        while (now := time.perf_counter()) < begin + seconds:
            os.pwrite(file.fileno(), block, position)
            os.fdatasync(file.fileno())
            count, position = count + 1, (position + size) % (16 * _MEGABYTE)
        return count / (now - begin)


PAYLOAD = Cell("payload", variants, measure, per_system=False, repetitions=1)
DISK = Cell("disk", lambda run: ["log"], measure_disk, per_system=False, repetitions=1)
