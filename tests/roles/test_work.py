"""Each role does its whole work under its own login, and what is refused is said in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import psycopg2
import pytest
from celery import Celery, chord, group
from kombu import Exchange, Queue
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

import celery_postgres
from app.celery_app import celery_app, create_app
from app.core.settings import Settings
from app.observability import queue_depth
from app.tenant_limits import limit_tenants
from celery_postgres import SchemaError
from celery_postgres.beat import Scheduler
from environment.sources import CHECKOUT
from environment.testkit.tables import rows_of
from environment.waiting import wait_until
from environment.worker import WorkerProcess
from tests.roles.conftest import PASSWORD, ROLES_SQL, Databases

pytestmark = pytest.mark.xdist_group("roles")

DEADLINE_S = 90
TENANT = "00000000-0000-0000-0000-000000000001"
PING = "app.tasks.housekeeping.ping"


@pytest.fixture(scope="module")
def worker(databases: Databases, start_module_worker: Callable[..., WorkerProcess]) -> WorkerProcess:
    """A worker as in production, under the worker's login."""
    return start_module_worker(databases.url("runner"), env={"ENVIRONMENT": "production"})


@pytest.fixture
def program(databases: Databases) -> Iterator[Callable[[str], Celery]]:
    """``program(login)``: the application, as that login."""
    made: list[Celery] = []

    def make(login: str) -> Celery:
        made.append(create_app(Settings(database_url=databases.url(login), _env_file=None)))
        return made[-1]

    yield make
    for app in made:
        app.close()
    celery_app.set_current()


# -- the roles after an upgrade


def test_the_owner_of_the_tables_grants_the_use_of_new_ones_without_psql(databases: Databases) -> None:
    """With a driver's name in the URL, and a password that says something else in a URL."""
    password = "50%@here:/ there?#"
    databases.run(
        databases.superuser_url("plain"),
        f"CREATE ROLE odd LOGIN PASSWORD '{password}' IN ROLE celery_migrator",
        "ALTER ROLE odd SET role = 'celery_migrator'",
        "REVOKE ALL ON kombu_limit FROM celery_worker",
    )
    sender, address = databases.url("sender", "plain").split("://")[1].split("@")
    assert sender.startswith("sender:")
    url = f"postgresql+psycopg2://odd:{quote(password, safe='')}@{address}"
    command = [sys.executable, "-m", "celery_postgres", "roles", "--run"]
    done = subprocess.run(command, env=os.environ | {"DATABASE_URL": url}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "the roles have their rights\n"), done.stderr
    granted = "SELECT has_table_privilege('celery_worker', 'kombu_limit', 'SELECT')"
    assert databases.run(databases.superuser_url("plain"), granted) == [(True,)]
    refused = subprocess.run(
        [*command, "missing.sql"], env=os.environ | {"DATABASE_URL": url}, capture_output=True, text=True, check=False
    )
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "celery_postgres: missing.sql cannot be read: No such file or directory\n"


# -- the producer and the worker


def test_what_producers_publish_a_worker_runs(
    databases: Databases, worker: WorkerProcess, program: Callable[[str], Celery]
) -> None:
    ping = program("asker").tasks[PING]
    assert ping.delay(tenant_id=TENANT).get(timeout=DEADLINE_S)["tenant_id"] == TENANT
    assert ping.apply_async(countdown=0.3, priority=7, expires=60).get(timeout=DEADLINE_S)["status"] == "ok"
    assert [one["status"] for one in group(ping.s(), ping.s()).delay().get(timeout=DEADLINE_S)] == ["ok", "ok"]
    assert chord([ping.s(), group(ping.s(), ping.s())])(ping.si()).get(timeout=DEADLINE_S)["status"] == "ok"
    saved = group(ping.s(), ping.s()).apply_async()
    saved.save()
    assert len(ping.app.GroupResult.restore(saved.id).join(timeout=DEADLINE_S)) == 2


def test_a_producer_publishes_in_every_way_without_reading_a_result(
    databases: Databases, program: Callable[[str], Celery]
) -> None:
    app = program("sender")
    ping = app.tasks[PING]
    app.amqp.queues.add(Queue("fresh", Exchange("fresh", "topic"), "#"))
    with app.producer_or_acquire() as producer, celery_postgres.bulk(producer):
        for _ in range(10):
            ping.apply_async(queue="fresh", producer=producer)
    engine = create_engine(databases.url("sender"), poolclass=NullPool)
    with engine.begin() as connection, celery_postgres.publishing_on(connection):
        ping.apply_async(queue="fresh")
    with (
        engine.begin() as connection,
        celery_postgres.publishing_on(connection),
        app.producer_or_acquire() as producer,
        celery_postgres.bulk(producer),
    ):
        for _ in range(2):
            ping.apply_async(queue="fresh", producer=producer)
    ping.apply_async(queue="fresh", countdown=3600)
    app.send_task("no.such.task", exchange="fresh", routing_key="fresh")
    assert rows_of(databases.superuser_url(), "fresh") == 15
    with app.connection_for_write() as connection:
        assert connection.default_channel.queue_declare("fresh", passive=True).message_count == 14


def test_who_only_publishes_leaves_it_to_a_worker_to_make_a_queue_fair(
    databases: Databases, program: Callable[[str], Celery]
) -> None:
    """In a rolling deploy the publishers of a release may come before its workers."""
    found = "SELECT fair FROM kombu_queue WHERE name = 'rolling'"
    databases.run(databases.superuser_url(), "INSERT INTO kombu_queue (name, fair) VALUES ('rolling', false)")
    for login, fair in (("sender", False), ("runner", True)):
        program(login).send_task(PING, queue="rolling", ignore_result=True)
        assert databases.run(databases.superuser_url(), found) == [(fair,)]


def test_the_limit_of_each_tenant_is_the_owners_to_set(
    databases: Databases, program: Callable[[str], Celery], caplog: pytest.LogCaptureFixture
) -> None:
    limit_tenants(program("runner"), ["celery"], 3)
    assert "queue celery: TENANT_CONCURRENCY is not set (the role runner may not do what the statement" in caplog.text
    limit_tenants(program("deploy"), ["celery"], 3)
    found = "SELECT max_running FROM kombu_limit WHERE key = '*'"
    assert databases.run(databases.superuser_url(), found) == [(3,)]
    databases.run(databases.superuser_url(), "DELETE FROM kombu_limit")


@pytest.mark.parametrize(
    ("statement", "role"),
    [
        ("SELECT payload FROM kombu_message", "sender"),
        ("SELECT task_id, tenant_id FROM kombu_message", "sender"),
        ("DELETE FROM kombu_message", "sender"),
        ("UPDATE kombu_message SET visible = false", "sender"),
        ("SELECT FROM kombu_dead_letter", "sender"),
        ("INSERT INTO kombu_dead_letter (message_id, failures, reason, payload) VALUES (1, 1, '', '')", "sender"),
        ("SELECT body FROM celery_chord", "sender"),
        ("SELECT result FROM celery_taskmeta", "sender"),
        ("SELECT result FROM celery_tasksetmeta", "sender"),
        ("UPDATE kombu_queue SET paused = true", "sender"),
        ("DELETE FROM kombu_queue", "sender"),
        ("SELECT payload FROM kombu_message", "asker"),
        ("DELETE FROM celery_taskmeta", "asker"),
        ("DELETE FROM kombu_dead_letter", "runner"),
        ("SELECT FROM mv_maintenance_activity", "runner"),
        ("SELECT payload FROM kombu_message", "watcher"),
        ("SELECT task_id FROM kombu_message", "watcher"),
        ("SELECT payload FROM kombu_dead_letter", "watcher"),
        ("SELECT result FROM celery_taskmeta", "watcher"),
        ("SELECT args FROM celery_taskmeta", "watcher"),
        ("SELECT FROM customer_event", "watcher"),
        ("SELECT FROM api_key", "sender"),
        ("UPDATE celery_beat_entry SET runs = 0", "sender"),
        ("INSERT INTO kombu_stopped_task (name) VALUES ('x')", "runner"),
    ],
)
def test_what_is_not_ones_work_is_refused(databases: Databases, statement: str, role: str) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        databases.run(databases.url(role), statement)


@pytest.mark.parametrize(
    ("what", "statement", "attempt"),
    [
        ("waiting for a result", "result", lambda app: app.tasks[PING].apply_async(queue="refused").get(timeout=60)),
        ("a revoke", "mark_revoked", lambda app: app.control.revoke("somebody-elses")),
        ("consuming", "register_consumer", lambda app: app.connection_for_read().default_channel.basic_get("refused")),
        (
            "changing a queue",
            "change_queue",
            lambda app: Queue("refused", message_ttl=1)(app.connection_for_write().default_channel).declare(),
        ),
        (
            "deleting a queue",
            "drop_queue",
            lambda app: app.connection_for_write().default_channel.queue_delete("refused"),
        ),
    ],
)
def test_a_producer_is_told_in_one_line_what_it_may_not(
    databases: Databases,
    program: Callable[[str], Celery],
    what: str,
    statement: str,
    attempt: Callable[[Celery], Any],
) -> None:
    app = program("sender")
    app.amqp.queues.add(Queue("refused"))
    app.tasks[PING].apply_async(queue="refused")
    with pytest.raises(SchemaError) as caught:
        attempt(app)
    said = str(caught.value)
    assert "the role sender may not do what the statement" in said
    assert "permission denied for table" in said
    assert "\n" not in said
    assert PASSWORD not in said
    assert statement in said


# -- the worker


def test_a_worker_buries_and_expires(
    databases: Databases, worker: WorkerProcess, program: Callable[[str], Celery]
) -> None:
    app = program("sender")
    app.send_task("no.such.task", task_id="nobody-knows-it")
    app.send_task(PING, task_id="too-late", queue="nobody", expiration=0.001)

    def dead() -> set[Any]:
        return {row[0] for row in databases.run(databases.superuser_url(), "SELECT task_id FROM kombu_dead_letter")}

    wait_until(lambda: {"nobody-knows-it", "too-late"} <= dead(), DEADLINE_S, "two dead letters")


def test_a_worker_sees_the_rows_of_the_tenant_that_it_works_for(databases: Databases) -> None:
    runner = create_engine(databases.url("runner"), poolclass=NullPool)
    with runner.begin() as connection:
        connection.execute(text("SELECT set_config('app.current_tenant_id', :tenant, true)"), {"tenant": TENANT})
        connection.execute(text("INSERT INTO customer_event (tenant_id, kind) VALUES (:t, 'login')"), {"t": TENANT})
        assert connection.execute(text("SELECT count(*) FROM customer_event")).scalar_one() == 1
    with runner.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM customer_event")).scalar_one() == 0


def test_a_worker_under_a_role_that_lacks_something_ends_and_names_it(
    databases: Databases, start_worker: Callable[..., WorkerProcess]
) -> None:
    databases.run(databases.superuser_url(), "CREATE DATABASE lacking TEMPLATE plain")
    databases.run(
        databases.superuser_url("lacking"),
        "REVOKE DELETE ON kombu_message FROM celery_worker",
        "REVOKE USAGE ON SEQUENCE message_id_sequence FROM celery_worker",
    )
    worker = start_worker(databases.url("runner", "lacking"), ready=False)
    assert worker.process.wait(DEADLINE_S) == os.EX_CONFIG
    (line,) = [line for line in worker.log_text().splitlines() if "lacks" in line]
    assert "the role runner of DATABASE_URL lacks DELETE on kombu_message; USAGE on message_id_sequence" in line
    assert "GRANT celery_worker TO runner" in line
    assert PASSWORD not in worker.log_text()
    assert "Traceback" not in worker.log_text()


# -- beat


def test_a_beat_sends_what_is_due(databases: Databases, program: Callable[[str], Celery]) -> None:
    app = program("runner")
    app.conf.beat_schedule = {"often": {"task": PING, "schedule": 0.1, "options": {"queue": "ticks"}}}
    app.conf.result_expires = None
    scheduler = Scheduler(app)

    def sent() -> bool:
        scheduler.tick()
        return rows_of(databases.superuser_url(), "ticks") >= 2

    try:
        wait_until(sent, DEADLINE_S, "two ticks")
    finally:
        scheduler.close()


# -- the monitor


DECLARE = "INSERT INTO kombu_queue (id, name) VALUES (nextval('queue_id_sequence'), 'celery') ON CONFLICT DO NOTHING"


def test_a_monitor_reads_the_gauges(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    databases.run(databases.superuser_url(), DECLARE)
    monkeypatch.setattr(
        queue_depth, "get_settings", lambda: Settings(database_url=databases.url("watcher"), _env_file=None)
    )
    assert "celery" in [row.queue for row in queue_depth.read_queues().queues]


@pytest.mark.parametrize("words", [["queues"], ["consumers"]])
def test_a_monitor_lists_queues_and_consumers(databases: Databases, worker: WorkerProcess, words: list[str]) -> None:
    done = tool(databases.url("watcher"), "--json", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


@pytest.mark.parametrize(
    ("words", "lacking"),
    [
        (["dead", "list"], "dead_letters"),
        (["dead", "show", "1"], "dead_letters"),
        (["purge", "celery", "--yes"], "begin_action"),
        (["cancel", "x"], "messages_of_task"),
        (["pause", "celery"], "begin_action"),
    ],
)
def test_a_monitor_looks_and_does_not_touch(databases: Databases, words: list[str], lacking: str) -> None:
    databases.run(databases.superuser_url(), DECLARE)
    done = tool(databases.url("watcher"), *words)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert f"the role watcher may not do what the statement {lacking} needs" in done.stderr
    assert PASSWORD not in done.stderr


def tool(url: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "celery_postgres", *words],
        env={**os.environ, "DATABASE_URL": url, "PYTHONPATH": str(CHECKOUT / "backend")},
        capture_output=True,
        text=True,
        check=False,
    )


# -- at work, when something is taken away


def test_a_worker_from_which_a_right_is_taken_waits_for_it(
    databases: Databases,
    migrate: Callable[[str], None],
    start_worker: Callable[..., WorkerProcess],
) -> None:
    """And one that starts meanwhile ends with 78: somebody must act first."""
    databases.make("taken")
    migrate(databases.url("deploy", "taken"))
    databases.run(databases.url("deploy", "taken"), ROLES_SQL)
    worker = start_worker(databases.url("runner", "taken"))
    databases.run(databases.url("deploy", "taken"), "REVOKE UPDATE ON kombu_consumer FROM celery_worker")
    refused = "the role runner may not do what the statement beat needs (permission denied for table kombu_consumer)"
    wait_until(lambda: refused in worker.log_text(), DEADLINE_S, "the refusal")
    databases.run(databases.url("deploy", "taken"), ROLES_SQL)
    wait_until(lambda: "The broker is reachable again" in worker.log_text(), DEADLINE_S, "the worker to go on")
    databases.run(databases.url("deploy", "taken"), "REVOKE UPDATE ON kombu_message FROM celery_worker")
    app = create_app(Settings(database_url=databases.url("asker", "taken"), _env_file=None))
    try:
        answer = app.tasks[PING].delay()
        told = "the role runner may not do what the statement claim needs (permission denied for table kombu_message)"
        wait_until(lambda: told in worker.log_text(), DEADLINE_S, "the refusal of a claim")
        assert PASSWORD not in worker.log_text()
        again = start_worker(databases.url("runner", "taken"), ready=False)
        assert again.process.wait(DEADLINE_S) == os.EX_CONFIG
        databases.run(databases.url("deploy", "taken"), ROLES_SQL)
        assert answer.get(timeout=DEADLINE_S)["status"] == "ok"
        assert worker.process.poll() is None
    finally:
        app.close()
        celery_app.set_current()
