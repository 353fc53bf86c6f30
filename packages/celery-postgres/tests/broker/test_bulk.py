"""Many publishes in few round trips: what `celery_postgres.bulk` promises."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from celery.signals import after_task_publish, before_task_publish
from kombu import Exchange
from kombu.exceptions import OperationalError

import celery_postgres
from celery_postgres.broker.bulk import BATCH
from environment.testkit.client import Client
from environment.testkit.databases import rows
from environment.testkit.proxy import Proxy

PAYLOADS = """
    SELECT CAST(message.payload AS json) ->> 'body' FROM kombu_message AS message
    JOIN kombu_queue AS queue ON queue.id = message.queue_id WHERE queue.name = :queue ORDER BY message.id
"""


def _noop(number: int) -> int:
    return number


@pytest.fixture
def make_app(queue: str) -> Iterator[Callable[[str], Celery]]:
    """`make_app(url)`: a Celery application whose one queue is the test's."""
    apps: list[Celery] = []

    def make(url: str) -> Celery:
        app = Celery("bulk", broker=f"sqla+{url}", set_as_current=False)
        app.conf.update(task_default_queue=queue, task_ignore_result=True)
        app.task(name="bulk.noop", shared=False)(_noop)
        apps.append(app)
        return app

    yield make
    for app in apps:
        app.close()


def numbers(database: Any, queue: str) -> list[int]:
    """The arguments of the messages that wait, in their order."""
    return [int(body[2 : body.index("]")]) for (body,) in rows(database.url, PAYLOADS, queue=queue)]


def test_messages_of_a_bulk_arrive_in_order_and_in_batches(
    make_app: Callable[[str], Celery], module_database: Any, queue: str
) -> None:
    app = make_app(module_database.url)
    with app.producer_or_acquire() as producer, celery_postgres.bulk(producer):
        for number in range(BATCH - 1):
            app.tasks["bulk.noop"].apply_async((number,), producer=producer)
        assert numbers(module_database, queue) == []
        for number in range(BATCH - 1, BATCH + 7):
            app.tasks["bulk.noop"].apply_async((number,), producer=producer)
        assert numbers(module_database, queue) == list(range(BATCH))
    assert numbers(module_database, queue) == list(range(BATCH + 7))


def test_after_a_bulk_the_producer_is_unchanged(
    make_app: Callable[[str], Celery], module_database: Any, queue: str
) -> None:
    app = make_app(module_database.url)
    with app.producer_or_acquire() as producer:
        before = dict(vars(producer))
        with celery_postgres.bulk(producer), celery_postgres.bulk(producer):
            app.tasks["bulk.noop"].apply_async((1,), producer=producer)
        assert set(vars(producer)) == set(before)
        app.tasks["bulk.noop"].apply_async((2,), producer=producer)
        assert numbers(module_database, queue) == [1, 2]


def test_celerys_signals_are_sent_and_may_change_the_message(
    make_app: Callable[[str], Celery], module_database: Any, queue: str
) -> None:
    sent = []

    def before(headers: dict[str, Any], **_: Any) -> None:
        headers["mark"] = "marked"

    def after(headers: dict[str, Any], **_: Any) -> None:
        sent.append(headers["mark"])

    app = make_app(module_database.url)
    before_task_publish.connect(before)
    after_task_publish.connect(after)
    try:
        with app.producer_or_acquire() as producer, celery_postgres.bulk(producer):
            app.tasks["bulk.noop"].apply_async((1,), producer=producer)
    finally:
        before_task_publish.disconnect(before)
        after_task_publish.disconnect(after)
    assert sent == ["marked"]
    with Client(module_database.url).connection as connection:
        message = connection.SimpleQueue(queue).get_nowait()
        message.ack()
    assert message.headers["mark"] == "marked"


def test_a_bulk_that_ends_with_an_error_sends_no_waiting_message(
    make_app: Callable[[str], Celery], module_database: Any, queue: str
) -> None:
    app = make_app(module_database.url)

    def fail() -> None:
        with app.producer_or_acquire() as producer, celery_postgres.bulk(producer):
            for number in range(BATCH + 3):
                app.tasks["bulk.noop"].apply_async((number,), producer=producer)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail()
    assert numbers(module_database, queue) == list(range(BATCH))


def test_a_bulk_declares_a_queue_again_that_was_deleted_meanwhile(
    make_app: Callable[[str], Celery], module_database: Any, client: Client, queue: str
) -> None:
    app = make_app(module_database.url)
    with app.producer_or_acquire() as producer, celery_postgres.bulk(producer):
        app.tasks["bulk.noop"].apply_async((1,), producer=producer)
        client.channel.queue_delete(queue)
        app.tasks["bulk.noop"].apply_async((2,), producer=producer)
    assert numbers(module_database, queue) == [1, 2]


def test_a_message_to_a_named_exchange_is_sent_at_once(
    make_app: Callable[[str], Celery], module_database: Any, client: Client, queue: str
) -> None:
    client.declare(Exchange(f"{queue}-x", "fanout"))
    client.channel.queue_declare(queue)
    client.channel.queue_bind(queue, f"{queue}-x")
    app = make_app(module_database.url)
    with app.producer_or_acquire() as producer, celery_postgres.bulk(producer):
        producer.publish([7], exchange=f"{queue}-x", retry=True)
        assert client.count(queue) == 1


@pytest.mark.parametrize("before_the_cut", [1, BATCH - 1, BATCH + 1])
def test_a_lost_connection_loses_no_message_of_a_bulk(
    make_app: Callable[[str], Celery], module_database: Any, proxy: Proxy, queue: str, before_the_cut: int
) -> None:
    """It is made anew, and the whole round trip goes again, not only the publish that began it."""
    app = make_app(proxy.url(module_database.tcp_url))
    with app.producer_or_acquire() as producer, celery_postgres.bulk(producer):
        for number in range(BATCH + 10):
            if number == before_the_cut:
                proxy.cut()
            app.tasks["bulk.noop"].apply_async((number,), producer=producer)
    assert numbers(module_database, queue) == list(range(BATCH + 10))


def test_a_bulk_raises_if_the_server_stays_unreachable(
    make_app: Callable[[str], Celery], module_database: Any, proxy: Proxy, queue: str
) -> None:
    app = make_app(proxy.url(module_database.tcp_url))
    app.conf.task_publish_retry_policy = {"max_retries": 1, "interval_start": 0, "interval_step": 0}

    def publish() -> None:
        with app.producer_or_acquire() as producer, celery_postgres.bulk(producer):
            app.tasks["bulk.noop"].apply_async((1,), producer=producer)
            proxy.refuse()
            proxy.cut()

    with pytest.raises(OperationalError):
        publish()
    proxy.refuse(False)
    assert numbers(module_database, queue) == []


def test_messages_of_a_bulk_have_tenants(make_app: Callable[[str], Celery], module_database: Any, queue: str) -> None:
    tenants = [str(uuid.uuid4()), None, str(uuid.uuid4())]
    app = make_app(module_database.url)
    with app.producer_or_acquire() as producer, celery_postgres.bulk(producer):
        for tenant in tenants:
            app.tasks["bulk.noop"].apply_async((1,), producer=producer, headers={"tenant_id": tenant})
    stored = (
        "SELECT CAST(message.tenant_id AS text) FROM kombu_message AS message JOIN kombu_queue AS queue"
        " ON queue.id = message.queue_id WHERE queue.name = :queue ORDER BY message.id"
    )
    assert [tenant for (tenant,) in rows(module_database.url, stored, queue=queue)] == tenants
