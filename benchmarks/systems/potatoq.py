"""potatoq: Celery's programming interface on a queue of its own in PostgreSQL."""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import version
from types import MappingProxyType

from benchmarks.systems.databases import DatabaseBroker, DatabaseSystem

_LATE = "it acknowledges late only"


class PotatoqBroker(DatabaseBroker):
    """A database with its tables."""

    def worker(self, concurrency: int, pool: str | None = None) -> list[str]:
        """Its own worker: solo for one task at a time, threads for several, prefork where that is asked."""
        pool = pool or ("solo" if concurrency == 1 else "threads")
        app = ("-A", "benchmarks.programs.potatoq_app:app")
        return [sys.executable, "-m", "potatoq", *app, "worker", "-P", pool, "-c", str(concurrency), "-l", "WARNING"]


class Potatoq(DatabaseSystem):
    """Its PostgreSQL broker."""

    name = "potatoq"
    label = "potatoq"
    settings = (
        "a child with 10 threads, tasks that take time in a solo worker, which is half as fast; late ack and no "
        "prefetch, the only ones it has; max_tasks_per_child off: a child would end each second; results in the "
        "transaction of the ack, its default, off where there are none; LISTEN, and a poll each second"
    )
    concurrency = 10
    rough = 1_800
    results = prefork = chords = True
    skips = MappingProxyType({"processes plain": _LATE, "processes results": _LATE})
    program = (sys.executable, "-m", "benchmarks.programs.potatoq_program")
    tables = ("potatoq_jobs", "potatoq_results")
    counting = "SELECT count(*) FROM potatoq_jobs"
    # What ``Message.encode`` writes; whether it has a result is part of it.
    filling = """
        INSERT INTO potatoq_jobs (id, queue, task, state, payload)
        SELECT id, 'default', 'work', 1, json_build_object(
            'task', 'work', 'args', json_build_array(number, %(seconds)s, %(padding)s), 'id', id,
            'queue', 'default', 'ignore_result', %(plain)s,
            'enqueued_at', extract(epoch FROM now()), 'v', 1
        )::text
        FROM (
            SELECT number, gen_random_uuid()::text AS id FROM generate_series(%(first)s, %(last)s) AS number
        ) AS new"""

    def broker(self, name: str, *, results: bool) -> PotatoqBroker:
        return PotatoqBroker(self, name, results=results)

    def versions(self) -> dict[str, str]:
        return {**super().versions(), **{name: version(name) for name in ("potatoq", "psycopg")}}

    @classmethod
    def missing(cls) -> str | None:
        if importlib.util.find_spec("potatoq") is None:
            return "potatoq[postgres] is not installed (requirements/bench.txt)"
        return None
