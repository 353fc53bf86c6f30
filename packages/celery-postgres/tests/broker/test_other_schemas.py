"""A schema of another release: older, newer, or newer and no longer for this one. One line each, and nothing lost."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from kombu import Connection

import celery_postgres
from celery_postgres.beat import Scheduler
from celery_postgres.database.migrations import NEWEST, migrate
from environment.testkit.client import DEADLINE_S, Client
from environment.testkit.probe import Probe
from environment.testkit.queue_tool import typed
from environment.testkit.tables import run, scalar
from environment.waiting import wait_until

MIGRATE = r"run `python -m celery_postgres migrate`"
TOO_NEW = (
    rf"the schema is at version {NEWEST + 1}, with which this release \(version {NEWEST}\) cannot work: install the "
    "release of celery-postgres that has migrated it"
)


@pytest.fixture
def empty(fresh: Any) -> Iterator[str]:
    with fresh() as database:
        yield database.url


def of_the_future(url: str, *statements: str) -> None:
    """What a newer release may have done."""
    run(
        url,
        "INSERT INTO celery_postgres_migration"
        " SELECT max(number) + 1, 'of_the_future', 'x', now() FROM celery_postgres_migration",
        "ALTER TABLE kombu_message ADD COLUMN of_the_future text DEFAULT 'x'",
        *statements,
    )


@pytest.mark.parametrize("number", [*range(6), 8, 10])
def test_an_older_schema_is_one_line_for_everything_that_connects(
    empty: str, number: int, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    if number:
        migrate(empty, number)
    found = f"at version {number}" if number else "not recorded as migrated"
    app = Celery(broker=empty, backend=empty, set_as_current=False)
    app.conf.beat_schedule = {"entry": {"task": "probe.run", "schedule": 1.0}}
    with pytest.raises(celery_postgres.SchemaError, match=f"{MIGRATE}.*the schema is {found}, .* version {NEWEST}"):
        app.send_task("probe.run", queue=queue)
    with Connection(empty) as connection, pytest.raises(celery_postgres.SchemaError, match=MIGRATE):
        connection.SimpleQueue(queue).get_nowait()
    if number < 5:
        with pytest.raises(celery_postgres.SchemaError, match=MIGRATE):
            app.backend.store_result("id", 1, "SUCCESS")
        with pytest.raises(celery_postgres.SchemaError, match=MIGRATE):
            app.AsyncResult("id").get(timeout=DEADLINE_S)
    if number < 4:
        done = typed(empty, "--json", "consumers")
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
        assert re.search(MIGRATE, done.stderr)
        scheduler = Scheduler(app=app)
        scheduler.setup_schedule()
        scheduler.tick()  # it waits for the migration
        scheduler.close()
        assert re.search(MIGRATE, caplog.text)
    # Nothing of that is remembered.
    migrate(empty)
    app.send_task("probe.run", queue=queue)
    app.backend.store_result("id", 1, "SUCCESS")
    assert scalar(empty, "SELECT count(*) FROM kombu_message WHERE visible") == 1
    app.pool.force_close_all()


def test_a_schema_that_has_everything_is_worked_with(empty: str, queue: str, connect: Callable[..., Client]) -> None:
    """Whatever it says of its version: a migration that adds what a release can do without keeps none from starting."""
    migrate(empty)
    run(empty, "DELETE FROM celery_postgres_migration WHERE number > 11")
    client = connect(empty)
    client.publish("x", queue)
    assert client.consume(queue).take_acked() == ["x"]


def test_a_newer_schema_is_worked_with(plain_database: Any, make_probe: Callable[..., Probe]) -> None:
    """A rolling deployment migrates first, and then replaces one worker after the other."""
    url = plain_database.url
    probe = make_probe(url)
    worker = probe.start(pool="threads")
    of_the_future(url)
    assert probe.send("run_late", "connected-before").get(timeout=DEADLINE_S) == "connected-before"
    worker.stop()
    probe.start(pool="threads")
    assert probe.send("run_late", "connected-after").get(timeout=DEADLINE_S) == "connected-after"
    assert typed(url, "--json", "queues").returncode == 0
    assert f"a newer release has applied the migrations {NEWEST + 1}" in typed(url, "check").stdout


def test_a_contracting_migration_ends_older_releases_with_a_line(
    plain_database: Any, make_probe: Callable[..., Probe], queue: str
) -> None:
    url = plain_database.url
    of_the_future(url, "ALTER FUNCTION kombu_refuse(text) RENAME TO kombu_refuse_2")
    connection = Connection(url)
    with pytest.raises(celery_postgres.SchemaError, match=TOO_NEW) as refusal:
        connection.SimpleQueue(queue).put("x")
    assert "migrate`" not in str(refusal.value)
    assert not isinstance(refusal.value, connection.connection_errors)
    connection.release()
    worker = make_probe(url).start(ready=False)
    wait_until(lambda: worker.process.poll() is not None, DEADLINE_S, "the worker to end")
    assert worker.process.returncode != 0
    assert re.search(TOO_NEW, worker.log_text())
    assert scalar(url, "SELECT count(*) FROM kombu_message") == 0
