"""PgQueuer: tasks in PostgreSQL for Python's asyncio, taken and settled in batches."""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import version

from benchmarks.systems.databases import DatabaseSystem


class PgQueuer(DatabaseSystem):
    """Its queue manager on asyncpg."""

    name = "pgqueuer"
    label = "PgQueuer"
    settings = (
        "asyncpg pool, uvloop, durability=durable (all tables logged, the default); batch_size=500: 10, the "
        "default, is a quarter as fast, 1,000 is slower; no max_concurrent_tasks, the default: a worker takes more "
        "than it runs; the log of three rows a task is kept as it comes"
    )
    concurrency = 500
    rough = 35_000
    program = (sys.executable, "-m", "benchmarks.programs.pgqueuer_program")
    tables = ("pgqueuer", "pgqueuer_log", "pgqueuer_statistics")
    counting = "SELECT count(*) FROM pgqueuer"
    # What ``enqueue`` does in one statement: the job and its first line in the log.
    filling = """
        WITH queued AS (
            INSERT INTO pgqueuer (priority, entrypoint, payload, status)
            SELECT 0, 'work', convert_to(
                json_build_object('number', number, 'seconds', %(seconds)s, 'padding', %(padding)s)::text, 'UTF8'
            ), 'queued'
            FROM generate_series(%(first)s, %(last)s) AS number
            RETURNING id, entrypoint, priority
        )
        INSERT INTO pgqueuer_log (job_id, status, entrypoint, priority)
        SELECT id, 'queued', entrypoint, priority FROM queued"""

    def versions(self) -> dict[str, str]:
        return {**super().versions(), **{name: version(name) for name in ("pgqueuer", "asyncpg", "uvloop")}}

    @classmethod
    def missing(cls) -> str | None:
        if importlib.util.find_spec("pgqueuer") is None or importlib.util.find_spec("asyncpg") is None:
            return "pgqueuer[asyncpg] is not installed (requirements/bench.txt)"
        return None
