"""`async with publishing_on(connection)`: what happens when the block ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import psycopg
import pytest
from celery import Celery
from kombu import Exchange, Producer, Queue
from sqlalchemy import text
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    create_async_engine,
)
from sqlalchemy.pool import NullPool

from celery_postgres import NotPublishedError, publishing_on
from celery_postgres.broker import callers_transaction
from environment.testkit.callers import KINDS, calling, sent_ids
from environment.testkit.client import Client
from environment.testkit.tables import rows_of, run

LAG = """
    INSERT INTO kombu_message (id, visible, payload, version, queue_id)
    SELECT n, true, '', 1, -1 FROM generate_series(1, 3000) n ON CONFLICT DO NOTHING
"""


async def _asyncpg(url: str) -> Any:
    return await asyncpg.connect(url)


async def _psycopg(url: str) -> Any:
    return await psycopg.AsyncConnection.connect(url, autocommit=True)


async def _alchemy(driver: str, url: str) -> Any:
    engine = create_async_engine(url.replace("postgresql://", f"postgresql+{driver}://"), poolclass=NullPool)
    connection = await engine.connect()
    return await connection.execution_options(isolation_level="AUTOCOMMIT")


AUTOCOMMIT: dict[str, Callable[[str], Awaitable[Any]]] = {
    "asyncpg": _asyncpg,
    "psycopg": _psycopg,
    "alchemy-asyncpg": lambda url: _alchemy("asyncpg", url),
    "alchemy-psycopg": lambda url: _alchemy("psycopg", url),
}


@pytest.mark.parametrize("kind", AUTOCOMMIT)
def test_in_autocommit_a_block_is_a_transaction(
    send: Callable[[str], None], module_database: Any, queue: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callers_transaction, "MESSAGES", 2)
    run(
        module_database.url,
        "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'refused by a test'; END $$",
        "CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON kombu_message FOR EACH ROW"
        " WHEN (NEW.task_id LIKE '%-refused') EXECUTE FUNCTION refuse()",
    )

    async def main() -> None:
        connection = await AUTOCOMMIT[kind](module_database.url)
        with pytest.raises(NotPublishedError, match="refused by a test"):  # noqa: PT012
            async with publishing_on(connection):
                for name in ("1", "2", "3", "4", "refused"):
                    send(name)
        assert sent_ids(module_database.url, queue) == []
        async with publishing_on(connection):
            for name in "abcde":
                send(name)
        assert sent_ids(module_database.url, queue) == list("abcde")
        await connection.close()

    asyncio.run(main())


def test_a_cancelled_block_publishes_nothing(
    send: Callable[[str], None], async_engine: AsyncEngine, module_database: Any, queue: str
) -> None:
    async def main() -> None:
        async def publish() -> None:
            async with async_engine.begin() as connection, publishing_on(connection):
                send("cancelled")
                await asyncio.Event().wait()

        task = asyncio.create_task(publish())
        await asyncio.sleep(0)
        while not task.cancelling():
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert sent_ids(module_database.url, queue) == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "async" in kind])
def test_a_transaction_that_ends_within_the_block_is_no_place_for_its_messages(
    send: Callable[[str], None], module_database: Any, queue: str, kind: str
) -> None:
    """They would be in the next one, which may never be committed."""

    async def main() -> None:
        async with calling(kind, module_database.url) as caller:
            with pytest.raises(NotPublishedError, match="ended within the block"):  # noqa: PT012
                async with caller.publishing():
                    send("before")
                    await caller.commit()
        if kind == "asyncpg":
            return  # outside of a transaction it is in autocommit
        async with calling(kind, module_database.url) as caller:
            with pytest.raises(NotPublishedError, match="no transaction is open"):  # noqa: PT012
                async with caller.publishing():
                    await caller.commit()
                    send("after")

    asyncio.run(main())
    assert sent_ids(module_database.url, queue) == []


def test_an_empty_block_executes_nothing(module_database: Any) -> None:
    async def main() -> None:
        connection = await psycopg.AsyncConnection.connect(module_database.url)
        async with publishing_on(connection):
            pass
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        await connection.close()

    asyncio.run(main())


def test_a_snapshot_that_is_older_than_the_queue_raises(
    app: Celery, async_engine: AsyncEngine, module_database: Any, queue: str
) -> None:
    async def main() -> None:
        async with async_engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ")
            await connection.execute(text("SELECT 1"))
            with pytest.raises(NotPublishedError, match="older") as caught:
                async with publishing_on(connection):
                    Producer(app.pool.acquire().default_channel, auto_declare=False).publish("x", routing_key=queue)
            assert caught.value.sqlstate == "40001"
            assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1

    asyncio.run(main())
    assert rows_of(module_database.url, queue) == 0


def test_a_lagging_sequence_is_advanced_and_the_next_block_succeeds(
    send: Callable[[str], None], plain_database: Any, queue: str
) -> None:
    app = Celery("publisher", broker="sqla+" + plain_database.url, set_as_current=False)
    app.send_task("a.task", queue=queue)
    run(plain_database.url, LAG)

    async def main() -> None:
        connection = await asyncpg.connect(plain_database.url)
        async with connection.transaction():
            with pytest.raises(NotPublishedError, match="publish again") as caught:
                async with publishing_on(connection):
                    app.send_task("a.task", queue=queue)
            assert caught.value.sqlstate == "40001"
            async with publishing_on(connection):
                app.send_task("a.task", queue=queue)
        await connection.close()

    asyncio.run(main())
    app.close()
    assert rows_of(plain_database.url, queue) == 2


def test_messages_of_an_unbound_exchange_go_to_the_dead_letter_queue(
    connect: Callable[..., Client], async_engine: AsyncEngine, module_database: Any, queue: str
) -> None:
    client = connect()
    client.channel.deadletter_queue = queue

    async def main() -> None:
        async with async_engine.begin() as connection, publishing_on(connection):
            for _ in range(2):
                Producer(client.channel, auto_declare=False).publish("x", exchange=f"x-{queue}", routing_key="a.key")

    asyncio.run(main())
    assert rows_of(module_database.url, queue) == 2


def test_an_event_of_sending_is_part_of_the_transaction(
    connect: Callable[..., Client], app: Celery, async_engine: AsyncEngine, module_database: Any, queue: str
) -> None:
    app.conf.task_send_sent_event = True
    connect().declare(Queue(f"events-{queue}", Exchange("celeryev", type="topic"), routing_key="task.#"))

    async def main(end: str) -> None:
        async with async_engine.connect() as connection:
            await connection.begin()
            async with publishing_on(connection):
                app.send_task("a.task", queue=queue)
            await getattr(connection, end)()

    for end, count in (("rollback", 0), ("commit", 1)):
        asyncio.run(main(end))
        assert rows_of(module_database.url, queue) == count
        assert rows_of(module_database.url, f"events-{queue}") == count
