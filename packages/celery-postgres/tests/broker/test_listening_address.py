"""`listen_dsn`, a database that takes no writes, and connections on which nothing is sent."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from celery import Celery
from kombu import Connection

from celery_postgres.consumer import registry
from celery_postgres.database.driver import OperationalError
from celery_postgres.database.minute_store import Retention
from celery_postgres.database.notifications import Notifications
from celery_postgres.database.pool import Sessions
from celery_postgres.errors import ReadOnlyError
from celery_postgres.results.listener import listener
from environment.testkit.client import DEADLINE_S
from environment.testkit.pooler import Pooler
from environment.testkit.proxy import Proxy
from environment.testkit.tables import backends, run, scalar, terminate
from environment.waiting import wait_until


def test_a_direct_address_that_is_unreachable_is_an_error_of_connecting(
    connect: Any, module_database: Any, proxy: Proxy, queue: str
) -> None:
    """There Celery pauses between its attempts, and nowhere else."""
    proxy.refuse()
    listen = proxy.url(module_database.tcp_url)
    first = connect(listen_dsn=listen)
    with pytest.raises(first.connection.connection_errors):
        first.consume(queue)
    second = connect(listen_dsn=listen)
    with pytest.raises(second.connection.connection_errors):
        second.connection.connect()
    proxy.refuse(False)
    third = connect(listen_dsn=listen)
    third.publish("x", queue)
    assert third.consume(queue).take_acked() == ["x"]


def test_other_threads_do_not_wait_for_an_address_that_does_not_answer(module_database: Any, proxy: Proxy) -> None:
    """A thread that stores results asks for the heartbeats."""
    proxy.stall()
    sessions, listen = Sessions(module_database.url), proxy.url(module_database.tcp_url)
    with ThreadPoolExecutor() as threads:
        connecting = threads.submit(registry.acquire, sessions, listen, 1, 60.0, Retention())
        wait_until(registry._registry.value.lock.locked, DEADLINE_S, "it to connect")
        assert threads.submit(registry.heartbeats).result(DEADLINE_S) == registry.heartbeats()
        assert not connecting.done()
        proxy.refuse()
        proxy.cut()
        with pytest.raises(OperationalError):
            connecting.result(DEADLINE_S)


def test_threads_that_connect_at_once_have_one_heartbeat(module_database: Any) -> None:
    sessions = Sessions(module_database.url)
    with ThreadPoolExecutor(4) as threads:
        made = set(threads.map(lambda _: registry.acquire(sessions, None, 1, 60.0, Retention()), range(4)))
    (heartbeat,) = made
    assert registry.heartbeats().count(heartbeat) == 1
    registry.release(heartbeat)
    assert heartbeat not in registry.heartbeats()
    sessions.close()


def test_a_database_that_takes_no_writes_is_an_error_of_connecting(database: Any) -> None:
    run(database.url, f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
    with Connection("sqla+" + database.url) as connection, pytest.raises(ReadOnlyError, match="connect to the primary"):
        connection.connect()


def test_an_idle_connection_for_notifications_is_used(
    module_database: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A proxy would close it; and it notices a loss, and says when it is over."""
    monkeypatch.setattr(Notifications, "REST_S", 0.05)
    caplog.set_level(logging.INFO, "celery_postgres.database.notifications")
    url, name = module_database.url, "idle-listener"
    notifications = Notifications(Sessions(f"{url}&application_name={name}"), lambda: None)
    asked = "SELECT count(*) FROM pg_stat_activity WHERE application_name = :name AND query = 'SELECT 1'"
    notifications.listen("kombu_idle")
    try:
        wait_until(lambda: scalar(url, asked, name=name), DEADLINE_S, "it to ask")
        (pid,) = backends(url, name)
        terminate(url, pid)
        wait_until(lambda: "Notifications arrive again" in caplog.text, DEADLINE_S, "it to listen again")
        assert caplog.text.count("Notifications do not arrive") == 1
    finally:
        notifications.stop()


@contextmanager
def pooled_app(url: str, listen: str) -> Iterator[Celery]:
    """A program whose results are behind a transaction pooler."""
    with Pooler(url) as pooler:
        app = Celery("client", broker="sqla+" + pooler.url, backend="db+" + pooler.url, set_as_current=False)
        app.conf.result_backend_transport_options = {"listen_dsn": listen}
        yield app
        app.close()


@pytest.mark.parametrize("reachable", [True, False])
def test_a_client_waits_for_results_on_a_direct_address(
    module_database: Any, proxy: Proxy, caplog: pytest.LogCaptureFixture, reachable: bool
) -> None:
    proxy.refuse(not reachable)
    with pooled_app(module_database.url, proxy.url(module_database.tcp_url)) as app:
        ended: list[Any] = []
        here = listener(app.backend.sessions, app.backend.listening)
        here.watch(["waited-for"], ended.append)
        registered = "SELECT count(*) FROM celery_waiter WHERE task_id = 'waited-for'"
        wait_until(lambda: scalar(module_database.url, registered), DEADLINE_S, "it to wait")
        assert proxy.connections() == (1 if reachable else 0)
        assert ("without listen_dsn" in caplog.text) != reachable
        assert here._no_notifications != reachable
        app.backend.store_result("waited-for", 1, "SUCCESS")
        wait_until(lambda: ended, DEADLINE_S, "the result")
    run(module_database.url, "DELETE FROM celery_taskmeta")
