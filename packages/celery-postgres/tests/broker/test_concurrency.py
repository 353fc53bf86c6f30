"""Many at once: every message counted, none lost, none twice; and commits that come late."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from kombu import Queue

from environment.testkit.client import DEADLINE_S, Client
from environment.testkit.probe import Probe, unique
from environment.testkit.stock_rows import inserting
from environment.testkit.tables import rows_of
from environment.waiting import wait_until

CONSUME_S = 60


def consume(client: Client, queue: str, came: list[Any], done: Callable[[], bool], prefetch: int) -> None:
    """Take and acknowledge until ``done()``."""
    inbox = client.consume(queue, prefetch=prefetch)
    end = time.monotonic() + CONSUME_S
    while not done() and time.monotonic() < end:
        inbox.drain(0.1)
        while inbox.messages:
            message = inbox.messages.pop(0)
            came.append(message.payload)
            message.ack()
    inbox.close()


@pytest.mark.parametrize("prefetch", [1, 10])
def test_every_message_of_many_producers_reaches_one_of_many_consumers(
    connect: Callable[..., Client], queue: str, module_database: Any, prefetch: int
) -> None:
    producers, consumers, each = 4, 4, 250
    came: list[Any] = []  # list.append is atomic
    connect().declare(Queue(queue))

    def produce(producer: int, client: Client) -> None:
        for number in range(each):
            client.publish([producer, number], exchange="", routing_key=queue)

    def all_came() -> bool:
        return len(came) >= producers * each

    with ThreadPoolExecutor(producers + consumers) as threads:
        work = [threads.submit(consume, connect(), queue, came, all_came, prefetch) for _ in range(consumers)]
        work += [threads.submit(produce, number, connect()) for number in range(producers)]
        for one in work:
            one.result(CONSUME_S + DEADLINE_S)
    counts = Counter(map(tuple, came))
    assert len(counts) == producers * each
    assert {name: count for name, count in counts.items() if count != 1} == {}
    wait_until(lambda: rows_of(module_database.url, queue) == 0, DEADLINE_S, "every ack")


def test_consumers_that_come_and_go_lose_nothing(
    connect: Callable[..., Client], queue: str, module_database: Any
) -> None:
    """Each takes some, acknowledges half of it and leaves; what is left comes to the next."""
    sender = connect()
    for number in range(120):
        sender.publish(number, queue)
    acked: list[int] = []
    while len(acked) < 120:
        client = connect()
        inbox = client.consume(queue, prefetch=6)
        wanted = min(6, 120 - len(acked))
        messages = inbox.take(wanted)
        for message in messages[: max(1, wanted // 2)]:
            message.ack()
            acked.append(message.payload)
        client.close()
    assert sorted(acked) == list(range(120))
    wait_until(lambda: rows_of(module_database.url, queue) == 0, DEADLINE_S, "every ack")


def test_workers_of_all_pools_share_a_queue(probe: Probe) -> None:
    workers = [probe.start(pool=pool, ready=False) for pool in ("solo", "threads", "prefork")]
    name = unique("shared")
    tags = [f"{name}-{number}" for number in range(400)]
    for worker in workers:
        worker.wait_ready()
    for number, tag in enumerate(tags):
        probe.send("run_late_quiet" if number % 2 else "run_quiet", tag)
    counts = probe.wait_for_all("end", tags)
    assert {tag: count for tag, count in counts.items() if count != 1} == {}
    wait_until(lambda: rows_of(probe.url, "celery") == 0, DEADLINE_S, "every ack")


def test_a_commit_that_comes_late_is_found(connect: Callable[..., Client], queue: str, module_database: Any) -> None:
    """Two transactions take low ids and commit after 1 s and after 10 s, while eight publishers go on.  A cursor over
    ids that trusts what it has seen would pass them by.
    """
    sender, client = connect(), connect()
    sender.declare(Queue(queue))
    stop = threading.Event()
    sent: list[Any] = []
    came: dict[Any, float] = {}

    def publish(publisher: int, own: Client) -> None:
        number = 0
        while not stop.is_set():
            own.publish([publisher, number], exchange="", routing_key=queue)
            sent.append((publisher, number))
            number += 1
            stop.wait(0.02)  # the pace of a publisher, so that the backlog stays small

    def take(until: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + DEADLINE_S + 10
        while not until():
            if time.monotonic() > end:
                raise TimeoutError(what)
            inbox.drain(0.1)
            while inbox.messages:
                message = inbox.messages.pop(0)
                key = tuple(message.payload)
                assert key not in came
                came[key] = time.monotonic()
                message.ack()

    inbox = client.consume(queue, prefetch=50)
    with ThreadPoolExecutor(8) as threads, ExitStack() as late:
        ten_seconds = late.enter_context(ExitStack())
        one_second = late.enter_context(ExitStack())
        ten_seconds.enter_context(inserting(module_database.url, queue, [("late", 10)]))
        one_second.enter_context(inserting(module_database.url, queue, [("late", 1)]))
        begun = time.monotonic()
        work = [threads.submit(publish, number, connect()) for number in range(8)]
        try:
            for delay, transaction in ((1, one_second), (10, ten_seconds)):
                take(lambda delay=delay: time.monotonic() >= begun + delay, "the moment to commit")
                assert ("late", delay) not in came
                transaction.close()
                take(lambda delay=delay: ("late", delay) in came, f"the one that committed after {delay} s")
        finally:
            stop.set()
        for one in work:
            one.result(DEADLINE_S)
        try:
            take(lambda: len(came) >= len(sent) + 2, "everything that was sent")
        except TimeoutError as error:
            missing = sorted(set(sent) - set(came))
            raise AssertionError(f"{error}: {len(missing)} of {len(sent)} missing, such as {missing[:5]}") from None
    assert set(came) == {*sent, ("late", 1), ("late", 10)}


def test_a_publisher_that_rolls_back_leaves_no_trace(
    connect: Callable[..., Client], queue: str, module_database: Any
) -> None:
    client = connect()
    client.declare(Queue(queue))
    inbox = client.consume(queue)
    with pytest.raises(ZeroDivisionError), inserting(module_database.url, queue, ["never"]):
        1 / 0  # noqa: B018
    client.publish("after", queue)
    assert inbox.take_acked() == ["after"]
    assert inbox.nothing()


def test_a_consumer_serves_many_queues_fairly(connect: Callable[..., Client], queue: str) -> None:
    """A full queue does not keep another queue's message waiting until it is empty; a buffer (500) may be."""
    client = connect()
    for number in range(1200):
        client.publish(number, f"{queue}-full")
    inbox = client.consume(f"{queue}-full", f"{queue}-thin", prefetch=1)
    inbox.take_acked(5)
    client.publish("thin", f"{queue}-thin")
    assert "thin" in inbox.take_acked(1000)
