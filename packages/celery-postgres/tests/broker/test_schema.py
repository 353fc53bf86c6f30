"""`create_schema` on tables that are in use."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import Any

import psycopg2
import pytest

import celery_postgres
from app.core.dsn import PostgresDSN
from celery_postgres.database.statements import script
from environment.testkit.probe import DEADLINE_S, Probe
from environment.testkit.tables import rows_of, run, scalar
from environment.waiting import wait_until

WAITS = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'kombu_message'::regclass"


def test_it_begins_again_when_a_consumer_that_takes_the_tables_in_another_order_wins(plain_database: Any) -> None:
    if plain_database.superuser_url is None:
        pytest.skip("the server is not ours, and only its superuser can choose who loses")
    libpq = PostgresDSN.parse(plain_database.url).libpq()
    made = threading.Thread(target=celery_postgres.create_schema, args=[libpq])
    with closing(psycopg2.connect(PostgresDSN.parse(plain_database.superuser_url).libpq())) as consumer:
        with consumer.cursor() as cursor:
            cursor.execute("SET LOCAL deadlock_timeout = '1min'")  # it is the other that finds the deadlock
            cursor.execute("LOCK TABLE kombu_message IN ROW SHARE MODE")
            made.start()
            wait_until(lambda: scalar(plain_database.url, WAITS), DEADLINE_S, "create_schema to wait for it")
            cursor.execute("SELECT count(*) FROM kombu_queue")
        consumer.commit()
    made.join(DEADLINE_S)
    assert not made.is_alive()
    assert rows_of(plain_database.url) == 0


def test_a_worker_works_on_meanwhile(probe: Probe) -> None:
    """What a migration does to the broker's tables, while tasks run."""
    worker = probe.start(pool="threads")
    libpq = PostgresDSN.parse(probe.url).libpq()
    sent = []
    for _ in range(5):
        # So that there is something to alter each time.
        run(probe.url, script("compression_down"))
        sent += [probe.send("run_late", f"meanwhile-{len(sent) + number}") for number in range(20)]
        celery_postgres.create_schema(libpq)
    assert [result.get(timeout=DEADLINE_S) for result in sent] == [f"meanwhile-{number}" for number in range(100)]
    assert len(probe.notes("end", "meanwhile-*")) == 100
    assert worker.process.poll() is None
