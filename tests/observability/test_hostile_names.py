"""Names that producers give to queues are text, wherever they are shown, also where no constraint has refused them."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import psycopg2
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from app.core.dsn import PostgresDSN
from app.core.settings import Settings
from app.observability import probe, queue_depth
from app.observability.queue_depth import QueueDepthCollector
from celery_postgres.database.statements import statements
from celery_postgres.readmodel import ReadModel, TaskFilter
from environment.testkit.tables import run, scalar

FORGED = "COMMIT; CREATE TABLE forged (); SELECT 1, 2, 3"
NAMES = {
    "a line break": f"a\n; {FORGED}; --",
    "a carriage return": f"a\r; {FORGED}; --",
    "a quote": f"a'; {FORGED}; --",
    "a quote in an array": f"a']); {FORGED}; --",
    "a backslash": f"a\\'; {FORGED}; --",
    "the end of a comment": f"a */; {FORGED}; /*",
    "dollars": f"a $$; {FORGED}; $$",
    "placeholders": "%(cap)s %s %% %",
    "nothing unusual": "reports",
}


@pytest.fixture
def without_limits(database: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a database that refuses no name, as one may be that was never migrated."""
    run(database.url, "ALTER TABLE kombu_queue DROP CONSTRAINT IF EXISTS kombu_queue_name")
    settings = Settings(database_url=database.url, _env_file=None)
    monkeypatch.setattr(queue_depth, "get_settings", lambda: settings, raising=False)
    return str(database.url)


def declare(url: str, name: str) -> None:
    with closing(psycopg2.connect(PostgresDSN.parse(url).libpq())) as connection, connection, connection.cursor() as c:
        c.execute("INSERT INTO kombu_queue (id, name) VALUES (nextval('queue_id_sequence'), %s)", [name])


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_is_a_label_and_no_sql(without_limits: str, kind: str) -> None:
    declare(without_limits, NAMES[kind])
    run(
        without_limits,
        "INSERT INTO kombu_dead_letter (message_id, failures, queue, reason, payload)"
        " SELECT 1, 0, name, '', '' FROM kombu_queue",
    )
    registry = CollectorRegistry()
    registry.register(QueueDepthCollector())
    families = {family.name: family for family in text_string_to_metric_families(generate_latest(registry).decode())}
    assert scalar(without_limits, "SELECT to_regclass('forged') IS NULL")
    assert {sample.labels["queue"] for sample in families["celery_queue_ready"].samples} == {NAMES[kind]}
    dead = {sample.labels["queue"]: sample.value for sample in families["celery_dead_letters"].samples}
    assert dead == {NAMES[kind]: 1, "other": 0}


def test_the_console_reads_what_it_shows_in_transactions_that_no_name_can_leave(without_limits: str) -> None:
    for name in NAMES.values():
        declare(without_limits, name)
    run(
        without_limits,
        "INSERT INTO kombu_consumer (hostname, pid) VALUES ('a host', 1)",
        "INSERT INTO kombu_subscription (queue_id, consumer_id) SELECT queue.id, consumer.id"
        " FROM kombu_queue AS queue, kombu_consumer AS consumer",
    )
    with closing(ReadModel(PostgresDSN.parse(without_limits).libpq())) as model:
        assert {queue.name for queue in model.overview().queues} == set(NAMES.values())
        for name in NAMES.values():
            found = model.queue(name)
            assert found is not None
            assert found.queue.name == name
            model.tasks(TaskFilter(queue=name, task=name))
            model.dead_letters(queue=name)
            assert model.task(name) is None
            assert model.find(name * 2) == []
    assert scalar(without_limits, "SELECT to_regclass('forged') IS NULL")


def test_what_is_read_can_write_nothing(without_limits: str) -> None:
    """Whatever a statement says: it is one, it is read-only, and it ends with its transaction."""
    settings = Settings(database_url=without_limits, _env_file=None)
    statement = statements()["beat_runs"]
    for direct, refused in (
        ("SELECT 1; COMMIT; CREATE TABLE forged ()", psycopg2.ProgrammingError),
        ("SELECT 1 -- ", psycopg2.ProgrammingError),
        ("CREATE TABLE forged ()", psycopg2.errors.ReadOnlySqlTransaction),
        ("SELECT nextval('queue_id_sequence')", psycopg2.errors.ReadOnlySqlTransaction),
    ):
        wrong = replace(statement, direct=direct)
        with pytest.MonkeyPatch.context() as patch, probe.reading(settings) as monitor:
            patch.setitem(statements(), "wrong", wrong)
            with pytest.raises(refused):
                monitor._run("wrong")
    assert scalar(without_limits, "SELECT to_regclass('forged') IS NULL")
