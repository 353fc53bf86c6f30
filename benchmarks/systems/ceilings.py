"""What PostgreSQL and psycopg2 allow on the broker's own table, without Celery and without a lease: no task queues.

Both take a row by deleting it, so that a worker that is killed loses what it had in hand.
"""

from __future__ import annotations

import sys

import psycopg2

from benchmarks.systems.databases import DatabaseSystem

#: Characters of the message that Celery makes of the task ``work`` with no padding.
ENVELOPE = 914

#: What a row of ours has to have; the rest are defaults.
COLUMNS = "id, visible, version, queue_id, task_id, payload"
CLAIM = """
    WITH batch AS MATERIALIZED (
        SELECT id FROM kombu_message
        WHERE queue_id = 1 AND visible AND available_at IS NULL
        ORDER BY priority DESC, id + 0
        LIMIT {count}
        FOR UPDATE SKIP LOCKED
    )
    DELETE FROM kombu_message AS message USING batch WHERE message.id = batch.id"""


class _Psycopg2(DatabaseSystem):
    concurrency = 1
    program = (sys.executable, "-m", "benchmarks.programs.psycopg2_program")
    tables = ("kombu_message",)
    counting = "SELECT count(*) FROM kombu_message"
    filling = f"""
        INSERT INTO kombu_message ({COLUMNS})
        SELECT nextval('message_id_sequence'), true, 1, 1, gen_random_uuid()::text, jsonb_build_object(
            'number', number, 'seconds', %(seconds)s, 'padding', %(padding)s, 'envelope', repeat('e', {ENVELOPE})
        )::text
        FROM generate_series(%(first)s, %(last)s) AS number"""

    def versions(self) -> dict[str, str]:
        return {**super().versions(), "psycopg2": psycopg2.__version__.split()[0]}

    @staticmethod
    def missing() -> str | None:
        """Nothing: the broker itself needs psycopg2."""
        return None


class Psycopg2One(_Psycopg2):
    """What one transaction for each task allows, when each waits for the disk."""

    name = "psycopg2-one"
    label = "psycopg2, one at a time"
    settings = "a prepared DELETE … RETURNING … SKIP LOCKED for each task, and its commit waited for, as ours are not"
    variables = {"BENCH_BATCH": "1"}


class Psycopg2Batch(_Psycopg2):
    """What batches allow."""

    name = "psycopg2-batch"
    label = "psycopg2, batches"
    settings = "the same for 1,000 tasks at a time: 100 are a fifth slower, 10,000 are not faster"
    variables = {"BENCH_BATCH": "1000"}
