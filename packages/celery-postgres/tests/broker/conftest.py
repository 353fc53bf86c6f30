"""The broker as programs see it: clients in this process, workers of a probe program in their own."""

from __future__ import annotations

import io
import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
from celery import Celery

from celery_postgres import operations
from celery_postgres.database.address import parsed
from celery_postgres.database.message_store import MessageStore
from celery_postgres.database.pool import Sessions
from celery_postgres.database.session import Session
from celery_postgres.operations import Operations
from celery_postgres.tool import cli
from environment.testkit.client import Client
from environment.testkit.queue_tool import Tool

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine


@pytest.fixture(scope="module", autouse=True)
def _installed(installed: None) -> None:
    """Every module of this folder is a program that has called ``install()``."""


# -- clients in this process


@pytest.fixture
def connect(module_database: Any) -> Iterator[Callable[..., Client]]:
    """``connect()``: a Kombu client on the module's migrated database, or, with a URL, on another."""
    clients: list[Client] = []

    def make(url: str | None = None, **options: Any) -> Client:
        clients.append(Client(url or module_database.url, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(connect: Callable[..., Client]) -> Client:
    """One Kombu client on the module's database."""
    return connect()


@pytest.fixture
def broker(plain_database: Any) -> Iterator[Operations]:
    """The operations on a database of its own."""
    with operations.connect(plain_database.url) as broker:
        yield broker


@pytest.fixture
def messages(plain_database: Any) -> MessageStore:
    """The messages of the same database."""
    return MessageStore(Sessions(parsed(plain_database.url, "broker")))


@pytest.fixture
def queue() -> str:
    """The name of a queue that nothing else uses."""
    return f"q-{secrets.token_hex(4)}"


@pytest.fixture
def make_app() -> Iterator[Callable[[str], Celery]]:
    """``make_app(url)``: an application without a task, on that database."""
    with ExitStack() as apps:
        yield lambda url: apps.enter_context(Celery("publisher", broker="sqla+" + url, set_as_current=False))


@pytest.fixture
def app(make_app: Callable[[str], Celery], module_database: Any) -> Celery:
    """An application that only publishes."""
    return make_app(module_database.url)


@pytest.fixture
def send(app: Celery, queue: str) -> Callable[[str], None]:
    """``send(name)``: publishes a task whose id is the queue's name, a hyphen, and this."""
    return lambda name: app.send_task("a.task", queue=queue, task_id=f"{queue}-{name}")


@pytest.fixture
def async_engine(module_database: Any) -> AsyncEngine:
    from sqlalchemy.ext.asyncio import create_async_engine  # not everywhere installed
    from sqlalchemy.pool import NullPool

    return create_async_engine(
        module_database.url.replace("postgresql://", "postgresql+asyncpg://"), poolclass=NullPool
    )


@pytest.fixture
def listener(module_database: Any) -> Iterator[Callable[[str], Session]]:
    """``listener(queue)``: a consumer of the queue that is awake, as far as the database knows, and what it hears."""
    sessions: list[Session] = []

    def make(queue: str) -> Session:
        session = Session(module_database.url)
        sessions.append(session)
        subscribe = (
            "WITH consumer AS (INSERT INTO kombu_consumer (hostname, pid) VALUES ('listener', 0) RETURNING id)"
            " INSERT INTO kombu_subscription (queue_id, consumer_id, asleep)"
            " SELECT queue.id, consumer.id, false FROM kombu_queue AS queue, consumer WHERE queue.name = %s"
            " RETURNING consumer_id"
        )
        with closing(psycopg2.connect(module_database.url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(subscribe, (queue,))
            session.listen(f"kombu_{cursor.fetchone()[0]}")
        return session

    yield make
    for session in sessions:
        session.script("DELETE FROM kombu_consumer WHERE hostname = 'listener'")
        session.close()


# -- an operator


@pytest.fixture
def tool(plain_database: Any) -> Tool:
    """``tool(words, …)``: what the command prints as JSON, on the test's own database.

    In this process: ``typed`` starts one for each call, which takes 0.4 s of a processor.
    """

    def call(*words: str) -> Any:
        out, errors = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(errors):
            status = cli.main(["--json", *words], plain_database.url)
        assert status == 0, errors.getvalue()
        return json.loads(out.getvalue())

    return call
