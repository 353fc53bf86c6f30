"""Publishing in the caller's own transaction: visible after COMMIT, gone after ROLLBACK; sleeping consumers wake up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
import psycopg2
import pytest
from celery import Celery
from kombu import Exchange, Producer, Queue
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

import celery_postgres
from celery_postgres import NotPublishedError, publishing_on
from celery_postgres.database.session import Session as BrokerSession
from environment.testkit.client import Client
from environment.testkit.probe import Probe
from environment.testkit.tables import rows_of, scalar
from environment.waiting import wait_until


@pytest.fixture
def engine(module_database: Any) -> Iterator[Engine]:
    engine = create_engine(module_database.url, poolclass=NullPool, future=True)
    yield engine
    engine.dispose()


# -- COMMIT and ROLLBACK


def test_a_message_is_visible_after_the_commit(app: Celery, engine: Engine, module_database: Any, queue: str) -> None:
    with engine.begin() as connection, publishing_on(connection):
        app.send_task("a.task", queue=queue, task_id="mine")
        assert rows_of(module_database.url, queue) == 0
    assert rows_of(module_database.url, queue) == 1
    assert scalar(module_database.url, "SELECT task_id FROM kombu_message WHERE task_id = 'mine'") == "mine"


def test_a_rollback_removes_the_message_and_the_callers_rows(
    app: Celery, engine: Engine, module_database: Any, queue: str
) -> None:
    app.send_task("a.task", queue=queue)
    with engine.connect() as connection:
        with publishing_on(connection):
            connection.execute(text("CREATE TABLE of_the_caller ()"))
            app.send_task("a.task", queue=queue)
        connection.rollback()
    assert rows_of(module_database.url, queue) == 1
    assert scalar(module_database.url, "SELECT to_regclass('of_the_caller')") is None


def test_a_rollback_to_a_savepoint_removes_the_message(
    app: Celery, engine: Engine, module_database: Any, queue: str
) -> None:
    with engine.begin() as connection, publishing_on(connection):
        app.send_task("a.task", queue=queue, task_id=f"kept-{queue}")
        savepoint = connection.begin_nested()
        app.send_task("a.task", queue=queue)
        savepoint.rollback()
    assert rows_of(module_database.url, queue) == 1
    assert (
        scalar(module_database.url, "SELECT count(*) FROM kombu_message WHERE task_id = :id", id=f"kept-{queue}") == 1
    )


def test_a_psycopg2_connection_is_accepted(app: Celery, module_database: Any, queue: str) -> None:
    with closing(psycopg2.connect(module_database.url)) as connection:
        with publishing_on(connection):
            app.send_task("a.task", queue=queue)
        connection.rollback()
        assert rows_of(module_database.url, queue) == 0
        with publishing_on(connection):
            app.send_task("a.task", queue=queue)
        assert rows_of(module_database.url, queue) == 0
        connection.commit()
    assert rows_of(module_database.url, queue) == 1


def test_the_connection_of_a_session_is_accepted(app: Celery, engine: Engine, module_database: Any, queue: str) -> None:
    with Session(engine) as session:
        with publishing_on(session):
            app.send_task("a.task", queue=queue)
        session.commit()
    assert rows_of(module_database.url, queue) == 1


def test_a_worker_runs_the_task_after_the_commit(probe: Probe) -> None:
    probe.start(pool="solo")
    engine = create_engine(probe.url, poolclass=NullPool, future=True)
    with engine.begin() as connection, publishing_on(connection):
        sent = probe.app.send_task("probe.add", (20, 22))
    assert sent.get(timeout=60) == 42


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg", "sqlalchemy"])
def test_in_autocommit_each_message_is_visible_at_once(
    app: Celery, engine: Engine, module_database: Any, queue: str, driver: str
) -> None:
    connection: Any
    if driver == "psycopg2":
        connection = psycopg2.connect(module_database.url)
        connection.autocommit = True
    elif driver == "psycopg":
        connection = psycopg.connect(module_database.url, autocommit=True)
    else:
        connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    with closing(connection), publishing_on(connection):
        for count in (1, 2):
            app.send_task("a.task", queue=queue)
            assert rows_of(module_database.url, queue) == count


# -- who is woken


def test_the_commit_notifies_consumers_that_are_awake_too(
    app: Celery, client: Client, engine: Engine, queue: str, listener: Callable[[str], BrokerSession]
) -> None:
    """They may sleep by the time of the commit."""
    client.declare(Queue(queue))
    heard = listener(queue)
    with engine.begin() as connection:
        with publishing_on(connection):
            app.send_task("a.task", queue=queue)
        assert heard.notifications() == []
    wait_until(heard.notifications, 40, "the notification")


def test_a_rollback_notifies_no_consumer(
    app: Celery, client: Client, engine: Engine, queue: str, listener: Callable[[str], BrokerSession]
) -> None:
    client.declare(Queue(queue))
    heard = listener(queue)
    for end in ("rollback", "commit"):
        with engine.connect() as connection, publishing_on(connection):
            app.send_task("a.task", queue=queue)
            getattr(connection, end)()
    # Notifications come in the order of commits: had the first been sent, there would be two.
    assert len(wait_until(heard.notifications, 40, "the notification")) == 1


def test_a_consumer_that_fell_asleep_during_the_transaction_is_woken(
    app: Celery, connect: Callable[..., Client], engine: Engine, module_database: Any, queue: str
) -> None:
    inbox = connect().consume(queue)
    with engine.begin() as connection:
        with publishing_on(connection):
            app.send_task("a.task", queue=queue, task_id="late")
        asleep = (
            "SELECT asleep FROM kombu_subscription AS s JOIN kombu_queue AS q ON q.id = s.queue_id WHERE q.name = :name"
        )
        inbox.take_until(lambda: bool(scalar(module_database.url, asleep, name=queue)))
    (message,) = inbox.take()
    assert message.headers["id"] == "late"
    message.ack()


# -- what is part of it


def test_other_threads_publish_at_once(app: Celery, engine: Engine, module_database: Any, queue: str) -> None:
    with engine.connect() as connection, publishing_on(connection):
        thread = threading.Thread(target=app.send_task, args=["a.task"], kwargs={"queue": queue})
        thread.start()
        thread.join()
        app.send_task("a.task", queue=queue)
        assert rows_of(module_database.url, queue) == 1
        connection.rollback()
    app.send_task("a.task", queue=queue)
    assert rows_of(module_database.url, queue) == 2


def test_the_innermost_block_counts(app: Celery, engine: Engine, module_database: Any, queue: str) -> None:
    with engine.connect() as outer, publishing_on(outer):
        with engine.begin() as inner, publishing_on(inner):
            app.send_task("a.task", queue=queue)
        app.send_task("a.task", queue=queue)
        outer.rollback()
    assert rows_of(module_database.url, queue) == 1


def test_a_bulk_within_the_block_is_part_of_the_transaction(
    app: Celery, engine: Engine, module_database: Any, queue: str
) -> None:
    def send(connection: Connection) -> None:
        with publishing_on(connection), app.producer_or_acquire() as producer, celery_postgres.bulk(producer):
            for _ in range(700):
                app.send_task("a.task", queue=queue, producer=producer)

    with engine.connect() as connection:
        send(connection)
        connection.rollback()
        assert rows_of(module_database.url, queue) == 0
        send(connection)
        connection.commit()
    assert rows_of(module_database.url, queue) == 700


def test_a_bulk_around_the_block_is_not_part_of_the_transaction(
    app: Celery, engine: Engine, module_database: Any, queue: str
) -> None:
    with app.producer_or_acquire() as producer, celery_postgres.bulk(producer):
        app.send_task("a.task", queue=queue, producer=producer, task_id=f"outside-{queue}")
        with engine.connect() as connection:
            with publishing_on(connection):
                app.send_task("a.task", queue=queue, producer=producer)
            connection.rollback()
    assert rows_of(module_database.url, queue) == 1


def test_a_batch_that_outlives_the_block_is_refused(
    client: Client, engine: Engine, module_database: Any, queue: str
) -> None:
    client.declare(Queue(queue))
    channel = client.channel
    with engine.connect() as connection, publishing_on(connection):
        batch = channel.create_publish_batch(10)
        batch.publish(channel.prepare_message("x"), exchange="", routing_key=queue)
    with pytest.raises(NotPublishedError, match="the block of publishing_on has ended"):
        batch.flush()
    assert rows_of(module_database.url, queue) == 0


@pytest.mark.parametrize("kind", ["direct", "topic", "fanout"])
def test_a_message_to_a_named_exchange_is_part_of_the_transaction(
    client: Client, engine: Engine, module_database: Any, queue: str, kind: str
) -> None:
    exchange = Exchange(f"x-{queue}", type=kind)
    client.declare(Queue(queue, exchange=exchange, routing_key="a.key"))
    for end, count in (("rollback", 0), ("commit", 1)):
        with engine.connect() as connection:
            with publishing_on(connection):
                Producer(client.channel).publish("x", exchange=exchange.name, routing_key="a.key")
            assert rows_of(module_database.url, queue) == 0
            getattr(connection, end)()
        assert rows_of(module_database.url, queue) == count


def test_remote_control_is_sent_at_once(app: Celery, engine: Engine, module_database: Any, queue: str) -> None:
    app.send_task("a.task", queue=queue, task_id=f"unwanted-{queue}")
    with engine.connect() as connection, publishing_on(connection):
        app.control.revoke(f"unwanted-{queue}")
        connection.rollback()
    statement = "SELECT revoked FROM kombu_message WHERE task_id = :id"
    assert scalar(module_database.url, statement, id=f"unwanted-{queue}") is True


def test_a_transient_message_does_not_make_the_callers_commit_lossy(client: Client, engine: Engine, queue: str) -> None:
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL synchronous_commit = on"))
        with publishing_on(connection):
            Producer(client.channel).publish("x", exchange="", routing_key=queue, delivery_mode=1)
        assert connection.execute(text("SHOW synchronous_commit")).scalar_one() == "on"


# -- what goes wrong


def test_a_failed_transaction_raises_once_and_quotes_nothing(
    app: Celery, engine: Engine, module_database: Any, queue: str
) -> None:
    app.send_task("a.task", queue=queue)
    with engine.connect() as connection, publishing_on(connection):
        with pytest.raises(Exception, match="division by zero"):
            connection.execute(text("SELECT 1 / 0"))
        with pytest.raises(NotPublishedError) as caught:
            app.send_task("a.task", ("s3cret",), queue=queue)
    assert caught.value.sqlstate == "25P02"
    assert "s3cret" not in repr(caught.value)
    assert caught.value.__suppress_context__
    assert rows_of(module_database.url, queue) == 1


@pytest.mark.parametrize("kind", ["sqlalchemy", "psycopg2"])
def test_a_lost_connection_is_no_reason_to_publish_elsewhere(
    app: Celery, engine: Engine, module_database: Any, queue: str, kind: str
) -> None:
    """Kombu publishes again after a lost connection of its own: this one is not."""
    app.send_task("a.task", queue=queue)
    connection: Any = engine.connect() if kind == "sqlalchemy" else psycopg2.connect(module_database.url)
    driver = connection.connection.dbapi_connection if kind == "sqlalchemy" else connection
    scalar(module_database.url, "SELECT pg_terminate_backend(:pid)", pid=driver.info.backend_pid)
    with closing(connection), publishing_on(connection), pytest.raises(NotPublishedError, match="can only be rolled"):
        app.send_task("a.task", queue=queue)
    assert rows_of(module_database.url, queue) == 1


def test_a_snapshot_that_is_older_than_the_queue_raises(
    app: Celery, engine: Engine, module_database: Any, queue: str
) -> None:
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.execute(text("SELECT 1"))
        with publishing_on(connection), pytest.raises(NotPublishedError, match="older") as caught:
            Producer(app.pool.acquire().default_channel, auto_declare=False).publish("x", routing_key=queue)
    assert caught.value.sqlstate == "40001"
    assert rows_of(module_database.url, queue) == 0


def test_a_database_without_the_brokers_tables_is_named(app: Celery, server: Any, queue: str) -> None:
    engine = create_engine(server.database("postgres").url, poolclass=NullPool, future=True)
    missing = pytest.raises(celery_postgres.SchemaError, match="tables are missing")
    with engine.connect() as connection, publishing_on(connection), missing:
        app.send_task("a.task", queue=queue)


def test_another_driver_is_refused() -> None:
    refused = pytest.raises(TypeError, match=r"this one is sqlite\+pysqlite")
    with (
        create_engine("sqlite://", poolclass=NullPool, future=True).connect() as connection,
        refused,
        publishing_on(connection),
    ):
        pytest.fail("the block was entered")


def test_an_engine_is_refused(engine: Engine) -> None:
    with pytest.raises(TypeError, match=r"not sqlalchemy\.(\w+\.)+Engine"), publishing_on(engine):
        pytest.fail("the block was entered")
