"""What a worker's role must be allowed to do; `roles.sql` grants it to `celery_worker`, and a test compares the two."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import psycopg2

_ALL = ("SELECT", "INSERT", "UPDATE", "DELETE")

#: By table.
WORKER_TABLES = {
    "kombu_queue": _ALL,
    "kombu_message": _ALL,
    "kombu_binding": _ALL,
    "kombu_consumer": _ALL,
    "kombu_subscription": _ALL,
    "kombu_dead_letter": ("SELECT", "INSERT"),
    "kombu_stopped_task": ("SELECT",),
    "kombu_limit": ("SELECT",),
    "kombu_throttle": _ALL,
    "celery_beat_entry": ("SELECT", "INSERT", "UPDATE"),
    "celery_beat": _ALL,
    "celery_taskmeta": _ALL,
    "celery_attempt": ("SELECT", "INSERT", "DELETE"),
    "celery_tasksetmeta": _ALL,
    "celery_chord": _ALL,
    "celery_chord_part": ("SELECT", "INSERT", "DELETE"),
    "celery_waiter": _ALL,
    "celery_minute": _ALL,
    "celery_minute_sum": _ALL,
    "celery_hour": _ALL,
    "celery_depth": _ALL,
}
#: Sequences that it takes numbers from (USAGE).
WORKER_SEQUENCES = (
    "queue_id_sequence",
    "message_id_sequence",
    "task_id_sequence",
    "taskset_id_sequence",
    "celery_listener_sequence",
)
#: Functions that change rows for it (EXECUTE).
WORKER_FUNCTIONS = (
    "kombu_catch_up(text)",
    "kombu_publish_unique(bigint, text, smallint, text, uuid, timestamptz, timestamptz, bigint, bigint, uuid, "
    "smallint, timestamptz, text, text, double precision, double precision)",
    "kombu_admit(bigint[], text[])",
    "celery_size_chord(text, integer)",
    "celery_save_group(text, bytea, timestamp)",
    "celery_give_up_waiting(bigint, text[])",
)


def roles_script() -> str:
    """The statement that makes roles `celery_worker`, `celery_producer` and others, and grants them their rights."""
    return Path(__file__).with_name("roles.sql").read_text(encoding="utf-8")


def run_script(dsn: str, script: str) -> list[str]:
    """Run SQL in one transaction.

    Args:
        dsn: a libpq connection string.
        script: statements without psql's own commands.

    Returns:
        The server's notices.
    """
    with closing(psycopg2.connect(dsn)) as connection:
        with connection, connection.cursor() as cursor:
            cursor.execute(script)
        return [line.strip() for line in connection.notices]
