"""Fair queues: keys take turns, whatever the others have queued, and limits hold."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kombu import Queue

from celery_postgres.consumer.batch_size import BatchSize
from celery_postgres.consumer.fairness import Fairness
from celery_postgres.errors import FlowError
from environment.testkit.client import Client
from environment.testkit.databases import rows, run


def fair(name: str) -> Queue:
    return Queue(name, queue_arguments={"x-fair": True})


def publish(client: Client, queue: Queue, key: str, messages: int = 1, **options: Any) -> None:
    for number in range(messages):
        client.publish([key, number], queue, headers={"flow_key": key}, **options)


def test_a_quiet_key_does_not_wait_for_a_busy_one(client: Client, queue: str) -> None:
    publish(client, fair(queue), "busy", 200)
    publish(client, fair(queue), "quiet", 3)
    inbox = client.consume(queue, prefetch=10)
    bodies = inbox.take_acked(20)
    assert Counter(key for key, _ in bodies)["quiet"] == 3
    assert [number for key, number in bodies if key == "busy"] == list(range(17))


def test_a_key_that_comes_later_has_its_turn_with_the_next_look(
    client: Client, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fairness, "NEWEST_S", 0.0)  # each claim looks
    monkeypatch.setattr(BatchSize, "LIMIT", 8)
    publish(client, fair(queue), "busy", 200)
    inbox = client.consume(queue, prefetch=4)
    inbox.take_acked(8)
    publish(client, fair(queue), "quiet")
    assert ["quiet", 0] in inbox.take_acked(4 + 8 + 2)  # what was claimed, and one turn


def limit(url: str, queue: str, key: str, limits: str) -> None:
    """Write a limit of a key, or with ``*`` of each key, such as ``max_running = 2``."""
    name, value = limits.split(" = ")
    run(
        url,
        f"INSERT INTO kombu_limit (queue_id, key, flow_key, {name}) "  # noqa: S608
        f"SELECT id, '{key}', CASE WHEN '{key}' <> '*' THEN hashtextextended('{key}', 0) END, {value} "
        f"FROM kombu_queue WHERE name = '{queue}'",
    )


def test_a_limit_of_a_key_holds(client: Client, queue: str, module_database: Any) -> None:
    publish(client, fair(queue), "a", 10)
    publish(client, fair(queue), "b", 10)
    limit(module_database.url, queue, "a", "max_running = 2")
    inbox = client.consume(queue)
    inbox.take_until(lambda: len(inbox.messages) == 12)
    assert inbox.nothing() is False
    assert Counter(one.payload[0] for one in inbox.messages) == {"a": 2, "b": 10}
    for _ in range(8):
        held = next(one for one in inbox.messages if one.payload[0] == "a" and not one.acknowledged)
        before = len(inbox.messages)
        held.ack()
        inbox.take_until(lambda before=before: len(inbox.messages) > before)
    assert Counter(one.payload[0] for one in inbox.messages) == {"a": 10, "b": 10}


def test_messages_that_have_failed_come_again(client: Client, queue: str) -> None:
    publish(client, fair(queue), "a", 3)
    inbox = client.consume(queue)
    for message in inbox.take(3):
        message.reject(requeue=True)
    assert {message.payload[1] for message in inbox.take(3)} == {0, 1, 2}


def test_scheduled_messages_take_their_turn_when_they_are_due(client: Client, queue: str) -> None:
    publish(client, fair(queue), "busy", 2000)
    eta = datetime.now(UTC) + timedelta(seconds=0.5)
    client.publish("later", fair(queue), headers={"flow_key": "quiet", "eta": eta.isoformat()})
    inbox = client.consume(queue, prefetch=4)
    bodies = []
    while "later" not in bodies:
        bodies += inbox.take_acked(1)
    assert datetime.now(UTC) >= eta


def test_messages_without_a_key_in_a_fair_queue(client: Client, queue: str, module_database: Any) -> None:
    """What older releases publish, and what was there before the queue was fair."""
    client.publish("before", queue)
    eta = (datetime.now(UTC) + timedelta(seconds=0.3)).isoformat()
    client.publish("scheduled before", queue, headers={"eta": eta})
    publish(client, fair(queue), "a", 3)
    assert rows(module_database.url, "SELECT fair FROM kombu_queue WHERE name = :name", name=queue) == [(True,)]
    inbox = client.consume(queue)
    inbox.take_until(lambda: len(inbox.messages) == 5)


def test_a_message_without_acks_and_basic_get(client: Client, queue: str) -> None:
    publish(client, fair(queue), "a", 2)
    publish(client, fair(queue), "b")
    first, second = (client.get(queue, no_ack=True).payload for _ in range(2))
    assert {first[0], second[0]} == {"a", "b"}
    inbox = client.consume(queue, no_ack=True)
    inbox.take(1)
    assert client.get(queue) is None


@pytest.mark.parametrize("key", ["x" * 201, 7, "a\0b"])
def test_a_key_that_is_none(client: Client, queue: str, key: object) -> None:
    client.declare(fair(queue))
    with pytest.raises(FlowError, match="a flow_key"):
        client.publish("body", fair(queue), headers={"flow_key": key})
    assert client.count(queue) == 0


@pytest.mark.parametrize("why", ["limits", "waits in order", "is scheduled in order"])
def test_a_declaration_does_not_end_limits_and_order(
    client: Client, queue: str, module_database: Any, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    client.declare(fair(queue))
    if why == "limits":
        limit(module_database.url, queue, "a", "max_running = 2")
    else:
        later = {"eta": (datetime.now(UTC) + timedelta(hours=1)).isoformat()} if "scheduled" in why else {}
        headers = {"flow_key": "a", "flow_ordered": True, "id": "a", "task": "t", **later}
        client.publish("body", fair(queue), headers=headers)
    plain = Queue(queue, queue_arguments={"x-fair": False})
    asked = "SELECT fair FROM kombu_queue WHERE name = :name"
    for _ in range(2):
        client.declare(plain)
        assert rows(module_database.url, asked, name=queue) == [(True,)]
    (warning,) = [one.getMessage() for one in caplog.records if "stays fair" in one.getMessage()]
    assert queue in warning
    run(module_database.url, "DELETE FROM kombu_limit")
    client.channel.queue_purge(queue)
    client.declare(plain)
    assert rows(module_database.url, asked, name=queue) == [(False,)]
