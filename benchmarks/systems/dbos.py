"""DBOS: durable workflows in PostgreSQL, here one workflow for each task, from a queue."""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import version
from types import MappingProxyType

from benchmarks.systems.databases import DatabaseSystem


class Dbos(DatabaseSystem):
    """Its queue."""

    name = "dbos"
    label = "DBOS"
    settings = (
        "a workflow without steps for each task, run by asyncio; one queue with worker_concurrency=300 and "
        "polling_interval_sec=0.1 (1 is the default): it polls, and takes as many as it may run; "
        "DBOSPortableJSONSerializer; inputs and results stay in its tables, always"
    )
    concurrency = 300
    rough = 1_500
    bulk = False
    results = True
    skips = MappingProxyType({"drain 1ms plain": "a worker that runs one task at a time takes one in each poll"})
    program = (sys.executable, "-m", "benchmarks.programs.dbos_program")
    tables = ("dbos.workflow_status", "dbos.workflow_input", "dbos.workflow_output")
    counting = "SELECT count(*) FROM dbos.workflow_status WHERE status IN ('ENQUEUED', 'PENDING')"
    filling = """
        WITH new AS MATERIALIZED (
            SELECT number, gen_random_uuid()::text AS id, (extract(epoch FROM now()) * 1000)::bigint AS at
            FROM generate_series(%(first)s, %(last)s) AS number
        ), given AS (
            INSERT INTO dbos.workflow_input (workflow_uuid, inputs, retention_timestamp)
            SELECT id, json_build_object(
                'namedArgs', json_build_object(), 'positionalArgs', json_build_array(number, %(seconds)s, %(padding)s)
            )::text, at
            FROM new
        )
        INSERT INTO dbos.workflow_status (
            workflow_uuid, status, name, queue_name, serialization, application_version, creator_xid,
            recovery_attempts, priority, created_at, updated_at
        )
        SELECT id, 'ENQUEUED', 'work', 'bench', 'portable_json', '1', gen_random_uuid()::text, 0, 0, at + number, at
        FROM new"""

    def versions(self) -> dict[str, str]:
        return {**super().versions(), **{name: version(name) for name in ("dbos", "psycopg")}}

    @classmethod
    def missing(cls) -> str | None:
        if importlib.util.find_spec("dbos") is None:
            return "dbos is not installed (requirements/bench.txt)"
        return None
