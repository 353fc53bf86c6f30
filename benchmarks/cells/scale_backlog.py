"""How long a queue one server bears: 1,000 to 10,000,000 messages that wait."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.cells import Cell
from benchmarks.cells.scale_parts import look, one_worker, ours, sql, together, working
from benchmarks.run import Run
from benchmarks.systems.celery_systems import PostgresBroker

LENGTHS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
#: Messages that are made by COPY; longer queues repeat these, with ids of their own.
_COPIED = 10_000
#: Rows of one statement.
_ROWS = 500_000
#: Seconds that filling may take.
_PATIENCE_S = 420

_COLUMNS = "queue_id, payload, priority, task_id"
_REPEAT = f"""
    INSERT INTO kombu_message ({_COLUMNS})
    SELECT queue_id, payload, priority, gen_random_uuid()::text
    FROM (SELECT * FROM kombu_message ORDER BY id LIMIT {_COPIED}) AS message
    CROSS JOIN generate_series(1, %s)
    LIMIT %s"""


def measure(run: Run, variant: str) -> dict[str, Any]:
    """Tasks a second and their processor time while the queue is about so long, publishes a second, milliseconds of an
    overview and a scrape, bytes of table and indexes for each message."""
    count = int(variant)
    with ours(run).fresh() as broker:
        began = time.monotonic()
        if not _fill(broker, count, began + _PATIENCE_S):
            return {"rate": None, "reason": f"filling it takes more than {_PATIENCE_S} s"}
        filled = time.monotonic() - began
        ((size,),) = sql(broker, "SELECT pg_total_relation_size('kombu_message')")
        published = together(broker, 1, run.pick(1.5, 3))
        looked = look(broker)
        # So that a short queue does not end meanwhile, whose worker starts with what the publisher added.
        broker.fill(1, 30_000 if count <= _COPIED else 0)
        with one_worker(broker) as worker:
            found = working(run, broker, worker, run.pick(2, 5))
        return {**found, "publishes": published["rate"], **looked, "message_bytes": size / count, "fill_s": filled}


def _fill(broker: PostgresBroker, count: int, until: float) -> bool:
    """Return whether it was done in time."""
    broker.fill(1, min(count, _COPIED))
    left = count - _COPIED
    while left > 0:
        if time.monotonic() > until:
            return False
        rows = min(left, _ROWS)
        sql(broker, _REPEAT, -(-rows // _COPIED), rows)
        left -= rows
    sql(broker, "VACUUM ANALYZE kombu_message")
    return True


CELL = Cell(
    "backlog",
    lambda run: [str(length) for length in ((1_000, 100_000) if run.quick else LENGTHS)],
    measure,
    per_system=False,
    repetitions=1,
    deadline_s=900,
)
