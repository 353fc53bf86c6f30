"""Procrastinate: tasks in PostgreSQL for Python, ``fetch`` and ``finish`` of each being functions in the database."""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import version

from benchmarks.systems.databases import DatabaseSystem


class Procrastinate(DatabaseSystem):
    """Its asynchronous worker."""

    name = "procrastinate"
    label = "Procrastinate"
    settings = (
        "delete_jobs=always, 30 % faster than keeping them; connections in autocommit, 10 % faster, six of them; "
        "LISTEN, and a poll every 5 s, the default; jobs are fetched one by one: 10 at a time are 20 % faster than "
        "one, 40 are not"
    )
    concurrency = 10
    rough = 1_100
    program = (sys.executable, "-m", "benchmarks.programs.procrastinate_program")
    tables = ("procrastinate_jobs", "procrastinate_events")
    counting = "SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"
    filling = """
        SELECT cardinality(procrastinate_defer_jobs_v1(array_agg(ROW(
            'default', 'work', 0, NULL, NULL,
            jsonb_build_object('number', number, 'seconds', %(seconds)s, 'padding', %(padding)s),
            NULL
        )::procrastinate_job_to_defer_v1 ORDER BY number)))
        FROM generate_series(%(first)s, %(last)s) AS number"""

    def versions(self) -> dict[str, str]:
        return {**super().versions(), **{name: version(name) for name in ("procrastinate", "psycopg")}}

    @classmethod
    def missing(cls) -> str | None:
        if importlib.util.find_spec("procrastinate") is None:
            return "procrastinate is not installed (requirements/bench.txt)"
        return None
