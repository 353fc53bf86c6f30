"""A server whose NOTIFY queue is full: nobody is woken, and nothing else is different."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
from celery import chord, signature

import celery_postgres
from app.core.dsn import PostgresDSN
from celery_postgres.beat import Scheduler
from celery_postgres.broker.transaction import publishing_on
from celery_postgres.database.statements import statements
from environment.cluster import APP_ROLE
from environment.errors import UserError
from environment.temporary import TemporaryCluster
from environment.testkit.callers import KINDS, calling
from environment.testkit.databases import rows
from environment.testkit.probe import DEADLINE_S, Probe, unique
from environment.testkit.tables import rows_of, run, scalar
from environment.waiting import wait_until

#: The first in which the queue can be made small: by default it takes 8 GB.
MAJOR = 17


@pytest.fixture(scope="module")
def small_queue() -> Iterator[TemporaryCluster]:
    """A server with a small NOTIFY queue."""
    major = int(os.environ.get("SKELDIR_POSTGRES_MAJOR", "18"))
    try:
        cluster = TemporaryCluster(major if major >= MAJOR else 18, tcp=True)
    except UserError as error:
        pytest.skip(str(error))
    with cluster:
        cluster.options["max_notify_queue_pages"] = "64"
        cluster.restart()
        yield cluster


@pytest.fixture
def full(small_queue: TemporaryCluster) -> Callable[[], Any]:
    """A block in which the queue is full: somebody listens in another database, and stays in a transaction."""

    @contextmanager
    def block() -> Iterator[None]:
        dsn = PostgresDSN.parse(small_queue.superuser_url).libpq()
        with closing(psycopg2.connect(dsn)) as sleeper, closing(psycopg2.connect(dsn)) as noisy:
            sleeper.cursor().execute("LISTEN x")
            sleeper.commit()
            sleeper.cursor().execute("SELECT 1")
            noisy.autocommit = True
            noisy.cursor().execute("LISTEN y")
            for size in (7000, 10):  # to the last page, and its last byte
                with contextlib.suppress(psycopg2.errors.ProgramLimitExceeded):
                    while True:
                        noisy.cursor().execute(
                            "SELECT count(pg_notify('y', repeat('z', %s) || g)) FROM generate_series(1, 20) g", [size]
                        )
            yield

    return block


@pytest.fixture
def probe(small_queue: TemporaryCluster, make_probe: Callable[..., Probe]) -> Probe:
    name = f"jobs_{secrets.token_hex(4)}"
    run(small_queue.superuser_url, f"CREATE DATABASE {name} OWNER {APP_ROLE}")
    url = re.sub(r"(?<=@)/\w+", f"/{name}", small_queue.url())
    celery_postgres.create_schema(url)
    return make_probe(url)


def test_everything_goes_on_without_wake_ups(probe: Probe, full: Callable[[], Any]) -> None:
    """Publishing in each way, results with somebody who waits, chords, giving back, and the acts of an operator."""
    worker = probe.start(pool="threads")
    app, gate, tag = probe.app, unique("gate"), unique("work")
    early = [probe.send("run_late", f"{tag}-{one}", gate) for one in range(2)]
    body = chord([signature("probe.add", (one,), app=app) for one in range(3)], signature("probe.total", app=app))
    probe.wait_for("start", f"{tag}-*", 2)
    with full():
        result = body.apply_async()
        late = probe.send("run_late", f"{tag}-late")
        failing = probe.send("fail", unique("failing"))
        again = probe.send("reject", unique("again"), True)
        rejected = probe.send("reject", unique("rejected"))
        with app.producer_or_acquire() as producer, celery_postgres.bulk(producer):
            many = [probe.send("echo", one, producer=producer) for one in range(20)]
        with psycopg2.connect(PostgresDSN.parse(probe.url).libpq()) as connection, publishing_on(connection):
            within = probe.send("echo", 7)
            more = chord([signature("probe.add", (5,), app=app)], signature("probe.total", app=app)).apply_async()
        probe.open(gate)
        assert [one.get(timeout=DEADLINE_S) for one in early] == [f"{tag}-0", f"{tag}-1"]
        assert result.get(timeout=DEADLINE_S) == 3
        assert late.get(timeout=DEADLINE_S) == f"{tag}-late"
        assert str(failing.get(timeout=DEADLINE_S, propagate=False)).startswith("failing")
        assert again.get(timeout=DEADLINE_S).startswith("again")
        assert [one.get(timeout=DEADLINE_S) for one in many] == list(range(20))
        assert within.get(timeout=DEADLINE_S) == 7
        assert more.get(timeout=DEADLINE_S) == 5
        dead = "SELECT count(*) FROM kombu_dead_letter WHERE task_id = :i"
        wait_until(lambda: scalar(probe.url, dead, i=rejected.id) == 1, DEADLINE_S, "the dead letter")
        wait_until(lambda: rows_of(probe.url, "celery") == 0, DEADLINE_S, "every message to be acknowledged")
    assert "Cannot store" not in worker.log_text()
    assert worker.log_text().count("Sleeping consumers are not notified") == 1


def test_a_prefork_worker_stores_its_results_while_the_queue_is_full(probe: Probe, full: Callable[[], Any]) -> None:
    worker = probe.start(pool="prefork")
    gate, tag = unique("gate"), unique("work")
    results = [probe.send("run_late", f"{tag}-{one}", gate) for one in range(2)]
    probe.wait_for("start", f"{tag}-*", 2)
    with full():
        probe.open(gate)
        assert results[0].get(timeout=DEADLINE_S) == f"{tag}-0"
        assert results[1].get(timeout=DEADLINE_S) == f"{tag}-1"
        wait_until(lambda: rows_of(probe.url, "celery") == 0, DEADLINE_S, "every message to be acknowledged")
    assert "Cannot store" not in worker.log_text()


def test_a_worker_that_dies_is_replaced_while_the_queue_is_full(probe: Probe, full: Callable[[], Any]) -> None:
    worker = probe.start(pool="threads")
    gate, tag = unique("gate"), unique("work")
    result = probe.send("run_late", f"{tag}-0", gate)
    probe.wait_for("start", f"{tag}-0")
    with full():
        probe.start(pool="threads")
        worker.kill()
        probe.wait_for("start", f"{tag}-0", 2, deadline_s=60)
        probe.open(gate)
        assert result.get(timeout=DEADLINE_S) == f"{tag}-0"


def test_beat_sends_what_is_due_while_the_queue_is_full(probe: Probe, full: Callable[[], Any]) -> None:
    run(probe.url, "INSERT INTO celery_beat_entry (name, last_run_at) VALUES ('tick', now() - interval '1 hour')")
    probe.app.conf.beat_schedule = {"tick": {"task": "probe.echo", "schedule": timedelta(minutes=1), "args": [1]}}
    probe.start(pool="solo")
    with full():
        scheduler = Scheduler(probe.app)
        try:
            wait_until(lambda: scheduler.tick() > 1, DEADLINE_S, "beat to have sent what was due")
        finally:
            scheduler.close()
    assert rows(probe.url, "SELECT runs FROM celery_beat_entry WHERE name = 'tick'") == [(1,)]


def test_every_statement_that_wakes_somebody_has_a_form_that_does_not() -> None:
    for name, statement in statements().items():
        assert ("pg_notify" in statement.direct) == (statement.quietly is not None), name
        if statement.quietly is not None:
            assert statement.quietly.parameters == statement.parameters
            assert "pg_notify" not in statement.quietly.direct + statement.quietly.prepare
    within = [
        statement
        for name, statement in statements().items()
        if name.endswith("_within") and "pg_notify" in statement.direct
    ]
    assert len(within) == 4
    assert all("(SELECT pg_notification_queue_usage()) < 0.5" in one.direct for one in within)


def test_the_transaction_of_a_caller_of_every_kind_commits(probe: Probe, full: Callable[[], Any]) -> None:
    probe.start(pool="solo")

    async def publish(kind: str) -> Any:
        async with calling(kind, probe.url) as caller:
            async with caller.publishing():
                sent = [probe.send("echo", one) for one in range(2)]
            await caller.commit()
            return sent

    with full():
        sent = {kind: asyncio.run(publish(kind)) for kind in KINDS}
        for kind, results in sent.items():
            assert (kind, [one.get(timeout=DEADLINE_S) for one in results]) == (kind, [0, 1])
