"""`async with publishing_on(connection)`: what belongs to the block, and what happens when it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import asyncpg
import psycopg
import pytest
from celery import Celery
from kombu import Producer
from sqlalchemy import text
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.pool import NullPool

from celery_postgres import NotPublishedError, publishing_on
from celery_postgres.broker import callers_transaction
from environment.testkit.client import Client
from environment.testkit.tables import rows_of, run, scalar

LAG = """
    INSERT INTO kombu_message (id, visible, payload, version, queue_id)
    SELECT n, true, '', 1, -1 FROM generate_series(1, 3000) n ON CONFLICT DO NOTHING
"""


@pytest.fixture
def app(module_database: Any) -> Iterator[Celery]:
    """An application that only publishes."""
    app = Celery("publisher", broker="sqla+" + module_database.url, set_as_current=False)
    yield app
    app.close()


@pytest.fixture
def engine(module_database: Any) -> AsyncEngine:
    return create_async_engine(
        module_database.url.replace("postgresql://", "postgresql+asyncpg://"), poolclass=NullPool
    )


def ids(url: str, queue: str) -> list[str]:
    statement = "SELECT coalesce(array_agg(task_id ORDER BY id), '{}') FROM kombu_message WHERE task_id LIKE :ids"
    return [one.removeprefix(f"{queue}-") for one in scalar(url, statement, ids=f"{queue}-%")]


@pytest.fixture
def send(app: Celery, queue: str) -> Callable[[str], None]:
    return lambda name: app.send_task("a.task", queue=queue, task_id=f"{queue}-{name}")


# -- what belongs to the block


def test_other_tasks_and_threads_publish_at_once(
    send: Callable[[str], None], engine: AsyncEngine, module_database: Any, queue: str
) -> None:
    """Also those that were started in the block and inherit its context."""

    async def main() -> None:
        begun, done = asyncio.Event(), asyncio.Event()

        async def other() -> None:
            await begun.wait()
            send("other")
            done.set()

        async def child() -> None:
            send("child")

        task = asyncio.create_task(other())
        async with engine.connect() as connection:
            async with publishing_on(connection):
                send("mine")
                begun.set()
                await done.wait()
                await asyncio.create_task(child())
                await asyncio.to_thread(send, "inheriting thread")
                thread = threading.Thread(target=send, args=["thread"])
                thread.start()
                thread.join()
                late = asyncio.create_task(asyncio.sleep(0))
                late.add_done_callback(lambda _: send("callback"))
                await late
                await asyncio.sleep(0)
            assert "mine" not in ids(module_database.url, queue)
            await connection.rollback()
        await task
        send("after")

    asyncio.run(main())
    outside = ["other", "child", "inheriting thread", "thread", "callback", "after"]
    assert ids(module_database.url, queue) == outside


def test_two_tasks_have_blocks_at_the_same_time(
    send: Callable[[str], None], engine: AsyncEngine, module_database: Any, queue: str
) -> None:
    async def one(name: str, barrier: asyncio.Barrier, *, commits: bool) -> None:
        async with engine.connect() as connection:
            async with publishing_on(connection):
                send(name)
                await barrier.wait()
                send(f"{name} again")
            await (connection.commit() if commits else connection.rollback())

    async def main() -> None:
        barrier = asyncio.Barrier(2)
        await asyncio.gather(one("a", barrier, commits=True), one("b", barrier, commits=False))

    asyncio.run(main())
    assert ids(module_database.url, queue) == ["a", "a again"]


def test_a_synchronous_block_in_a_task_is_that_tasks_alone(
    send: Callable[[str], None], module_database: Any, queue: str
) -> None:
    async def main() -> None:
        with psycopg.connect(module_database.url) as connection:
            with publishing_on(connection):
                send("mine")
                other = asyncio.create_task(asyncio.to_thread(send, "other"))
                await other
            connection.rollback()

    asyncio.run(main())
    assert ids(module_database.url, queue) == ["other"]


def test_blocks_nest_and_the_innermost_counts(
    send: Callable[[str], None], engine: AsyncEngine, module_database: Any, queue: str
) -> None:
    async def main() -> None:
        async with engine.connect() as outer, publishing_on(outer):
            send("outer")
            async with engine.begin() as inner, publishing_on(inner):
                send("inner")
            await outer.execute(text("SELECT 1"))
            send("outer again")
        # The end of the connection rolled back what the block had written.

    asyncio.run(main())
    assert ids(module_database.url, queue) == ["inner"]


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_within_run_sync_the_block_is_synchronous(
    send: Callable[[str], None], module_database: Any, queue: str, driver: str
) -> None:
    engine = create_async_engine(
        module_database.url.replace("postgresql://", f"postgresql+{driver}://"), poolclass=NullPool
    )

    def publish(target: Any) -> None:
        with publishing_on(target):
            send("one")
            send("two")

    async def main() -> None:
        async with engine.begin() as connection:
            await connection.run_sync(publish)
        async with AsyncSession(engine) as session:
            await session.run_sync(publish)
            await session.rollback()

    asyncio.run(main())
    assert ids(module_database.url, queue) == ["one", "two"]


def test_a_scoped_session_is_taken(
    send: Callable[[str], None], engine: AsyncEngine, module_database: Any, queue: str
) -> None:
    async def main() -> None:
        scoped = async_scoped_session(async_sessionmaker(engine), asyncio.current_task)
        async with publishing_on(scoped):
            send("one")
        await scoped.commit()
        await scoped.remove()

    asyncio.run(main())
    assert ids(module_database.url, queue) == ["one"]


def test_a_connection_of_a_pool_is_taken(send: Callable[[str], None], module_database: Any, queue: str) -> None:
    async def main() -> None:
        async with (
            asyncpg.create_pool(module_database.url, min_size=1, max_size=1) as pool,
            pool.acquire() as connection,
            connection.transaction(),
            publishing_on(connection),
        ):
            send("one")

    asyncio.run(main())
    assert ids(module_database.url, queue) == ["one"]


# -- the end of the block


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
        assert ids(module_database.url, queue) == []
        async with publishing_on(connection):
            for name in "abcde":
                send(name)
        assert ids(module_database.url, queue) == list("abcde")
        await connection.close()

    asyncio.run(main())


def test_a_cancelled_block_publishes_nothing(
    send: Callable[[str], None], engine: AsyncEngine, module_database: Any, queue: str
) -> None:
    async def main() -> None:
        async def publish() -> None:
            async with engine.begin() as connection, publishing_on(connection):
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
    assert ids(module_database.url, queue) == []


def test_an_empty_block_executes_nothing(module_database: Any) -> None:
    async def main() -> None:
        connection = await psycopg.AsyncConnection.connect(module_database.url)
        async with publishing_on(connection):
            pass
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        await connection.close()

    asyncio.run(main())


def test_a_snapshot_that_is_older_than_the_queue_raises(
    app: Celery, engine: AsyncEngine, module_database: Any, queue: str
) -> None:
    async def main() -> None:
        async with engine.connect() as connection:
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
    connect: Callable[..., Client], engine: AsyncEngine, module_database: Any, queue: str
) -> None:
    client = connect()
    client.channel.deadletter_queue = queue

    async def main() -> None:
        async with engine.begin() as connection, publishing_on(connection):
            for _ in range(2):
                Producer(client.channel, auto_declare=False).publish("x", exchange=f"x-{queue}", routing_key="a.key")

    asyncio.run(main())
    assert rows_of(module_database.url, queue) == 2
