"""Rates that refuse: too much is refused at the publish, and nothing is lost or counted twice."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from celery_postgres import RateLimited
from celery_postgres.operations import Operations
from environment.testkit.keyed import fill
from environment.testkit.tables import run, scalar


def test_what_is_too_much_is_refused_at_publish(
    plain_database: Any, broker: Operations, make_app: Callable[[str], Any]
) -> None:
    url = plain_database.url
    fill(url, 0)
    app = make_app(url)
    broker.set_limit("q", key="*", per_second=0.01, burst=2, refuse=True)

    def send(key: str, **options: Any) -> None:
        app.send_task("t", queue="q", headers={"flow_key": key}, **options)

    send("a")
    send("a")
    with pytest.raises(
        RateLimited, match=r"^not published: a rate limit of the queue 'q' refuses the key 'a'; try"
    ) as e:
        send("a")
    assert (e.value.queue, e.value.key) == ("q", "a")
    assert 0 < (e.value.retry_in_s or 0) <= 100
    send("b")
    with pytest.raises(RateLimited):
        send("a", argsrepr="x" * 100_000)  # by COPY
    app.send_task("t", queue="another", headers={"flow_key": "a"})
    # A retry is lost if it is refused.
    send("a", retries=1)
    assert scalar(url, "SELECT count(*) FROM kombu_message") == 5
    assert broker.remove_limit("q", key="*")
    send("a")


def test_a_refusal_in_bulk_publishes_and_takes_nothing(
    plain_database: Any, broker: Operations, make_app: Callable[[str], Any]
) -> None:
    import celery_postgres

    url = plain_database.url
    fill(url, 0)
    app = make_app(url)
    broker.set_limit("q", key="*", per_second=0.01, burst=3, refuse=True)

    def bulk(*keys: str) -> None:
        with app.producer_or_acquire() as producer, celery_postgres.bulk(producer):
            for key in keys:
                app.send_task("t", queue="q", headers={"flow_key": key}, producer=producer)
            app.send_task("t", queue="another", producer=producer)

    bulk("a", "a", "b")
    with pytest.raises(RateLimited) as refused:
        bulk("a", "b", "b", "a", "c")
    assert refused.value.key == "a"
    assert scalar(url, "SELECT count(*) FROM kombu_message") == 4
    # The places of the others were given back.
    bulk("b", "b", "c", "c", "c", "a")
    with pytest.raises(RateLimited, match=r"the key 'd'; waiting does not help, because .* its burst is less") as e:
        bulk("d", "d", "d", "d")
    assert e.value.retry_in_s is None
    broker.set_limit("q", key="*", per_second=0, refuse=True)
    with pytest.raises(
        RateLimited, match="refuses messages without a key; waiting does not help, because its rate is 0"
    ) as e:
        app.send_task("t", queue="q")
    assert e.value.key == ""
    assert scalar(url, "SELECT count(*) FROM kombu_message") == 11


def test_a_refusal_names_the_key_or_the_whole_queue(
    plain_database: Any, broker: Operations, make_app: Callable[[str], Any]
) -> None:
    fill(plain_database.url, 0)
    app = make_app(plain_database.url)
    broker.set_limit("q", key="*", per_second=0.01, burst=1, refuse=True)
    broker.set_limit("q", per_second=0.01, burst=2, refuse=True)

    def send(key: str) -> None:
        app.send_task("t", queue="q", headers={"flow_key": key})

    send("a")
    with pytest.raises(RateLimited, match="refuses the key 'a'; try") as of_key:
        send("a")
    send("b")
    with pytest.raises(RateLimited, match="rate limit of the whole queue 'q' refuses more messages; try") as of_queue:
        send("c")
    broker.set_limit("q", per_second=0, refuse=True)
    with pytest.raises(RateLimited, match="more messages; waiting does not help, because its rate is 0") as never:
        send("d")
    refusals = [of_key.value, of_queue.value, never.value]
    assert [(one.queue, one.key) for one in refusals] == [("q", "a"), ("q", None), ("q", None)]
    assert [pickle.loads(pickle.dumps(one)).key for one in refusals] == ["a", None, None]  # noqa: S301


def test_a_call_that_publishes_nothing_takes_no_place(
    plain_database: Any, broker: Operations, make_app: Callable[[str], Any]
) -> None:
    import celery_postgres

    url = plain_database.url
    fill(url, 0)
    app = make_app(url)
    broker.set_limit("q", key="*", per_second=0.01, burst=3, refuse=True)

    def send(unique: str, **options: Any) -> None:
        how = {"flow_key": "a", "unique_key": unique, "unique_conflict": "return"}
        app.send_task("t", queue="q", headers=how, **options)

    for _ in range(4):
        send("one")
        send("two")
    with app.producer_or_acquire() as producer, celery_postgres.bulk(producer):
        for unique in ("one", "three", "two"):
            send(unique, producer=producer)
    for _ in range(4):
        app.send_task("t", queue="q", headers={"flow_key": "a", "unique_key": "one", "unique_conflict": "replace"})
    assert scalar(url, "SELECT count(*) FROM kombu_message") == 3
    with pytest.raises(RateLimited):
        send("four")
    # What was refused holds no key, and replaces nothing.
    assert scalar(url, "SELECT count(*) FROM kombu_message") == 3
    broker.remove_limit("q", key="*")
    send("four")
    assert scalar(url, "SELECT count(*) FROM kombu_message") == 4


def test_a_refusal_leaves_a_callers_transaction_usable(
    plain_database: Any, broker: Operations, make_app: Callable[[str], Any]
) -> None:
    import celery_postgres

    url = plain_database.url
    fill(url, 0)
    app = make_app(url)
    broker.set_limit("q", per_second=0.01, burst=2, refuse=True)
    run(url, "CREATE TABLE mine (n integer)")
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        with celery_postgres.publishing_on(connection):
            app.send_task("t", queue="q")
            app.send_task("t", queue="q")
            with pytest.raises(RateLimited):
                app.send_task("t", queue="q")
            cursor.execute("INSERT INTO mine VALUES (1)")
        connection.commit()
    assert scalar(url, "SELECT count(*) FROM mine") == 1
    assert scalar(url, "SELECT count(*) FROM kombu_message") == 2


def unique(app: Any, key: str, conflict: str = "return") -> None:
    headers = {"flow_key": "a", "unique_key": key, "unique_conflict": conflict}
    app.send_task("t", queue="q", headers=headers)


@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("driver", ["psycopg2", "psycopg", "sqlalchemy"])
def test_a_duplicate_in_a_callers_transaction_takes_no_place(
    plain_database: Any, broker: Operations, make_app: Callable[[str], Any], driver: str, autocommit: bool
) -> None:
    import psycopg
    import sqlalchemy

    import celery_postgres

    url = plain_database.url
    fill(url, 0)
    app = make_app(url)
    broker.set_limit("q", key="*", per_second=0.01, burst=2, refuse=True)
    opened: Any
    if driver == "sqlalchemy":
        level = "AUTOCOMMIT" if autocommit else "READ COMMITTED"
        opened = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, isolation_level=level).connect()
    else:
        opened = {"psycopg2": psycopg2, "psycopg": psycopg}[driver].connect(url)  # type: ignore[attr-defined]
        opened.autocommit = autocommit
    with closing(opened) as connection:
        for _ in range(3):
            with celery_postgres.publishing_on(connection):
                unique(app, "one")
                unique(app, "one")
                unique(app, "two", "replace")
            connection.commit()
        with celery_postgres.publishing_on(connection):
            with pytest.raises(RateLimited, match="refuses the key 'a'"):
                unique(app, "three")
            unique(app, "two", "replace")
        connection.commit()
        assert scalar(url, "SELECT count(*) FROM kombu_message") == 2
        # What was refused holds no key.
        broker.remove_limit("q", key="*")
        with celery_postgres.publishing_on(connection):
            unique(app, "three")
        connection.rollback()
    assert scalar(url, "SELECT count(*) FROM kombu_message") == (3 if autocommit else 2)


def test_a_transaction_that_was_begun_by_hand_stays_the_callers(
    plain_database: Any, broker: Operations, make_app: Callable[[str], Any]
) -> None:
    import sqlalchemy

    import celery_postgres

    url = plain_database.url
    fill(url, 0)
    app = make_app(url)
    broker.set_limit("q", key="*", per_second=0.01, burst=2, refuse=True)
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT")
    with closing(engine.connect()) as connection:
        connection.exec_driver_sql("BEGIN")
        with celery_postgres.publishing_on(connection):
            unique(app, "one")
        assert scalar(url, "SELECT count(*) FROM kombu_message") == 0
        connection.exec_driver_sql("ROLLBACK")
    assert scalar(url, "SELECT count(*) FROM kombu_message") == 0


def test_a_duplicate_in_an_asynchronous_block_takes_no_place(
    plain_database: Any, broker: Operations, make_app: Callable[[str], Any]
) -> None:
    import asyncpg

    import celery_postgres

    url = plain_database.url
    fill(url, 0)
    app = make_app(url)
    broker.set_limit("q", key="*", per_second=0.01, burst=2, refuse=True)

    async def publish() -> None:
        connection = await asyncpg.connect(url)
        try:
            for _ in range(3):
                async with connection.transaction(), celery_postgres.publishing_on(connection):
                    unique(app, "one")
                    unique(app, "two", "replace")
            async with connection.transaction():
                with pytest.raises(RateLimited):
                    async with celery_postgres.publishing_on(connection):
                        unique(app, "three")
        finally:
            await connection.close()

    asyncio.run(publish())
    assert scalar(url, "SELECT count(*) FROM kombu_message") == 2


def test_a_refusal_at_the_end_of_an_asynchronous_block(
    plain_database: Any, broker: Operations, make_app: Callable[[str], Any]
) -> None:
    import asyncpg

    import celery_postgres

    url = plain_database.url
    fill(url, 0)
    app = make_app(url)
    broker.set_limit("q", per_second=0.01, burst=1, refuse=True)

    async def publish() -> None:
        connection = await asyncpg.connect(url)
        try:
            async with connection.transaction():
                async with celery_postgres.publishing_on(connection):
                    app.send_task("t", queue="q")
                with pytest.raises(RateLimited):
                    async with celery_postgres.publishing_on(connection):
                        app.send_task("t", queue="q")
        finally:
            await connection.close()

    asyncio.run(publish())
    assert scalar(url, "SELECT count(*) FROM kombu_message") == 1


def test_what_an_exchange_routes_is_refused_too(
    plain_database: Any, broker: Operations, make_app: Callable[[str], Any]
) -> None:
    import celery_postgres

    url = plain_database.url
    queue = fill(url, 0)
    app = make_app(url)
    values = f"('e', 'fanout', '', NULL, {queue})"
    run(url, f"INSERT INTO kombu_binding (exchange, type, routing_key, pattern, queue_id) VALUES {values}")  # noqa: S608
    broker.set_limit("q", per_second=0.01, burst=1, refuse=True)
    app.send_task("t", exchange="e", routing_key="", exchange_type="fanout")
    with pytest.raises(RateLimited):
        app.send_task("t", exchange="e", routing_key="", exchange_type="fanout")
    with closing(psycopg2.connect(url)) as connection, celery_postgres.publishing_on(connection):
        with pytest.raises(RateLimited):
            app.send_task("t", exchange="e", routing_key="", exchange_type="fanout")
        connection.commit()
    assert scalar(url, "SELECT count(*) FROM kombu_message") == 1
