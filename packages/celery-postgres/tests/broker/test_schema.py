"""Migrations of tables that are in use."""

from __future__ import annotations

import re
import threading
from contextlib import closing
from typing import Any

import psycopg2

import celery_postgres
from app.core.dsn import PostgresDSN
from celery_postgres.database.migrations import check
from environment.testkit.probe import DEADLINE_S, Probe
from environment.testkit.tables import run, scalar
from environment.waiting import wait_until


def test_a_migration_lets_others_pass_while_a_reader_has_the_table(plain_database: Any) -> None:
    """It waits for 2 s at a time, and names the reader; whatever queued behind it is served in between."""
    libpq = PostgresDSN.parse(plain_database.url).libpq()
    celery_postgres.migrate(libpq, to=7)
    lines: list[str] = []
    made = threading.Thread(target=celery_postgres.migrate, args=[libpq], kwargs={"tell": lines.append})
    with closing(psycopg2.connect(libpq, application_name="a report")) as reader, reader.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM kombu_message")
        made.start()
        wait_until(lambda: len([line for line in lines if "waiting to" in line]) > 1, DEADLINE_S, "a second attempt")
        assert made.is_alive()
        assert scalar(plain_database.url, "SELECT count(*) FROM kombu_message") == 0
        reader.commit()
        made.join(DEADLINE_S)
    assert not made.is_alive()
    assert re.search(
        r"waiting to compress kombu_message: the lock is held by process \d+ \(role \S+, a report, in a transaction "
        r"for \d+ s, locks kombu_message\); try 2 of 14 in 0.25 s",
        "\n".join(lines),
    )
    assert check(libpq).current


def test_a_worker_works_on_meanwhile(probe: Probe) -> None:
    """What a migration does to the broker's tables, while tasks run."""
    worker = probe.start(pool="threads")
    libpq = PostgresDSN.parse(probe.url).libpq()
    sent = []
    for _ in range(5):
        # So that there is something to make each time, which tasks can do without.
        run(probe.url, "DROP INDEX ix_kombu_message_task_claimed")
        run(probe.url, "DELETE FROM celery_postgres_migration WHERE number > 11")
        sent += [probe.send("run_late", f"meanwhile-{len(sent) + number}") for number in range(20)]
        celery_postgres.create_schema(libpq)
    assert [result.get(timeout=DEADLINE_S) for result in sent] == [f"meanwhile-{number}" for number in range(100)]
    assert len(probe.notes("end", "meanwhile-*")) == 100
    assert worker.process.poll() is None
