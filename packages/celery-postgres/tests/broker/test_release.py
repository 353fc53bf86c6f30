"""Messages that an operator takes from a consumer."""

from __future__ import annotations

from typing import Any

from environment.testkit.client import DEADLINE_S
from environment.testkit.databases import allow_stock, rows
from environment.testkit.kombu_programs import run_stock, spawn
from environment.testkit.queue_tool import Tool, typed
from environment.testkit.tables import run, scalar
from environment.waiting import wait_until

MESSAGES = "SELECT visible, failures, consumer_id FROM kombu_message WHERE task_id = :id"


def hold(probe: Any, tag: str) -> tuple[Any, str]:
    """The worker that runs a task for ever, and the task's id."""
    task = probe.send("run_late_quiet", tag, "never")
    worker = probe.start()
    probe.wait_for("start", tag)
    return worker, task.id


def test_what_a_killed_worker_held_is_ready_when_the_command_returns_though_no_worker_is_left(
    probe: Any, tool: Tool
) -> None:
    worker, task = hold(probe, "held")
    (consumer,) = tool("consumers")
    assert consumer["claimed"] == 1
    worker.kill()
    told = typed(probe.url, "cancel", task, "--yes").stderr
    assert f"consumer {consumer['id']} claimed it and is gone; run `release {consumer['id']}` first" in told

    assert tool("release", str(consumer["id"])) == {"dry_run": True, "verb": "release", "count": 1}
    done = tool("release", str(consumer["id"]), "--yes")

    assert (done["count"], done["crashed"]) == (1, True)
    assert rows(probe.url, MESSAGES, id=task) == [(True, 1, None)], "a crash is a failure of its messages"
    assert tool("consumers") == []
    allow_stock(probe.url)
    (taken,) = run_stock("consume", probe.url, "celery", "1")
    assert taken["headers"]["id"] == task
    assert "a stock consumer has taken it" in typed(probe.url, "cancel", task).stderr


def test_another_worker_runs_at_once_what_was_released(probe: Any, tool: Tool) -> None:
    """The other one, asleep, is woken; whoever rescues by itself takes 5 s."""
    _, task = hold(probe, "held")
    (consumer,) = tool("consumers")
    other = probe.start()
    wait_until(
        lambda: (
            scalar(
                probe.url,
                "SELECT count(*) FROM kombu_subscription AS s JOIN kombu_queue AS q ON q.id = s.queue_id"
                " WHERE q.name = 'celery' AND s.consumer_id <> :first AND s.asleep",
                first=consumer["id"],
            )
            == 1
        ),
        DEADLINE_S,
        "the other worker to sleep",
    )

    done = tool("release", str(consumer["id"]), "--yes")

    assert (done["count"], done["crashed"]) == (1, False)
    again = probe.wait_for("start", "held", 2)
    assert [note["id"] for note in again] == [task, task]
    assert rows(probe.url, "SELECT failures FROM kombu_message WHERE task_id = :id", id=task) == [(0,)]
    assert other.process.poll() is None


def test_more_than_a_batch_goes_back_in_one_command(tool: Tool, plain_database: Any) -> None:
    process = spawn("puppet", plain_database.url, "many")
    url, count = plain_database.url, 2_500
    try:
        wait_until(lambda: tool("consumers") != [], DEADLINE_S, "the consumer")
        (consumer,) = tool("consumers")
    finally:
        process.kill()
        process.communicate()
    run(
        url,
        "INSERT INTO kombu_message (id, visible, payload, version, queue_id, consumer_id, claimed_at, fence)"
        " SELECT nextval('message_id_sequence'), false, '{}', 1, queue.id, consumer.id, now(), 1"
        " FROM kombu_queue AS queue, kombu_consumer AS consumer, generate_series(1, 2500)"
        " WHERE queue.name = 'many'",
    )

    assert tool("release", str(consumer["id"]), "--yes")["count"] == count

    ready = "SELECT count(*) FROM kombu_message WHERE visible AND consumer_id IS NULL AND fence = 2"
    assert scalar(url, ready) == count


def test_what_a_consumer_that_is_gone_has_left_is_found_and_released(probe: Any, tool: Tool) -> None:
    """Whoever removed it ended before giving its messages back."""
    worker, task = hold(probe, "left")
    (consumer,) = tool("consumers")
    worker.kill()
    run(probe.url, "DELETE FROM kombu_consumer")

    (gone,) = tool("consumers")
    assert gone == {**dict.fromkeys(consumer), "id": consumer["id"], "claimed": 1}
    told = typed(probe.url, "cancel", task).stderr
    assert f"`release {consumer['id']}` first" in told
    assert tool("release", str(consumer["id"]), "--yes")["count"] == 1
    assert rows(probe.url, MESSAGES, id=task) == [(True, 1, None)]
    told = typed(probe.url, "release", str(consumer["id"]), "--yes").stderr
    assert told.endswith(f"there is no consumer {consumer['id']}\n")


def test_a_task_that_runs_is_for_celery_to_end(probe: Any, tool: Tool) -> None:
    _, task = hold(probe, "runs")
    (consumer,) = tool("consumers")
    told = typed(probe.url, "cancel", task, "--yes").stderr
    assert f"consumer {consumer['id']} has claimed it; use `celery control revoke`" in told
