"""An outage is not the failure of a task, and a temporary error is not the refusal of a value."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from celery import chain, chord, signature

import celery_postgres
from app.core.dsn import PostgresDSN
from celery_postgres.broker.transaction import publishing_on
from celery_postgres.database.backoff import Backoff
from celery_postgres.errors import NotPublishedError, is_lasting
from celery_postgres.results.records import LONGEST
from environment.temporary import TemporaryCluster
from environment.testkit.databases import rows
from environment.testkit.probe import DEADLINE_S, POOLS, Probe, unique
from environment.testkit.tables import rows_of, run, scalar
from environment.waiting import wait_until

RESCUE_S = 60
STAYS = {"worker_cancel_long_running_tasks_on_connection_loss": False}


@pytest.fixture
def own(private_cluster: TemporaryCluster, make_probe: Callable[..., Probe]) -> Probe:
    """A probe on a server of its own, with durable commits."""
    private_cluster.options["synchronous_commit"] = "on"
    private_cluster.restart()
    celery_postgres.create_schema(private_cluster.url())
    return make_probe(private_cluster.url())


def come(results: list[Any]) -> list[tuple[str, Any]]:
    """Wait for all of them. Returns state and result of each."""
    wait_until(lambda: all(one.ready() for one in results), RESCUE_S, "the results")
    return [(one.state, one.result) for one in results]


# -- an outage


@pytest.mark.parametrize(
    ("pool", "task"),
    [
        ("prefork", "run_late"),
        ("threads", "run"),
        pytest.param("prefork", "run", marks=pytest.mark.long),
        pytest.param("solo", "run_late", marks=pytest.mark.long),
    ],
)
def test_an_outage_longer_than_a_time_limit_fails_no_successful_task(
    own: Probe, private_cluster: TemporaryCluster, pool: str, task: str
) -> None:
    gate, tag = unique("gate"), unique("work")
    worker = own.start(pool=pool, conf=STAYS)
    number = POOLS[pool]
    results = [
        own.send(task, f"{tag}-{one}", gate, time_limit=12, soft_time_limit=10)
        if pool == "prefork"
        else own.send(task, f"{tag}-{one}", gate)
        for one in range(number)
    ]
    own.wait_for("start", f"{tag}-*", number)
    private_cluster.stop("fast")
    own.open(gate)
    own.wait_for("end", f"{tag}-*", number)
    ended = max(note["at"] for note in own.notes("end", f"{tag}-*"))
    wait_until(lambda: time.time() > ended + 13, DEADLINE_S, "the time limits to be over")
    private_cluster.start()
    assert come(results) == [("SUCCESS", f"{tag}-{one}") for one in range(number)]
    assert len(own.notes("start", f"{tag}-*")) == number
    wait_until(lambda: rows_of(own.url) == 0, DEADLINE_S, "the messages to be acknowledged")
    assert worker.process.poll() is None


@pytest.mark.long
def test_an_outage_of_more_than_a_minute_fails_no_successful_task(
    own: Probe, private_cluster: TemporaryCluster
) -> None:
    gate, tag = unique("gate"), unique("work")
    own.start(pool="prefork", conf=STAYS)
    results = [own.send("run_late", f"{tag}-{one}", gate) for one in range(2)]
    own.wait_for("start", f"{tag}-*", 2)
    private_cluster.stop("fast")
    own.open(gate)
    own.wait_for("end", f"{tag}-*", 2)
    ended = time.time()
    wait_until(lambda: time.time() > ended + 80, 100, "80 s")
    private_cluster.start()
    assert come(results) == [("SUCCESS", f"{tag}-{one}") for one in range(2)]
    wait_until(lambda: rows_of(own.url) == 0, DEADLINE_S, "the messages to be acknowledged")
    assert len(own.notes("start", f"{tag}-*")) == 2


@pytest.mark.long
@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_that_stops_in_an_outage_leaves_its_late_tasks_to_run_again(
    own: Probe, private_cluster: TemporaryCluster, pool: str
) -> None:
    gate, tag = unique("gate"), unique("work")
    worker = own.start(pool=pool, conf=STAYS)
    number = POOLS[pool]
    results = [own.send("run_late", f"{tag}-{one}", gate) for one in range(number)]
    own.wait_for("start", f"{tag}-*", number)
    private_cluster.stop("fast")
    own.open(gate)
    own.wait_for("end", f"{tag}-*", number)
    os.kill(worker.pid, signal.SIGTERM)
    wait_until(lambda: worker.process.poll() is not None, RESCUE_S, "the worker to end")
    private_cluster.start()
    own.start(pool="threads")
    assert come(results) == [("SUCCESS", f"{tag}-{one}") for one in range(number)]
    assert len(own.notes("start", f"{tag}-*")) == 2 * number


@pytest.mark.parametrize(
    "pool", ["threads", *(pytest.param(one, marks=pytest.mark.long) for one in ("solo", "prefork"))]
)
def test_a_task_whose_chain_cannot_continue_has_not_failed(
    own: Probe, private_cluster: TemporaryCluster, pool: str
) -> None:
    """What follows it could not be sent, and is sent later."""
    gate, tag = unique("gate"), unique("work")
    worker = own.start(pool=pool, conf=STAYS)
    app = own.app
    first = signature("probe.run_late", (f"{tag}-first", gate), app=app)
    result = chain(first, signature("probe.echo", app=app)).apply_async()
    own.wait_for("start", f"{tag}-first")
    private_cluster.stop("fast")
    own.open(gate)
    own.wait_for("end", f"{tag}-first")
    wait_until(lambda: "Cannot send what follows a task" in worker.log_text(), RESCUE_S, "the first try")
    private_cluster.start()
    assert come([result.parent, result]) == [("SUCCESS", f"{tag}-first")] * 2
    wait_until(lambda: rows_of(own.url) == 0, DEADLINE_S, "the messages to be acknowledged")


@pytest.mark.parametrize("pool", ["threads", pytest.param("prefork", marks=pytest.mark.long)])
def test_a_retry_that_cannot_be_published_is_published_later(
    own: Probe, private_cluster: TemporaryCluster, pool: str
) -> None:
    """Celery rejects the message, which once became a dead letter and left its task without a state."""
    gate, tag = unique("gate"), unique("work")
    worker = own.start(pool=pool, conf=STAYS)
    result = own.send("retry_late", tag, gate)
    own.wait_for("start", tag)
    private_cluster.stop("fast")
    own.open(gate)
    wait_until(lambda: "Cannot send what follows a task" in worker.log_text(), RESCUE_S, "the retry to be refused")
    private_cluster.start()
    assert come([result]) == [("SUCCESS", tag)]
    wait_until(lambda: rows_of(own.url) == 0, DEADLINE_S, "the messages to be acknowledged")
    assert scalar(own.url, "SELECT count(*) FROM kombu_dead_letter") == 0


@pytest.mark.parametrize("longer", [0, LONGEST], ids=["passed on", "stored by the child"])
def test_children_without_a_connection_fail_no_task(own: Probe, private_cluster: TemporaryCluster, longer: int) -> None:
    """The role has so few connections that the main process and one or two children take them all."""
    gate, tag = unique("gate"), unique("work")
    for one in range(8):
        own.send("run_late", f"{tag}-{one}" + "x" * longer, gate)  # and returns it
    own.close_client()
    worker = own.start(pool="prefork", concurrency=8)
    own.wait_for("start", f"{tag}-*", 8)
    assert private_cluster.superuser_url is not None
    run(private_cluster.superuser_url, "ALTER ROLE app_user CONNECTION LIMIT 5")
    own.open(gate)
    states = "SELECT status, count(*) FROM celery_taskmeta GROUP BY status"
    url = private_cluster.superuser_url.replace("/postgres?", f"/{own.url.partition('@/')[2].partition('?')[0]}?")
    wait_until(lambda: rows(url, states) == [("SUCCESS", 8)], RESCUE_S, "8 successes")
    wait_until(lambda: rows_of(url) == 0, DEADLINE_S, "the messages to be acknowledged")
    assert len(own.notes("end", f"{tag}-*")) == 8
    assert ("too many connections" in worker.log_text()) is bool(longer)


# -- lasting and temporary errors


def raised(url: str, statement: str) -> psycopg2.Error:
    """The error of a statement."""
    connection = psycopg2.connect(PostgresDSN.parse(url).libpq())
    with closing(connection), pytest.raises(psycopg2.Error) as caught:
        connection.cursor().execute(statement)
    return caught.value


@pytest.mark.parametrize(
    ("statement", "lasting"),
    [
        ("SELECT 'x'::integer", True),
        ("SELECT repeat('x', 1000)::varchar(5) UNION SELECT (1 / 0)::text", True),
        ("INSERT INTO kombu_queue (id, name) VALUES (1, 'a'), (2, 'a')", True),
        ("INSERT INTO kombu_queue (id, name) VALUES (1, 'a'), (1, 'b')", False),  # a sequence that lags
        ("INSERT INTO celery_taskmeta (id, task_id) VALUES (1, 'a'), (1, 'b')", False),
        ("CREATE TABLE wide (t text); CREATE INDEX ON wide (t);"
         " INSERT INTO wide SELECT string_agg(md5(n::text), '') FROM generate_series(1, 1000) n", True),
        ("SELECT * FROM nowhere", False),
        ("SELECT nothing FROM kombu_queue", False),
        ("SET TRANSACTION READ ONLY; DELETE FROM kombu_queue", False),
        ("SET statement_timeout = 50; SELECT pg_sleep(5)", False),
        ("SET ROLE pg_monitor", False),
        ("SELECT pg_terminate_backend(pg_backend_pid())", False),
    ],
)  # fmt: skip
def test_refused_values_are_lasting_errors_and_everything_else_is_not(
    plain_database: Any, statement: str, lasting: bool
) -> None:
    assert is_lasting(raised(plain_database.url, statement)) is lasting


@pytest.mark.parametrize("code", ["53000", "53100", "53200", "53300", "53400", "57P01", "57P03", "57014", "40001",
                                  "40P01", "25006", "55P03", "08006", "42501", "58030", "XX000", "F0000"])  # fmt: skip
def test_conditions_of_the_server_are_not_lasting_errors(plain_database: Any, code: str) -> None:
    statement = f"DO $$ BEGIN RAISE SQLSTATE '{code}'; END $$"
    assert not is_lasting(raised(plain_database.url, statement))


def test_a_value_that_the_driver_cannot_send_is_a_lasting_error() -> None:
    assert is_lasting(ValueError())
    assert is_lasting(psycopg2.ProgrammingError("can't adapt type"))
    assert not is_lasting(psycopg2.OperationalError("server closed the connection unexpectedly"))
    assert not is_lasting(psycopg2.InterfaceError("connection already closed"))
    assert not is_lasting(OSError())


# -- sequences that lag

LAG = """
    INSERT INTO kombu_queue (id, name) SELECT n, 'lag-' || n FROM generate_series(1, 300) n ON CONFLICT DO NOTHING;
    INSERT INTO kombu_message (id, visible, payload, version, queue_id)
    SELECT n, true, '', 1, -1 FROM generate_series(1, 3000) n ON CONFLICT DO NOTHING;
    INSERT INTO celery_taskmeta (id, task_id) SELECT n, 'lag-' || n FROM generate_series(1, 3000) n
    ON CONFLICT DO NOTHING;
    INSERT INTO celery_tasksetmeta (id, taskset_id) SELECT n, 'lag-' || n FROM generate_series(1, 3000) n
    ON CONFLICT DO NOTHING;
    INSERT INTO kombu_consumer (id, hostname, pid) OVERRIDING SYSTEM VALUE
    SELECT n, 'x', 1 FROM generate_series(1, 5) n ON CONFLICT DO NOTHING;
    INSERT INTO kombu_dead_letter (id, message_id, failures, reason, payload) OVERRIDING SYSTEM VALUE
    SELECT n, 1, 1, '', '' FROM generate_series(1, 3000) n ON CONFLICT DO NOTHING;
"""


@pytest.mark.parametrize("pool", POOLS)
def test_lagging_sequences_lose_nothing(probe: Probe, pool: str) -> None:
    """As after logical replication, which copies rows but no sequences."""
    run(probe.url, LAG)
    tag = unique("work")
    results = [probe.send("run_late", f"{tag}-{one}") for one in range(20)]
    probe.start(pool=pool)
    body = chord([signature("probe.add", (one,), app=probe.app) for one in range(4)],
                 signature("probe.total", app=probe.app)).apply_async()  # fmt: skip
    rejected = probe.send("reject", unique("rejected"))
    assert come([*results, body]) == [*(("SUCCESS", f"{tag}-{one}") for one in range(20)), ("SUCCESS", 6)]
    dead = "SELECT count(*) FROM kombu_dead_letter WHERE task_id = :i"
    wait_until(lambda: scalar(probe.url, dead, i=rejected.id) == 1, DEADLINE_S, "the dead letter")
    saved = probe.app.GroupResult(unique("group"), results)
    saved.save()
    assert probe.app.GroupResult.restore(saved.id).get(timeout=DEADLINE_S) == [f"{tag}-{one}" for one in range(20)]
    assert scalar(probe.url, "SELECT count(*) FROM kombu_consumer WHERE id > 5") == 1
    queue = unique("queue")
    probe.send("run", tag, queue=queue)
    assert rows_of(probe.url, queue) == 1


def test_a_callers_transaction_that_meets_a_lagging_sequence_may_be_repeated(probe: Probe) -> None:
    probe.send("run", "first")
    run(probe.url, LAG)
    with psycopg2.connect(PostgresDSN.parse(probe.url).libpq()) as connection:
        with pytest.raises(NotPublishedError) as caught, publishing_on(connection):
            probe.send("run", "again")
        assert caught.value.sqlstate == "40001"
        assert not caught.value.lasting
        connection.rollback()
        with publishing_on(connection):
            probe.send("run", "again")
    assert rows_of(probe.url, "celery") == 2


# -- pauses


def test_pauses_double_and_are_never_cut_short() -> None:
    retry = Backoff()
    pauses = [retry.failed() for _ in range(12)]
    assert all(0.75 * 0.05 <= pause <= 2.0 for pause in pauses)
    assert pauses[-1] >= 1.5
    assert retry.left > 1
    retry.succeeded()
    assert retry.left == 0
    assert retry.failed() >= 1.5, "what fails again at once has not been mended"


@pytest.mark.parametrize("spawned", [True, False])
def test_a_spawned_child_has_the_patience_that_a_client_has_not(
    probe: Probe, monkeypatch: pytest.MonkeyPatch, spawned: bool
) -> None:
    """It has no main process that it could hand its result to."""
    backend, attempts = probe.app.backend, []
    monkeypatch.setattr(type(backend), "PATIENCE_S", -1.0)
    monkeypatch.setattr("celery_postgres.results.persistence.is_spawned", lambda: spawned)

    def work() -> str:
        attempts.append(1)
        if len(attempts) < 4:
            raise psycopg2.OperationalError("unreachable")
        return "stored"

    if spawned:
        assert backend.persistently(work) == "stored"
    else:
        with pytest.raises(psycopg2.OperationalError):
            backend.persistently(work)
    assert len(attempts) == (4 if spawned else 1)
