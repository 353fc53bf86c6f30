"""Keys in order: their tasks run one after another, as they were published, and a retry keeps its place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kombu import Producer, Queue

import celery_postgres
from celery_postgres import Flow, FlowError, operations
from celery_postgres.consumer.fair_ring import FairRing
from environment.testkit.client import Client
from environment.testkit.databases import rows
from environment.testkit.probe import DEADLINE_S, Probe
from environment.testkit.tables import run, scalar
from environment.testkit.turns import TurnsConsumer
from environment.waiting import wait_until

FAIR = {"x-fair": True}


@pytest.fixture
def ordered(client: Client, queue: str) -> Any:
    """Publishes a message of a key in order, or by its options in another way."""

    def publish(task: str, key: str = "k", **headers: Any) -> None:
        headers = {"flow_key": key, "flow_ordered": True, "id": task, "task": "t", **headers}
        client.publish(task, Queue(queue, queue_arguments=FAIR), headers=headers)

    return publish


@pytest.fixture
def consumers(module_database: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(FairRing, "PARKED_S", 0.01)  # another consumer's acks are not waited for
    with ExitStack() as stack:

        def make(queue: str, count: int = 2) -> list[TurnsConsumer]:
            url = module_database.url
            queue_id = scalar(url, f"SELECT id FROM kombu_queue WHERE name = '{queue}'")  # noqa: S608
            made = [TurnsConsumer(url, number, queue_id) for number in range(1, count + 1)]
            for one in made:
                stack.enter_context(closing(one.session))
            return made

        yield make


@pytest.fixture
def drain(module_database: Any) -> Any:
    """Claims by turns of consumers, each message acknowledged by the next claim, until so many came."""

    def drained(consumers: list[TurnsConsumer], count: int) -> list[str]:
        order: list[str] = []
        wait_until(lambda: len(once(consumers, order)) >= count, DEADLINE_S, "the messages")
        for one in consumers:
            one.settle()
        return order

    def once(consumers: list[TurnsConsumer], order: list[str]) -> list[str]:
        for one in consumers:
            claimed = one.claim(force=True)
            names = dict(rows(module_database.url, "SELECT id, task_id FROM kombu_message"))
            running = rows(
                module_database.url, "SELECT queue_id, flow_key FROM kombu_message WHERE in_order AND NOT visible"
            )
            assert len(running) == len(set(running))
            order += [names[message.id] for message in claimed]
            for message in claimed:
                one.ack(message)
        return order

    return drained


def claim(consumer: TurnsConsumer) -> Any:
    """The message that a claim brings; what the consumer knows may be old."""
    found: list[Any] = []
    wait_until(lambda: found.extend(consumer.claim(force=True)) or found, DEADLINE_S, "a message")
    assert len(found) == 1
    return found[0]


def test_one_after_another_whoever_claims(client: Client, queue: str, ordered: Any, consumers: Any, drain: Any) -> None:
    for number in range(20):
        ordered(f"{number:02}", f"k{number % 2}")
    order = drain(consumers(queue, 3), 20)
    for key in (0, 1):
        assert [one for one in order if int(one) % 2 == key] == [f"{number:02}" for number in range(key, 20, 2)]


def test_a_priority_changes_no_order(client: Client, queue: str, ordered: Any, consumers: Any, drain: Any) -> None:
    for number in range(3):
        client.publish(
            number,
            Queue(queue, queue_arguments=FAIR),
            headers={"flow_key": "k", "flow_ordered": True, "id": str(number), "task": "t"},
            priority=number,
        )
    assert drain(consumers(queue), 3) == ["0", "1", "2"]


def test_messages_out_of_order_of_the_same_key_run_and_never_beside(
    queue: str, ordered: Any, consumers: Any, drain: Any
) -> None:
    for number in range(6):
        ordered(str(number), flow_ordered=number % 2 == 0)
    assert sorted(drain(consumers(queue), 6)) == ["0", "1", "2", "3", "4", "5"]


def test_a_retry_keeps_its_place_and_holds_the_others_up(
    module_database: Any, queue: str, ordered: Any, consumers: Any, drain: Any
) -> None:
    for task in ("a", "b", "c"):
        ordered(task)
    first, second = consumers(queue)
    (message,) = [claim(first)]
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    ordered("a", retries=1, eta=later)  # as its task does while it runs
    first.ack(message)  # of the attempt that is over: it must not delete the next one
    statement = "SELECT task_id, visible, available_at > now() FROM kombu_message ORDER BY id"
    first.settle()
    assert rows(module_database.url, statement)[:1] == [("a", True, True)]
    for one in (first, second, first, second):
        assert one.claim(force=True) == []
    run(module_database.url, "UPDATE kombu_message SET available_at = now() WHERE task_id = 'a'")
    assert drain([second, first], 3) == ["a", "b", "c"]


def test_a_scheduled_message_takes_its_place_when_it_is_due(
    module_database: Any, queue: str, ordered: Any, consumers: Any, drain: Any
) -> None:
    ordered("later", eta=(datetime.now(UTC) + timedelta(hours=1)).isoformat())
    for task in ("a", "b"):
        ordered(task)
    first, second = consumers(queue)
    assert drain([first], 1) == ["a"]
    run(module_database.url, "UPDATE kombu_message SET available_at = now() WHERE task_id = 'later'")
    assert sorted(drain([second, first], 2)) == ["b", "later"]


def test_what_was_lost_with_its_worker_comes_before_the_others(
    module_database: Any, queue: str, ordered: Any, consumers: Any, drain: Any
) -> None:
    for task in ("a", "b", "c"):
        ordered(task)
    first, second = consumers(queue)
    claim(first)
    first.die()
    assert drain([second], 3) == ["a", "b", "c"]


def test_a_message_that_is_committed_late_runs_beside_no_other(
    module_database: Any, queue: str, ordered: Any, consumers: Any
) -> None:
    ordered("a")
    ordered("b")
    first, second = consumers(queue)
    claimed = claim(first)
    # As if its publisher had drawn the id first, and committed now.
    run(
        module_database.url,
        "INSERT INTO kombu_message (id, queue_id, payload, task_id, available_at, flow_key, in_order)"  # noqa: S608
        f" SELECT 0, queue_id, payload, 'late', available_at, flow_key, true FROM kombu_message"
        f" WHERE id = {claimed.id}",
    )
    assert second.claim(force=True) == first.claim(force=True) == []
    first.ack(claimed)
    last = claim(first)
    assert last.id == 0
    first.ack(last)
    first.settle()
    last = claim(second)
    assert last.id == claimed.id + 1
    second.ack(last)
    second.settle()


def test_a_dead_letter_lets_the_next_one_run_and_is_requeued_in_order(
    client: Client, module_database: Any, queue: str, ordered: Any, consumers: Any, drain: Any
) -> None:
    ordered("a")
    ordered("b")
    (first,) = consumers(queue, 1)
    for _ in range(5):
        first.fail(claim(first))
    with operations.connect(module_database.url) as broker:
        letters = [one.id for one in broker.dead_letters() if one.queue == queue]
        assert broker.requeue(letters).count == 1
    assert scalar(module_database.url, "SELECT count(*) FROM kombu_message WHERE in_order AND visible") == 2
    assert drain([first], 2) == ["b", "a"]


def test_what_a_queue_that_is_not_fair_gets_is_refused(client: Client, queue: str) -> None:
    client.declare(Queue(queue))
    headers = {"flow_key": "k", "flow_ordered": True, "id": "a", "task": "t"}
    with pytest.raises(FlowError, match=f"'{queue}' is not fair"):
        client.publish("a", queue, headers=headers)
    producer = Producer(client.channel)

    def publish_both() -> None:
        with celery_postgres.bulk(producer):
            producer.publish("a", routing_key=queue, headers=headers)
            producer.publish("b", routing_key=queue)

    with pytest.raises(FlowError, match="is not fair"):
        publish_both()
    assert client.count(queue) == 0


@pytest.mark.parametrize("given", ["yes", 1, ["true"]])
def test_the_header_is_true_or_false(client: Client, queue: str, given: Any) -> None:
    with pytest.raises(FlowError, match="flow_ordered is true or false, not"):
        client.publish("a", Queue(queue, queue_arguments=FAIR), headers={"flow_ordered": given})


def test_a_flow_is_ordered_or_unique_and_acknowledged_late(make_app: Any) -> None:
    with pytest.raises(FlowError, match="and not both"):
        Flow(ordered=True, unique=True)
    app = make_app("memory://")

    @app.task(flow=Flow(key="k", ordered=True), shared=False)
    def early() -> None:
        """Acknowledged when it starts."""

    with pytest.raises(FlowError, match="set acks_late=True"):
        early.delay()


def _task(*arguments: Any) -> None:
    """What a worker runs has the same name."""


def test_workers_that_are_killed_and_tasks_that_retry_keep_the_order(probe: Probe) -> None:
    fair = {"task_queues": [Queue("celery", queue_arguments=FAIR)], "task_acks_late": True}
    probe.app.conf.update(fair)
    flow = Flow(key=lambda args, kwargs: args[0][0], ordered=True)
    task = {
        name: probe.app.task(name=f"probe.{name}", flow=flow, acks_late=True, shared=False)(_task)
        for name in ("again", "run_late")
    }
    sent = [
        task["again" if number == 1 else "run_late"].apply_async((f"{key}{number}",))
        for number in range(4)
        for key in "ab"
    ]
    held = task["run_late"].apply_async(("a4", "gate"))
    last = [task["run_late"].apply_async((f"a{number}",)) for number in (5, 6)]
    conf = {"task_acks_late": True, "worker_prefetch_multiplier": 4}
    killed = probe.start(pool="solo", conf=conf, env={"PROBE_LEASE_S": "2"})
    for one in sent:
        one.get(DEADLINE_S)
    probe.wait_for("start", "a4")
    killed.kill()
    for pool in ("prefork", "threads"):
        probe.start(pool=pool, concurrency=4, conf=conf, env={"PROBE_LEASE_S": "2"})
    probe.wait_for("start", "a4", 2)
    probe.open("gate")
    assert [one.get(DEADLINE_S) for one in (held, *last)] == ["a4", "a5", "a6"]
    starts = [line["tag"] for line in probe.notes("start")]
    retried = ["0", "1", "1", "1", "2", "3"]
    assert [tag[1] for tag in starts if tag[0] == "b"] == retried
    assert [tag[1] for tag in starts if tag[0] == "a"] == [*retried, "4", "4", "5", "6"]


@pytest.mark.parametrize("state", ["ready", "scheduled", "runs"])
def test_a_queue_with_ordered_messages_stays_fair(
    ordered: Any, consumers: Any, module_database: Any, queue: str, state: str
) -> None:
    ordered("first", eta=(datetime.now(UTC) + timedelta(hours=1)).isoformat() if state == "scheduled" else None)
    if state == "runs":
        (consumer,) = consumers(queue, 1)
        wait_until(lambda: bool(consumer.claim()), DEADLINE_S, "the message")
    with operations.connect(module_database.url) as broker:
        with pytest.raises(FlowError, match="ordered messages that wait or run"):
            broker.set_fair(queue, fair=False)
        run(module_database.url, "DELETE FROM kombu_message")
        broker.set_fair(queue, fair=False)
    assert scalar(module_database.url, f"SELECT fair FROM kombu_queue WHERE name = '{queue}'") is False  # noqa: S608
