"""Messages with arbitrary content: each runs or becomes a dead letter, and the worker keeps running."""

from __future__ import annotations

import pytest

from environment.testkit.hostile import insert_all, shapes
from environment.testkit.probe import DEADLINE_S, Probe, every_slot_works
from environment.testkit.tables import rows_of
from environment.waiting import wait_until


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
def test_messages_with_anything_in_them_end_no_worker(probe: Probe, pool: str, installed: None, quick: bool) -> None:
    before = probe.send("run", "before")  # makes the queue
    insert_all(probe.url, "celery", shapes(f"faults-{pool}", 300 if quick else 10_000, "probe.anything"))
    worker = probe.start(pool=pool)

    wait_until(lambda: rows_of(probe.url, "celery") == 0, 20 * DEADLINE_S, "all of them to be gone")

    assert before.get(timeout=DEADLINE_S) == "before"
    every_slot_works(probe, pool)
    assert worker.process.poll() is None
    worker.stop()
