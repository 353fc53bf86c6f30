"""A step of the broker's maintenance that fails: the others go on, and whoever watches is told which it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from environment.testkit.tables import dead_letters, run, scalar
from environment.waiting import wait_until
from environment.worker import WorkerProcess

DEADLINE_S = 60
#: What a row that nobody thought of does, whatever it is: the statement fails.
BREAK = """
    CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE numeric_value_out_of_range USING MESSAGE = 's3cret out of range'; END $$;
    CREATE TRIGGER broken BEFORE DELETE ON kombu_queue FOR EACH ROW WHEN (old.name = 'broken') EXECUTE FUNCTION broken()
"""
ABANDONED = (
    "INSERT INTO kombu_queue (id, name, expires_ms, used_at)"
    " VALUES (nextval('queue_id_sequence'), 'broken', 1000, now() - interval '1 day')"
)
EXPIRED = (
    "INSERT INTO kombu_message (id, visible, version, queue_id, payload, task_id, expires_at)"
    " SELECT nextval('message_id_sequence'), true, 1, 0, '{}', 'over', now() - interval '1s' FROM generate_series(1, 3)"
)
LEFT = (
    "INSERT INTO kombu_message (id, visible, version, queue_id, payload, consumer_id)"
    " SELECT nextval('message_id_sequence'), false, 1, 1, '{}', 4711 FROM generate_series(1, 3)"
)


def test_a_step_that_fails_is_named_and_the_others_go_on(
    database: Any, start_worker: Callable[..., WorkerProcess], observe: Any
) -> None:
    run(database.url, BREAK, ABANDONED, EXPIRED, LEFT)
    process = start_worker(database.url, ready=False)
    wait_until(lambda: "Maintenance: " in process.log_text(), DEADLINE_S, "a line about the step")
    wait_until(process.file.exists, DEADLINE_S, "the worker to take tasks")
    worker = observe(process)
    status, ready = worker.page("/readyz")
    assert (status, ready["maintenance"]) == (503, "failed")
    assert ready["checks"]["maintenance"]["error"] == "failing: removal of expired queues"
    failing = worker.samples("celery_maintenance_failing")
    assert failing[(("step", "removal of expired queues"),)] == 1
    assert sum(failing.values()) == 1
    wait_until(lambda: dead_letters(database.url, "over") == 3, DEADLINE_S, "expired messages to go")
    left = "SELECT count(*) FROM kombu_message WHERE consumer_id = 4711"
    wait_until(lambda: scalar(database.url, left) == 0, DEADLINE_S, "claims of nobody to be released")
    lines = [line for line in worker.lines() if line["message"].startswith("Maintenance: ")]
    assert len(lines) == 1
    assert lines[0]["level"] == "ERROR"
    assert "removal of expired queues fails" in lines[0]["message"]
    assert "22003" in lines[0]["message"]
    assert "s3cret" not in worker.worker.log_text()
    run(database.url, "DROP TRIGGER broken ON kombu_queue")
    wait_until(lambda: worker.status("/readyz") == 200, DEADLINE_S, "the worker to be ready again")
    assert scalar(database.url, "SELECT count(*) FROM kombu_queue WHERE name = 'broken'") == 0
    assert worker.samples("celery_maintenance_failing")[(("step", "removal of expired queues"),)] == 0
