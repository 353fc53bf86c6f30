"""What `publishing_on` refuses: one line that says what to do, and nothing is published."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import closing
from typing import Any

import asyncpg
import psycopg
import psycopg2
import psycopg2.extras
import pytest
from celery import Celery
from psycopg.rows import dict_row
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from celery_postgres import NotPublishedError, publishing_on
from celery_postgres.broker.transaction import set_ambient
from environment.testkit.tables import rows_of


@pytest.mark.parametrize("given", [None, 7, "postgresql://host/db", object(), psycopg2, type("Connection", (), {})()])
def test_what_is_no_connection(given: Any) -> None:
    with pytest.raises(TypeError, match=r"^publishing_on takes a connection of psycopg2, .*, not [\w.-]+$"):
        publishing_on(given)


def test_what_drivers_have_beside_connections(module_database: Any) -> None:
    engine = create_engine(module_database.url, poolclass=NullPool)
    with closing(psycopg2.connect(module_database.url)) as one, closing(psycopg.connect(module_database.url)) as other:
        for given in (one.cursor(), other.cursor(), engine, sessionmaker(engine)):
            with pytest.raises(TypeError, match=r"publishing_on takes a connection of .*, not \w+\.\w+"):
                publishing_on(given)


def test_an_asynchronous_connection_needs_async_with(module_database: Any) -> None:
    engine = create_async_engine(module_database.url.replace("://", "+asyncpg://"), poolclass=NullPool)

    async def main() -> None:
        plain = await asyncpg.connect(module_database.url)
        driver = await psycopg.AsyncConnection.connect(module_database.url)
        async with engine.connect() as connection, AsyncSession(engine) as session:
            for given in (plain, driver, connection, session):
                with pytest.raises(TypeError, match="needs `async with publishing_on"), publishing_on(given):
                    pytest.fail("the block was entered")
        await plain.close()
        await driver.close()

    asyncio.run(main())


def test_a_synchronous_connection_needs_with(module_database: Any) -> None:
    engine = create_engine(module_database.url, poolclass=NullPool)

    async def main() -> None:
        with (
            closing(psycopg2.connect(module_database.url)) as old,
            closing(psycopg.connect(module_database.url)) as new,
            engine.connect() as connection,
            Session(engine) as session,
        ):
            for given in (old, new, connection, session):
                with pytest.raises(TypeError, match="needs `with publishing_on"):
                    async with publishing_on(given):
                        pytest.fail("the block was entered")

    asyncio.run(main())


def test_a_closed_connection(module_database: Any) -> None:
    async def asynchronous() -> list[Any]:
        plain = await asyncpg.connect(module_database.url)
        await plain.close()
        driver = await psycopg.AsyncConnection.connect(module_database.url)
        await driver.close()
        return [plain, driver]

    old, new = psycopg2.connect(module_database.url), psycopg.connect(module_database.url)
    alchemy = create_engine(module_database.url, poolclass=NullPool).connect()
    for one in (old, new, alchemy):
        one.close()
    for given in (old, new, alchemy, *asyncio.run(asynchronous())):
        with pytest.raises(NotPublishedError, match="is closed: give it an open one"):
            publishing_on(given)


def test_an_async_connection_that_was_not_begun(module_database: Any) -> None:
    engine = create_async_engine(module_database.url.replace("://", "+asyncpg://"), poolclass=NullPool)
    with pytest.raises(TypeError, match=r"in a block that has begun"):
        publishing_on(engine.connect())
    with pytest.raises(TypeError, match=r"give it a bind"):
        publishing_on(Session())


def test_a_connection_that_is_lost_in_the_block(app: Celery, module_database: Any, queue: str) -> None:
    app.send_task("a.task", queue=queue)

    async def main() -> None:
        for connection in (
            await asyncpg.connect(module_database.url),
            await psycopg.AsyncConnection.connect(module_database.url),
        ):
            with pytest.raises(NotPublishedError, match="can only be rolled back now"):  # noqa: PT012
                async with publishing_on(connection):
                    app.send_task("a.task", queue=queue)
                    await connection.close()

    asyncio.run(main())
    engine = create_engine(module_database.url.replace("://", "+psycopg://"), poolclass=NullPool)
    session = Session(engine)
    session.connection().connection.dbapi_connection.close()  # type: ignore[union-attr]
    with pytest.raises(NotPublishedError, match="can only be rolled back now"), publishing_on(session):
        app.send_task("a.task", queue=queue)
    session.close()
    assert rows_of(module_database.url, queue) == 1


def test_the_callers_own_factories_are_not_used(app: Celery, module_database: Any, queue: str) -> None:
    factory = psycopg2.extras.RealDictCursor
    old = psycopg2.connect(module_database.url, cursor_factory=factory)
    new = psycopg.connect(module_database.url, row_factory=dict_row, cursor_factory=psycopg.RawCursor)
    client = psycopg.connect(module_database.url, cursor_factory=psycopg.ClientCursor, prepare_threshold=None)
    registry = scoped_session(sessionmaker(create_engine(module_database.url, poolclass=NullPool)))
    for connection in (old, new, client, registry):
        with publishing_on(connection), app.producer_or_acquire() as producer:
            app.send_task("a.task", queue=queue, producer=producer)
        connection.commit()
        connection.close()
    assert rows_of(module_database.url, queue) == 4


def test_pipeline_mode(app: Celery, module_database: Any, queue: str) -> None:
    with psycopg.connect(module_database.url) as connection, connection.pipeline():
        connection.execute("SELECT 1")
        with publishing_on(connection):
            app.send_task("a.task", queue=queue)
            app.send_task("a.task", queue=queue)
        connection.rollback()
        with publishing_on(connection):
            app.send_task("a.task", queue=queue)
        with pytest.raises(psycopg.errors.DivisionByZero), connection.transaction():  # noqa: PT012
            with publishing_on(connection):
                app.send_task("a.task", queue=queue)
            connection.execute("SELECT 1 / 0")
    assert rows_of(module_database.url, queue) == 1

    async def main() -> None:
        async with await psycopg.AsyncConnection.connect(module_database.url) as connection, connection.pipeline():
            async with publishing_on(connection):
                await connection.execute("SELECT 1")
                app.send_task("a.task", queue=queue)
            with pytest.raises(psycopg.errors.DivisionByZero):  # noqa: PT012
                async with connection.transaction():
                    async with publishing_on(connection):
                        app.send_task("a.task", queue=queue)
                    await connection.execute("SELECT 1 / 0")

    asyncio.run(main())
    assert rows_of(module_database.url, queue) == 2


def test_an_ambient_transaction_that_has_ended(app: Celery, module_database: Any, queue: str) -> None:
    with closing(psycopg2.connect(module_database.url)) as connection:
        found: list[Any] = [connection]
        set_ambient(lambda dsn: found[0])
        try:
            with app.producer_or_acquire() as producer:
                channel = producer.channel
                batch = channel.create_publish_batch(10)
                batch.publish(channel.prepare_message("x"), exchange="", routing_key=queue)
            found[0] = None
            with pytest.raises(NotPublishedError, match="has ended"):
                batch.flush()
        finally:
            set_ambient(None)


def test_no_driver_of_a_caller_is_imported_before_it_is_needed() -> None:
    program = (
        "import sys, celery_postgres, psycopg2\n"
        "loaded = {'psycopg', 'asyncpg', 'django.db', 'sqlalchemy', 'asyncio'} & set(sys.modules)\n"
        "print(sorted(loaded))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
