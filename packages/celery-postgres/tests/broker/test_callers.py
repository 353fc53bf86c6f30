"""What holds for every kind of connection that `publishing_on` takes; Django's are in `test_callers_django.py`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery
from kombu import Exchange, Producer, Queue
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

import celery_postgres
from celery_postgres import NotPublishedError
from celery_postgres.database.session import Session as BrokerSession
from environment.testkit.callers import KINDS, Caller, Undone, calling
from environment.testkit.client import Client
from environment.testkit.tables import rows_of, run, scalar
from environment.waiting import wait_until

Steps = Callable[[Caller], Coroutine[Any, Any, None]]
Act = Callable[[Steps], None]

TENANT = "7d444840-9dc0-11d1-b245-5ffdce74fad2"


@pytest.fixture(params=KINDS)
def act(request: pytest.FixtureRequest, module_database: Any) -> Act:
    """``act(steps)``: runs ``await steps(caller)`` with a caller of each kind."""

    async def acting(steps: Steps) -> None:
        async with calling(request.param, module_database.url) as caller:
            await steps(caller)

    return lambda steps: asyncio.run(acting(steps))


@pytest.fixture(scope="module")
def refusing(module_database: Any) -> None:
    """The database refuses messages whose task id begins with `refused`."""
    run(
        module_database.url,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION USING MESSAGE = 'refused by a test', ERRCODE = '23514'; END $$",
    )
    run(
        module_database.url,
        "CREATE TRIGGER refuse BEFORE INSERT ON kombu_message FOR EACH ROW WHEN (NEW.task_id LIKE 'refused%')"
        " EXECUTE FUNCTION refuse()",
    )


def test_messages_are_visible_after_the_commit_in_their_order(
    act: Act, app: Celery, module_database: Any, queue: str
) -> None:
    async def steps(caller: Caller) -> None:
        async with caller.publishing():
            for number in range(1000):
                app.send_task("a.task", (number,), queue=queue, task_id=f"{queue}-{number:04}")
        assert rows_of(module_database.url, queue) == 0
        await caller.commit()

    act(steps)
    ids = "SELECT array_agg(task_id ORDER BY m.id) FROM kombu_message AS m WHERE task_id LIKE :ids"
    assert scalar(module_database.url, ids, ids=f"{queue}-%") == [f"{queue}-{number:04}" for number in range(1000)]


def test_a_rollback_removes_them_with_the_callers_rows(act: Act, app: Celery, module_database: Any, queue: str) -> None:
    app.send_task("a.task", queue=queue)

    async def steps(caller: Caller) -> None:
        await caller.execute("CREATE TABLE of_the_caller ()")
        async with caller.publishing():
            app.send_task("a.task", queue=queue)
        await caller.rollback()

    act(steps)
    assert rows_of(module_database.url, queue) == 1
    assert scalar(module_database.url, "SELECT to_regclass('of_the_caller')") is None


def test_an_error_in_the_block_publishes_nothing(act: Act, app: Celery, module_database: Any, queue: str) -> None:
    async def steps(caller: Caller) -> None:
        with contextlib.suppress(Undone):
            async with caller.savepoint(), caller.publishing():
                app.send_task("a.task", queue=queue)
                raise Undone
        await caller.commit()

    act(steps)
    assert rows_of(module_database.url, queue) == 0


def test_only_the_messages_of_a_savepoint_are_undone(act: Act, app: Celery, module_database: Any, queue: str) -> None:
    async def steps(caller: Caller) -> None:
        async with caller.publishing():
            app.send_task("a.task", queue=queue, task_id=f"{queue}-1")
        async with caller.savepoint():
            async with caller.publishing():
                app.send_task("a.task", queue=queue, task_id=f"{queue}-2")
            raise Undone
        async with caller.publishing():
            app.send_task("a.task", queue=queue, task_id=f"{queue}-3")
        await caller.commit()

    act(steps)
    ids = "SELECT array_agg(task_id ORDER BY m.id) FROM kombu_message AS m WHERE task_id LIKE :ids"
    assert scalar(module_database.url, ids, ids=f"{queue}-%") == [f"{queue}-1", f"{queue}-3"]


@pytest.mark.usefixtures("refusing")
def test_a_refused_message_leaves_the_transaction_usable(
    act: Act, app: Celery, module_database: Any, queue: str
) -> None:
    """Of itself with `async with`; with `with` after a rollback to the caller's own savepoint."""

    async def steps(caller: Caller) -> None:
        own = contextlib.nullcontext() if caller.waits else caller.savepoint()
        with pytest.raises(NotPublishedError, match="refused by a test") as caught:  # noqa: PT012
            async with own, caller.publishing():
                app.send_task("a.task", ("s3cret",), queue=queue, task_id=f"accepted-{queue}")
                app.send_task("a.task", ("s3cret",), queue=queue, task_id=f"refused-{queue}")
        assert caught.value.sqlstate == "23514"
        assert caught.value.lasting
        assert "s3cret" not in repr(caught.value)
        assert caught.value.__suppress_context__
        async with caller.publishing():
            app.send_task("a.task", queue=queue)
        await caller.commit()

    act(steps)
    assert rows_of(module_database.url, queue) == 1


def test_a_failed_transaction_publishes_nothing(act: Act, app: Celery, module_database: Any, queue: str) -> None:
    async def steps(caller: Caller) -> None:
        with pytest.raises(Exception, match="division by zero"):
            await caller.execute("SELECT 1 / 0")
        with pytest.raises(NotPublishedError, match="can only be rolled back") as caught:
            async with caller.publishing():
                app.send_task("a.task", ("s3cret",), queue=queue)
        assert caught.value.sqlstate == "25P02"
        await caller.rollback()

    act(steps)
    assert rows_of(module_database.url, queue) == 0


def test_the_commit_notifies_consumers_and_nothing_before_it(
    act: Act, app: Celery, client: Client, queue: str, listener: Callable[[str], BrokerSession]
) -> None:
    client.declare(Queue(queue))
    heard = listener(queue)

    async def steps(caller: Caller) -> None:
        async with caller.publishing():
            app.send_task("a.task", queue=queue)
            app.send_task("a.task", queue=queue)
        assert heard.notifications() == []
        await caller.commit()

    act(steps)
    wait_until(heard.notifications, 40, "the notification")


def test_without_notify_no_consumer_is_notified(
    act: Act, app: Celery, client: Client, queue: str, listener: Callable[[str], BrokerSession], module_database: Any
) -> None:
    client.declare(Queue(queue))
    heard = listener(queue)

    async def steps(caller: Caller) -> None:
        async with caller.publishing(notify=False):
            app.send_task("a.task", queue=queue)
            app.send_task("a.task", queue=queue)
        await caller.commit()

    act(steps)
    assert rows_of(module_database.url, queue) == 2
    # Notifications come in the order of commits.
    last = (
        "SELECT count(pg_notify('kombu_' || consumer_id, 'last')) FROM kombu_subscription AS s"
        " JOIN kombu_queue AS q ON q.id = s.queue_id WHERE q.name = :name"
    )
    with create_engine(module_database.url, poolclass=NullPool).begin() as connection:
        assert connection.execute(text(last), {"name": queue}).scalar_one() == 1
    assert wait_until(heard.notifications, 40, "the last notification") == ["last"]


def test_what_is_hard_to_store_arrives(act: Act, app: Celery, module_database: Any) -> None:
    name = "Aufträge/日本語 %s :x $1 'q' \\"
    argument = "\0 ü \U0001f600 %(x)s :y $2 " + "x" * 3_000_000
    before = rows_of(module_database.url, name)
    later = datetime.now(UTC) + timedelta(hours=1)

    async def steps(caller: Caller) -> None:
        async with caller.publishing():
            app.send_task(
                "a.task",
                (argument,),
                queue=name,
                priority=7,
                eta=later,
                headers={"tenant_id": "7d444840-9dc0-11d1-b245-5ffdce74fad2"},
            )
            app.send_task("a.task", (argument,), queue=name, expires=60)
        await caller.commit()

    act(steps)
    assert rows_of(module_database.url, name) == before + 2
    found = (
        "SELECT count(*) FROM kombu_message WHERE length(payload) > 3000000 AND priority = 7 AND available_at = :eta"
    )
    assert scalar(module_database.url, found, eta=later) == 1


@pytest.mark.parametrize("kind", ["direct", "topic", "fanout"])
def test_a_message_to_a_named_exchange_is_part_of_it(
    act: Act, client: Client, module_database: Any, queue: str, kind: str
) -> None:
    exchange = Exchange(f"x-{queue}", type=kind)
    client.declare(Queue(queue, exchange=exchange, routing_key="a.key"))

    async def steps(caller: Caller) -> None:
        async with caller.publishing():
            for _ in range(2):
                Producer(client.channel).publish("x", exchange=exchange.name, routing_key="a.key")
        assert rows_of(module_database.url, queue) == 0
        await caller.commit()

    act(steps)
    assert rows_of(module_database.url, queue) == 2


def test_a_queue_that_does_not_exist_is_declared(act: Act, app: Celery, module_database: Any, queue: str) -> None:
    async def steps(caller: Caller) -> None:
        async with caller.publishing():
            with app.producer_or_acquire() as producer:
                channel = producer.channel
                Producer(channel, auto_declare=False).publish("x", routing_key=queue)
                Producer(channel, auto_declare=False).publish("x", routing_key=queue)
        await caller.commit()

    act(steps)
    assert rows_of(module_database.url, queue) == 2


def test_a_bulk_within_the_block_is_part_of_it(act: Act, app: Celery, module_database: Any, queue: str) -> None:
    async def steps(caller: Caller) -> None:
        async with caller.publishing():
            with app.producer_or_acquire() as producer, celery_postgres.bulk(producer):
                for _ in range(600):
                    app.send_task("a.task", queue=queue, producer=producer)
        assert rows_of(module_database.url, queue) == 0
        await caller.commit()

    act(steps)
    assert rows_of(module_database.url, queue) == 600
