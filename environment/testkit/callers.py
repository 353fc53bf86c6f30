"""Callers with a transaction of their own, one for each kind of connection that `publishing_on` takes, in one form."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import psycopg
import psycopg2
import sqlalchemy
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from celery_postgres import publishing_on
from environment.testkit.tables import scalar


class Undone(Exception):  # noqa: N818  nothing went wrong
    """Raised by a test to leave a savepoint, which it is to roll back."""


class Caller:
    """A connection with a transaction.

    Attributes:
        given: what `publishing_on` is given.
        waits: whether the block is `async with`.
    """

    waits = False

    def __init__(self, given: Any) -> None:
        self.given = given

    @contextlib.asynccontextmanager
    async def publishing(self, *, notify: bool = True) -> AsyncIterator[None]:
        if self.waits:
            async with publishing_on(self.given, notify=notify):
                yield
        else:
            with publishing_on(self.given, notify=notify):
                yield

    @contextlib.asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """A savepoint, which an error in the block rolls back to; `Undone` ends here."""
        await self.execute("SAVEPOINT of_the_caller")
        try:
            yield
        except Exception as error:
            await self.execute("ROLLBACK TO SAVEPOINT of_the_caller")
            if not isinstance(error, Undone):
                raise

    async def execute(self, sql: str) -> None:
        """With a cursor of a driver; the other kinds do otherwise."""
        self.given.cursor().execute(sql)

    async def commit(self) -> None:
        self.given.commit()

    async def rollback(self) -> None:
        self.given.rollback()

    async def close(self) -> None:
        self.given.close()


class Blocks(Caller):
    """psycopg 3 in autocommit, with transaction blocks."""

    def __init__(self, given: Any) -> None:
        super().__init__(given)
        self.block = given.transaction()
        self.block.__enter__()

    @contextlib.asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        with contextlib.suppress(Undone), self.given.transaction():
            yield

    async def commit(self) -> None:
        self.block.__exit__(None, None, None)

    async def rollback(self) -> None:
        error = psycopg.Rollback()
        self.block.__exit__(type(error), error, None)


class Alchemy(Caller):
    """An SQLAlchemy connection or session."""

    @contextlib.asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        with contextlib.suppress(Undone), self.given.begin_nested():
            yield

    async def execute(self, sql: str) -> None:
        self.given.execute(text(sql))


class AsyncAlchemy(Caller):
    """An asynchronous SQLAlchemy connection or session."""

    waits = True

    @contextlib.asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        with contextlib.suppress(Undone):
            async with self.given.begin_nested():
                yield

    async def execute(self, sql: str) -> None:
        await self.given.execute(text(sql))

    async def commit(self) -> None:
        await self.given.commit()

    async def rollback(self) -> None:
        await self.given.rollback()

    async def close(self) -> None:
        await self.given.close()


class AsyncPsycopg(AsyncAlchemy):
    @contextlib.asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        with contextlib.suppress(Undone):
            async with self.given.transaction():
                yield

    async def execute(self, sql: str) -> None:
        await self.given.execute(sql)


class Asyncpg(AsyncPsycopg):
    async def begin(self) -> None:
        self.block = self.given.transaction()
        await self.block.start()

    async def commit(self) -> None:
        await self.block.commit()

    async def rollback(self) -> None:
        await self.block.rollback()


def _dialect(url: str, driver: str) -> str:
    return url.replace("postgresql://", f"postgresql+{driver}://")


async def _psycopg2(url: str) -> Caller:
    return Caller(psycopg2.connect(url))


async def _psycopg(url: str) -> Caller:
    return Caller(psycopg.connect(url))


async def _blocks(url: str) -> Caller:
    return Blocks(psycopg.connect(url, autocommit=True))


def _alchemy(driver: str, kind: Callable[[Any], Any]) -> Callable[[str], Any]:
    async def make(url: str) -> Caller:
        return Alchemy(kind(create_engine(_dialect(url, driver), poolclass=NullPool, future=True)))

    return make


def _session(engine: Any) -> Session:
    return Session(engine, future=True)


async def _begun(caller: Caller) -> Caller:
    """The end of an asynchronous block needs a transaction."""
    await caller.execute("SELECT 1")
    return caller


async def _async_psycopg(url: str) -> Caller:
    return await _begun(AsyncPsycopg(await psycopg.AsyncConnection.connect(url)))


async def _asyncpg(url: str) -> Caller:
    caller = Asyncpg(await asyncpg.connect(url))
    await caller.begin()
    return caller


def _async_alchemy(driver: str, *, session: bool) -> Callable[[str], Any]:
    async def make(url: str) -> Caller:
        engine = create_async_engine(_dialect(url, driver), poolclass=NullPool)
        return await _begun(AsyncAlchemy(AsyncSession(engine) if session else await engine.connect()))

    return make


KINDS: dict[str, Callable[[str], Any]] = {
    "psycopg2": _psycopg2,
    "psycopg": _psycopg,
    "psycopg-blocks": _blocks,
    "connection-psycopg2": _alchemy("psycopg2", lambda engine: engine.connect()),
    "connection-psycopg": _alchemy("psycopg", lambda engine: engine.connect()),
    "session-psycopg2": _alchemy("psycopg2", _session),
    "session-psycopg": _alchemy("psycopg", _session),
    "async-psycopg": _async_psycopg,
    "asyncpg": _asyncpg,
    "async-connection-psycopg": _async_alchemy("psycopg", session=False),
    "async-connection-asyncpg": _async_alchemy("asyncpg", session=False),
    "async-session-psycopg": _async_alchemy("psycopg", session=True),
    "async-session-asyncpg": _async_alchemy("asyncpg", session=True),
}
if sqlalchemy.__version__.startswith("1."):  # it does not know psycopg 3
    KINDS = {kind: make for kind, make in KINDS.items() if not re.search(r"(connection|session)-psycopg$", kind)}


@contextlib.asynccontextmanager
async def calling(kind: str, url: str) -> AsyncIterator[Caller]:
    """A caller of this kind, with a transaction in the database."""
    caller: Caller = await KINDS[kind](url)
    try:
        yield caller
    finally:
        await caller.close()


def sent_ids(url: str, queue: str) -> list[str]:
    """What the fixture `send` has sent to the queue and others see, in its order."""
    statement = "SELECT coalesce(array_agg(task_id ORDER BY id), '{}') FROM kombu_message WHERE task_id LIKE :ids"
    return [one.removeprefix(f"{queue}-") for one in scalar(url, statement, ids=f"{queue}-%")]
