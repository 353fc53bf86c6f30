"""Which queues of the application are fair."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from kombu import Queue
from kombu.common import Broadcast

from app.celery_app import celery_app, create_app
from app.core.settings import Settings
from app.tenant_limits import limit_tenants
from celery_postgres import operations
from environment.testkit.databases import rows
from environment.waiting import wait_until


@pytest.fixture
def app(module_database: Any) -> Iterator[Celery]:
    app = create_app(Settings(database_url=module_database.url, _env_file=None))
    yield app
    app.close()
    celery_app.set_current()


def fair(queue: Queue) -> Any:
    return (queue.queue_arguments or {}).get("x-fair")


def test_each_queue_of_tasks_is_fair(app: Celery) -> None:
    app.conf.task_queues = [
        Queue("named", queue_arguments={"x-message-ttl": 1000}),
        Queue("plain", queue_arguments={"x-fair": False}),
        Broadcast("everybody"),
    ]
    queues = app.amqp.queues
    assert fair(queues["named"]) is True
    assert queues["named"].queue_arguments["x-message-ttl"] == 1000
    assert fair(queues["plain"]) is False
    assert fair(queues["everybody"]) is None
    assert fair(queues["of -Q or a route"]) is True
    assert fair(queues.select_add("of remote control", exchange="e", routing_key="k")) is True


def test_the_default_queue_and_what_celery_declares_for_itself(app: Celery, module_database: Any) -> None:
    app.send_task("app.tasks.housekeeping.ping")
    app.control.ping(timeout=0.1)
    found = dict(rows(module_database.url, "SELECT name, fair FROM kombu_queue"))
    assert found.pop("celery") is True
    assert set(found.values()) <= {False}


def test_the_setting_becomes_the_limit_of_each_tenant(
    app: Celery, module_database: Any, start_worker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Once: then the row counts, which an operator changes."""
    start_worker(module_database.url, args=["-Q", "limited"], env={"TENANT_CONCURRENCY": "3"})
    with operations.of(app) as broker:
        wait_until(lambda: [one.concurrency for one in broker.limits("limited", key="*")] == [3], 30, "the limit")
        broker.set_limit("limited", key="*", concurrency=5)
        limit_tenants(app, ["limited"], 3)
        assert [one.concurrency for one in broker.limits("limited", key="*")] == [5]
    assert "each tenant runs 5 tasks at once, by the limit of '*', and not 3" in caplog.text


def test_a_limit_that_cannot_be_set_is_one_line(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    limit_tenants(app, ["no such queue"], 3)
    assert "queue no such queue: TENANT_CONCURRENCY is not set (" in caplog.text
    assert caplog.text.count("\n") == 1
