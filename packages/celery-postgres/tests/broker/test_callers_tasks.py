"""`publishing_on` in a program with asyncio: what belongs to a block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.pool import NullPool

from celery_postgres import publishing_on
from environment.testkit.callers import sent_ids


def test_other_tasks_and_threads_publish_at_once(
    send: Callable[[str], None], async_engine: AsyncEngine, module_database: Any, queue: str
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
        async with async_engine.connect() as connection:
            await connection.begin()
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
            assert "mine" not in sent_ids(module_database.url, queue)
            await connection.rollback()
        await task
        send("after")

    asyncio.run(main())
    outside = ["other", "child", "inheriting thread", "thread", "callback", "after"]
    assert sent_ids(module_database.url, queue) == outside


def test_two_tasks_have_blocks_at_the_same_time(
    send: Callable[[str], None], async_engine: AsyncEngine, module_database: Any, queue: str
) -> None:
    async def one(name: str, barrier: asyncio.Barrier, *, commits: bool) -> None:
        async with async_engine.connect() as connection:
            await connection.begin()
            async with publishing_on(connection):
                send(name)
                await barrier.wait()
                send(f"{name} again")
            await (connection.commit() if commits else connection.rollback())

    async def main() -> None:
        barrier = asyncio.Barrier(2)
        await asyncio.gather(one("a", barrier, commits=True), one("b", barrier, commits=False))

    asyncio.run(main())
    assert sent_ids(module_database.url, queue) == ["a", "a again"]


def test_two_tasks_share_one_object(send: Callable[[str], None], module_database: Any, queue: str) -> None:
    """The end of one block is not that of the other."""

    async def main() -> None:
        connection = await asyncpg.connect(module_database.url)
        shared = publishing_on(connection)
        first, second = asyncio.Event(), asyncio.Event()

        async def ends_first() -> None:
            async with shared:
                send("first")
                await second.wait()
            first.set()

        async def ends_second() -> None:
            async with shared:
                second.set()
                await first.wait()
                send("second")

        async with connection.transaction():
            await asyncio.gather(ends_first(), ends_second())
            assert sent_ids(module_database.url, queue) == []
        await connection.close()

    asyncio.run(main())
    assert sent_ids(module_database.url, queue) == ["first", "second"]


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
    assert sent_ids(module_database.url, queue) == ["other"]


def test_an_event_loop_within_a_block_is_part_of_it(
    send: Callable[[str], None], module_database: Any, queue: str
) -> None:
    async def main() -> None:
        send("main")
        await asyncio.gather(asyncio.create_task(child()))

    async def child() -> None:
        send("child")

    for end in ("rollback", "commit"):
        with psycopg.connect(module_database.url) as connection:
            with publishing_on(connection):
                asyncio.run(main())
            getattr(connection, end)()
    assert sent_ids(module_database.url, queue) == ["main", "child"]


def test_blocks_nest_and_the_innermost_counts(
    send: Callable[[str], None], async_engine: AsyncEngine, module_database: Any, queue: str
) -> None:
    async def main() -> None:
        async with async_engine.connect() as outer, publishing_on(outer):
            send("outer")
            async with async_engine.begin() as inner, publishing_on(inner):
                send("inner")
            await outer.execute(text("SELECT 1"))
            send("outer again")
        # The end of the connection rolled back what the block had written.

    asyncio.run(main())
    assert sent_ids(module_database.url, queue) == ["inner"]


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
    assert sent_ids(module_database.url, queue) == ["one", "two"]


def test_a_scoped_session_is_taken(
    send: Callable[[str], None], async_engine: AsyncEngine, module_database: Any, queue: str
) -> None:
    async def main() -> None:
        scoped = async_scoped_session(async_sessionmaker(async_engine), asyncio.current_task)
        async with publishing_on(scoped):
            await scoped.execute(text("SELECT 1"))
            send("one")
        await scoped.commit()
        await scoped.remove()

    asyncio.run(main())
    assert sent_ids(module_database.url, queue) == ["one"]


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
    assert sent_ids(module_database.url, queue) == ["one"]
