"""A thousand malformed tasks to each pool, of the package and of the application: the worker goes on in every slot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from environment.sources import CHECKOUT
from environment.testkit.hostile import insert_all, shapes
from environment.testkit.probe import DEADLINE_S, POOLS, Probe, broker, every_slot_works, results, unique
from environment.testkit.stock_rows import payload
from environment.testkit.tables import dead_letters, rows_of, scalar
from environment.waiting import wait_until
from environment.workerfile import WorkerInfo

SHAPES = 1_000
#: The worker takes them one after the other, on a machine that does other things too.
PATIENCE_S = 8 * DEADLINE_S
#: Each of these once ended a solo worker, and kept a thread's slot for ever.
FOLLOWS = [5, {"chain": 7}, {"chain": [5]}, {"chord": 7}, {"errbacks": [7]}, {"callbacks": {"a": 1}}, {"get": 1}]


@pytest.mark.parametrize("pool", POOLS)
def test_a_thousand_shapes_and_the_worker_goes_on(probe: Probe, pool: str) -> None:
    probe.send("run", "before")  # makes the queue
    for follows in FOLLOWS:
        text = payload([[], {}, follows], "celery", task="probe.run_late", id=unique("follows"), lang="py")
        insert_all(probe.url, "celery", iter([text]))
    insert_all(probe.url, "celery", shapes(pool, SHAPES, "probe.anything"))
    worker = probe.start(pool=pool)

    wait_until(lambda: rows_of(probe.url, "celery") == 0, PATIENCE_S, "all of them to be gone")

    every_slot_works(probe, pool)
    assert worker.process.poll() is None
    # The last of them may still run.
    wait_until(lambda: not probe.inspect(worker, "active"), DEADLINE_S, "nothing to be active")
    wait_until(lambda: probe.inspect(worker, "reserved") == [], DEADLINE_S, "nothing to be held")
    assert dead_letters(probe.url) > len(FOLLOWS)
    worker.stop()
    assert worker.process.returncode == 0


@pytest.mark.parametrize("pool", POOLS)
def test_a_thousand_shapes_and_the_applications_worker_goes_on(
    database: Any, start_worker: Any, tmp_path: Path, pool: str
) -> None:
    slots = POOLS[pool]
    worker = start_worker(
        database.url,
        pool=pool,
        concurrency=slots,
        args=["-I", "probe_tasks"],
        env={"PYTHONPATH": str(CHECKOUT / "tests" / "workers")},
    )
    info: WorkerInfo = worker.info
    insert_all(database.url, "celery", shapes(f"application-{pool}", SHAPES, "probe.anything"))

    wait_until(lambda: rows_of(database.url, "celery") == 0, PATIENCE_S, "all of them to be gone")

    app = Celery("client", broker=broker(database.url, "client"), backend=results(database.url), set_as_current=False)
    gate, runs = tmp_path / "gate", tmp_path / "runs"
    runs.touch()
    sent = [app.send_task("probe.waits_for", [str(gate), str(runs)]) for _ in range(slots)]
    wait_until(lambda: len(runs.read_text().splitlines()) == slots, DEADLINE_S, "every slot to run one")
    gate.touch()
    assert [result.get(timeout=DEADLINE_S) for result in sent] == ["done"] * slots
    assert (
        bytes(scalar(database.url, "SELECT result FROM celery_taskmeta WHERE task_id = :i", i=sent[0].id)) == b'"done"'
    )
    assert worker.process.poll() is None
    assert info.get("/readyz")[0] == 200
    app.close()


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("task", ["fails_twice", "fails_twice_late"])
def test_a_failure_that_cannot_be_dealt_with_keeps_no_slot(pool: str, task: str, probe: Probe) -> None:
    """The task's own `on_failure` fails, and so does its exception's text."""
    worker = probe.start(pool=pool)
    for _ in range(2 * POOLS[pool]):
        probe.send(task, ignore_result=False)

    wait_until(lambda: rows_of(probe.url, "celery") == 0, PATIENCE_S, "all of them to be gone")

    every_slot_works(probe, pool)
    assert worker.process.poll() is None


@pytest.mark.parametrize("pool", POOLS)
def test_a_message_that_fails_its_consumer_is_a_dead_letter_in_the_end(probe: Probe, pool: str) -> None:
    worker = probe.start(pool=pool)
    identity = unique("fragile")
    probe.send("fragile", task_id=identity)
    wait_until(lambda: dead_letters(probe.url, identity) == 1, PATIENCE_S, "the dead letter")
    every_slot_works(probe, pool)
    assert "makes its consumer fail: RuntimeError at " in worker.log_text()
    wait_until(lambda: probe.inspect(worker, "reserved") == [], DEADLINE_S, "nothing to be held")
