"""What an application may do beside Celery's API."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from celery import Celery

from celery_postgres import SchemaError, operations
from celery_postgres.errors import OptionError
from environment.testkit.client import DEADLINE_S, Client
from environment.testkit.databases import engine_of
from environment.testkit.tables import dead_letters, run
from environment.waiting import wait_until

LATER = {"eta": "2099-01-01T00:00:00+00:00", "id": "later", "task": "t"}
TENANT = "00000000-0000-0000-0000-00000000000a"


@pytest.fixture
def client(connect: Callable[..., Client], plain_database: Any) -> Client:
    return connect(plain_database.url)


def test_queues_are_counted_paused_and_purged(broker: operations.Operations, client: Client, queue: str) -> None:
    client.publish("now", queue)
    client.publish("later", queue, headers=LATER)
    (row,) = broker.queues()
    assert (row.queue, row.ready, row.scheduled, row.claimed, row.paused) == (queue, 1, 1, 0, False)
    assert row.oldest_s is not None
    assert (broker.pause(queue), broker.pause("nowhere")) == (True, False)
    assert [one.paused for one in broker.queues()] == [True]
    assert broker.resume(queue)
    assert broker.purge(queue) == 2


def test_counting_stops_at_a_cap(broker: operations.Operations, client: Client, queue: str) -> None:
    for _ in range(5):
        client.publish("now", queue)
        client.publish("later", queue, headers=LATER)
    assert [(one.ready, one.scheduled) for one in broker.queues(cap=3)] == [(3, 3)]
    assert [(one.ready, one.scheduled) for one in broker.queues()] == [(5, 5)]


def test_a_waiting_task_is_cancelled(broker: operations.Operations, client: Client, queue: str) -> None:
    client.publish("x", queue, headers={"id": "mine", "task": "t"})
    (message,) = broker.messages_of("mine")
    assert (message.queue, message.waiting, message.consumed, message.consumer) == (queue, True, False, None)
    assert (broker.cancel("mine"), broker.cancel("another")) == (1, 0)


def test_a_task_is_blocked_until_it_is_unblocked(broker: operations.Operations) -> None:
    broker.block_task("app.slow")
    assert [one.task for one in broker.blocked_tasks()] == ["app.slow"]
    assert (broker.unblock_task("app.slow"), broker.unblock_task("app.slow")) == (True, False)
    with pytest.raises(ValueError, match="the name of the task is empty"):
        broker.block_task("")


def test_dead_letters_are_found_requeued_and_purged(
    broker: operations.Operations, client: Client, plain_database: Any, queue: str
) -> None:
    for body in ("a", "b"):
        client.publish(body, queue)
    inbox = client.consume(queue, prefetch=0)
    for message in inbox.take(2):
        message.reject(requeue=False)
    inbox.close()
    first, second = broker.dead_letters(operations.DeadLetterFilter(queue=queue))
    assert '"YQ=="' in (broker.dead_letter_payload(first.id) or "")
    assert broker.requeue([first.id]) == operations.Requeued(count=1)
    assert [one.id for one in broker.dead_letters()] == [second.id]
    assert broker.purge_dead_letters([second.id, 999_999]) == 1
    assert dead_letters(plain_database.url) == 0


def test_a_consumer_is_released_once(broker: operations.Operations, client: Client, queue: str) -> None:
    client.publish("x", queue)
    client.consume(queue).take(1)
    (consumer,) = broker.consumers()
    assert (consumer.queues, consumer.claimed) == ([queue], 1)
    assert broker.release(consumer.id) == operations.Released(count=1, crashed=False)
    wait_until(lambda: all(one.id != consumer.id for one in broker.consumers()), DEADLINE_S, "another consumer")


def test_no_consumer_of_that_number_is_said_to_have_crashed(broker: operations.Operations) -> None:
    assert broker.release(999_999) == operations.Released(count=0, crashed=False, unknown=True)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"connect_timeout": 0}, "connect_timeout is a number of seconds, from 1 to"),
        ({"connect_timeout": "soon"}, "connect_timeout is a number of seconds"),
        ({"statement_timeout": "hunter2"}, "statement_timeout is a time as PostgreSQL writes it"),
        ({"statement_timeout": -1}, "statement_timeout is a time as PostgreSQL writes it"),
    ],
)
def test_a_wrong_timeout_of_connect_is_refused_with_its_bounds(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(OptionError, match=expected) as refused:
        operations.connect("postgresql://nobody@nowhere.invalid/db", **given)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("kind", ["psycopg2", "SQLAlchemy"])
def test_figures_and_states_are_read_in_the_callers_transaction(
    client: Client, plain_database: Any, queue: str, kind: str
) -> None:
    client.publish("now", queue, headers={"id": "waits", "task": "t", "tenant_id": TENANT})
    client.publish("later", queue, headers=LATER)
    if kind == "psycopg2":
        with closing(psycopg2.connect(plain_database.url)) as connection:
            connection.set_session(readonly=True)
            look(connection, queue)
    else:
        with engine_of(plain_database.url).connect() as connection:
            look(connection, queue)


def look(connection: Any, queue: str) -> None:
    monitor = operations.monitor(connection)
    (depth,) = monitor.queue_depths(named=9, walked=9, cap=9)
    assert (depth.queue, depth.ready, depth.scheduled, depth.claimed, depth.consumers) == (queue, 1, 1, 0, 0)
    assert monitor.dead_letter_counts([queue], cap=9) == []
    assert monitor.consumers() == []
    assert operations.is_usable(connection)
    waiting = operations.waiting_by_tenant(connection, queue, cap=9)
    assert {str(tenant): count for tenant, count in waiting.items()} == {TENANT: 1, "None": 1}
    states = operations.task_states(connection, ["waits", "nobody"])
    assert {task_id: found.state for task_id, found in states.items()} == {"waits": "PENDING", "nobody": None}


def test_a_result_is_watched_and_read(probe: Any) -> None:
    probe.start()
    ended: list[bool] = []
    sent = probe.send("echo", "value")
    with operations.watching(probe.app, sent.id, lambda: ended.append(True)):
        wait_until(lambda: ended == [True], DEADLINE_S, "the end of the task")
    with closing(psycopg2.connect(probe.url)) as connection:
        found = operations.task_states(connection, [sent.id])[sent.id]
    assert found.state == "SUCCESS"
    assert found.done_at is not None
    assert operations.load_result(found.result) == "value"


@pytest.mark.parametrize("error", [RuntimeError("its text"), SystemExit()])
def test_a_callback_that_raises_keeps_nobody_else_from_the_result(
    probe: Any, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    ended: list[bool] = []

    def raises() -> None:
        raise error

    with (
        operations.watching(probe.app, "watched", raises),
        operations.watching(probe.app, "watched", lambda: ended.append(True)),
    ):
        probe.app.backend.store_result("watched", 1, "SUCCESS")
        wait_until(lambda: ended == [True], DEADLINE_S, "the other callback")
    probe.app.backend.store_result("later", 2, "SUCCESS")
    assert probe.app.AsyncResult("later").get(timeout=DEADLINE_S) == 2
    assert f"has raised {type(error).__name__}" in caplog.text
    assert "its text" not in caplog.text


def test_the_broker_of_an_application_and_of_none(probe: Any) -> None:
    with operations.of(probe.app) as broker:
        assert broker.cancel("nobody") == 0
    other = Celery("other", broker="memory://", backend="cache+memory://", set_as_current=False)
    with pytest.raises(TypeError, match=r"broker is kombu\.transport\.memory, not celery_postgres"):
        operations.of(other)
    refused = pytest.raises(TypeError, match=r"result backend is celery\.backends\.cache, not celery_postgres")
    with refused, operations.watching(other, "x", lambda: None):
        pass


def test_a_missing_table_is_named_as_everywhere(broker: operations.Operations, plain_database: Any) -> None:
    run(plain_database.url, "DROP TABLE kombu_stopped_task")
    with pytest.raises(SchemaError, match="kombu_stopped_task"):
        broker.blocked_tasks()
