"""A transaction pooler stands between the broker and its server: the sessions are everybody's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import psycopg2
import pytest
from kombu import Queue

from celery_postgres import RateLimited, migrate, operations
from celery_postgres.database import watchdog
from celery_postgres.database.migrations import MigrationError
from celery_postgres.database.notification_probe import hears
from celery_postgres.database.session import Session
from environment.testkit.client import Client
from environment.testkit.pooler import Pooler
from environment.testkit.probe import DEADLINE_S, POOLS, Probe, unique
from environment.testkit.tables import scalar
from environment.waiting import wait_until

#: What a session of the broker's own is told, and one of the program's must not be.
SETTINGS = "SELECT name, setting FROM pg_settings WHERE source = 'session' ORDER BY name"


@pytest.fixture
def pooler(server: Any, plain_database: Any) -> Iterator[Pooler]:
    if server.tcp is None:
        pytest.skip("the server of DATABASE_URL is not ours: it may ask for a password")
    with Pooler(plain_database.url) as pooler:
        yield pooler


@pytest.fixture
def faithful_pooler(server: Any, plain_database: Any) -> Iterator[Pooler]:
    """One that lends a session for as long as its client stays."""
    if server.tcp is None:
        pytest.skip("the server of DATABASE_URL is not ours: it may ask for a password")
    with Pooler(plain_database.url, per_session=True) as pooler:
        yield pooler


def listens(url: str) -> bool:
    with closing(Session(url)) as session:
        assert session.pooled
        return hears(session, url, lambda: Session(url))


def test_whether_notifications_arrive_is_found_out(pooler: Pooler, faithful_pooler: Pooler) -> None:
    assert not listens(pooler.url)
    assert listens(faithful_pooler.url)
    with closing(Session(faithful_pooler.url)) as session:
        assert hears(session, faithful_pooler.url, lambda: Session(faithful_pooler.url))
        session.script("SELECT pg_listening_channels()")
        assert session._cursor.fetchall() == []


@pytest.mark.parametrize("kind", ["pins", "delivers"])
def test_a_transaction_pooler_that_delivers_notifications_is_listened_through(
    server: Any, plain_database: Any, kind: str
) -> None:
    """Amazon's RDS Proxy, which gives a client that listens a session of its own, and PgDog, which listens for it."""
    if server.tcp is None:
        pytest.skip("the server of DATABASE_URL is not ours: it may ask for a password")
    with Pooler(plain_database.url, **{kind: True}) as pooler:
        assert listens(pooler.url)


def test_a_pooler_that_passes_on_the_servers_process_id(server: Any, plain_database: Any) -> None:
    """What sessions share is found out by the first prepared statement that is another's."""
    if server.tcp is None:
        pytest.skip("the server of DATABASE_URL is not ours: it may ask for a password")
    with Pooler(plain_database.url, own_ids=False) as pooler, ExitStack() as stack:
        sessions = [stack.enter_context(closing(Session(pooler.url))) for _ in range(3)]
        for _ in range(2):
            for session in sessions:
                assert session.run("find_queue", queue="none") == []
        assert [session.pooled for session in sessions] == [False, True, True]


def test_a_long_message_is_copied_with_the_sessions_own_settings(server: Any, plain_database: Any) -> None:
    if server.tcp is None:
        pytest.skip("the server of DATABASE_URL is not ours: it may ask for a password")
    migrate(plain_database.url)
    watchdog.start()  # which would end the connection instead
    row = dict.fromkeys(("task_id", "tenant_id", "available_at", "expires_at", "flow_key", "flow_later", "in_order"))
    locked = "LOCK TABLE kombu_message IN SHARE MODE"
    with Pooler(plain_database.url) as pooler, closing(Session(pooler.url, {"statement_timeout": "2s"})) as session:
        queue_id = scalar(plain_database.url, "INSERT INTO kombu_queue (name) VALUES ('q') RETURNING id")

        def copy() -> list[Any]:
            return session.run("copy_message", queue_id=queue_id, payload="100 %" * 20_000, priority=0, **row)

        with closing(psycopg2.connect(plain_database.url)) as other:
            other.cursor().execute(locked)
            with pytest.raises(psycopg2.errors.QueryCanceled):
                copy()
        assert copy() == [()]
    assert scalar(plain_database.url, "SELECT sum(length(payload)) FROM kombu_message") == 100_000


def test_a_migration_needs_a_session_of_its_own(pooler: Pooler, faithful_pooler: Pooler) -> None:
    with pytest.raises(MigrationError, match="a transaction pooler stands before the database"):
        migrate(pooler.url)
    assert migrate(faithful_pooler.url)


def test_a_session_pooler_is_listened_through(
    make_probe: Callable[..., Probe], plain_database: Any, faithful_pooler: Pooler
) -> None:
    probe = make_probe(faithful_pooler.url)
    worker = probe.start()
    tag = unique("tag")
    assert probe.send("run", tag).get(timeout=DEADLINE_S) == tag
    assert probe.inspect(worker, "ping") == {"ok": "pong"}
    assert "a transaction pooler" not in worker.log_text()
    listening = "SELECT count(*) FROM kombu_subscription WHERE asleep"
    wait_until(lambda: scalar(plain_database.url, listening) > 0, DEADLINE_S, "the worker to sleep")


@pytest.mark.parametrize("name", POOLS)
def test_tasks_run_and_workers_answer(
    make_probe: Callable[..., Probe], plain_database: Any, pooler: Pooler, name: str
) -> None:
    probe = make_probe(plain_database.url, broker_url=pooler.url)
    worker = probe.start(pool=name)
    tag = unique("tag")
    probe.send("run_late_quiet", tag)
    probe.wait_for("end", tag)
    assert probe.inspect(worker, "ping") == {"ok": "pong"}
    assert "transaction pooler stands before the database" in worker.log_text()


def test_the_programs_own_sessions_keep_their_settings(
    connect: Callable[..., Client], pooler: Pooler, queue: str
) -> None:
    client = connect(pooler.url)
    client.publish("x", queue)
    assert client.consume(queue).take_acked() == ["x"]
    client.close()
    # As many of the program as the broker had, so that it gets them all.
    with ExitStack() as stack:
        for _ in range(len(pooler.idle)):
            connection = stack.enter_context(closing(psycopg2.connect(pooler.url)))
            cursor = connection.cursor()
            cursor.execute(SETTINGS)
            assert [row for row in cursor.fetchall() if row[0] != "application_name"] == []


def test_orders_are_answered_within_celerys_own_patience(
    make_probe: Callable[..., Probe], plain_database: Any, pooler: Pooler
) -> None:
    probe = make_probe(pooler.url)
    worker = probe.start()
    name = worker.name  # type: ignore[attr-defined]

    def most_are_answered() -> bool:
        answers = [probe.app.control.ping(destination=[name], limit=1) for _ in range(6)]
        return answers.count([{name: {"ok": "pong"}}]) > len(answers) / 2

    # A second each: while the machine is busy for some, they are not.
    wait_until(most_are_answered, DEADLINE_S, "most of six pings to be answered")


def test_a_fair_queue_with_limits_and_order(pooler: Pooler, plain_database: Any) -> None:
    """Turns, limits and the order of a key are kept by statements alone, and by locks of their transactions."""
    migrate(plain_database.url)
    fair = Queue("q", queue_arguments={"x-fair": True})
    with closing(Client(pooler.url)) as client, operations.connect(pooler.url) as broker:
        client.declare(fair)
        for number in range(40):
            client.publish(number, fair, headers={"flow_key": "busy"})
        for number in range(5):
            client.publish(f"o{number}", fair, headers={"flow_key": "line", "flow_ordered": True})
        client.publish("quiet", fair, headers={"flow_key": "quiet"})
        broker.set_limit("q", key="busy", concurrency=2)
        broker.set_limit("q", key="refused", per_second=0.001, burst=1, refuse=True)
        client.publish("admitted", fair, headers={"flow_key": "refused"})
        with pytest.raises(RateLimited):
            client.publish("refused", fair, headers={"flow_key": "refused"})
        inbox = client.consume(fair, prefetch=20)
        first = inbox.take(5)
        running = "SELECT count(*) FROM kombu_message WHERE NOT visible AND flow_key = hashtextextended('busy', 0)"
        assert scalar(plain_database.url, running) == 2
        assert {one.payload for one in first} == {0, 1, "o0", "quiet", "admitted"}
        for one in first:
            one.ack()
        rest = inbox.take_acked(38 + 4)
        assert [one for one in rest if isinstance(one, str)] == ["o1", "o2", "o3", "o4"]
        assert sorted(one for one in rest if not isinstance(one, str)) == list(range(2, 40))
