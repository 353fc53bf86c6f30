"""Faults made for real: a task's result and its message go together, and each body runs once."""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
from collections.abc import Callable
from typing import Any

import psycopg2
import pytest
from celery import Celery, chord, signature
from celery.exceptions import BackendGetMetaError, ChordError

from celery_postgres.results import persistence
from environment.temporary import TemporaryCluster
from environment.testkit.canvas import chords_gone, count
from environment.testkit.databases import rows
from environment.testkit.probe import DEADLINE_S, POOLS, Probe, ProbeWorker, unique
from environment.testkit.tables import backends, dead_letters, rows_of, run, scalar, terminate
from environment.waiting import wait_until

RESCUE_S = 40
#: Of a task with late acks: a final state and a message that could still be delivered.
BOTH = """
    SELECT count(*) FROM celery_taskmeta AS meta JOIN kombu_message AS message ON message.task_id = meta.task_id
    WHERE meta.status = 'SUCCESS'
"""
#: Neither, of those that were sent.
NEITHER = """
    SELECT count(*) FROM unnest(:ids) AS sent (id)
    WHERE NOT EXISTS (SELECT FROM celery_taskmeta AS meta WHERE meta.task_id = sent.id AND meta.status = 'SUCCESS')
      AND NOT EXISTS (SELECT FROM kombu_message AS message WHERE message.task_id = sent.id)
"""


def send(probe: Probe, name: str, number: int, task: str = "run_late", **options: Any) -> list[str]:
    return [probe.send(task, f"{name}-{one}", **options).id for one in range(number)]


def successes(probe: Probe) -> int:
    return int(scalar(probe.url, "SELECT count(*) FROM celery_taskmeta WHERE status = 'SUCCESS'"))


def all_succeeded(probe: Probe, task_ids: list[str], deadline_s: float = RESCUE_S) -> None:
    """Every task has one row, with the state SUCCESS, and no message is left."""
    statement = (
        "SELECT count(*), count(DISTINCT task_id) FROM celery_taskmeta WHERE status = 'SUCCESS' AND task_id = ANY(:i)"
    )

    def done() -> bool:
        return rows(probe.url, statement, i=task_ids) == [(len(task_ids), len(task_ids))]

    wait_until(done, deadline_s, f"{len(task_ids)} results; {scalar(probe.url, NEITHER, ids=task_ids)} have neither")
    wait_until(lambda: rows_of(probe.url) == 0, RESCUE_S, "every message to be acknowledged")


def consistent(probe: Probe, task_ids: list[str]) -> None:
    assert scalar(probe.url, BOTH) == 0
    assert scalar(probe.url, NEITHER, ids=task_ids) == 0


# -- processes


def test_killed_workers_leave_a_result_or_a_message_of_each_task(probe: Probe) -> None:
    """A worker of each pool is killed at any moment, also between a result and its acknowledgement."""
    chance = random.Random(5)  # noqa: S311  # moments, no secrets
    task_ids: list[str] = []
    workers = [probe.start(pool=pool, ready=False) for pool in POOLS]
    for worker in workers:
        worker.wait_ready()
    for worker in workers:
        enough = successes(probe) + chance.randrange(20, 120)
        task_ids += send(probe, unique("load"), 200)
        wait_until(lambda enough=enough: successes(probe) >= enough, DEADLINE_S, "some results")
        worker.kill()
        consistent(probe, task_ids)
    probe.start(pool="threads", concurrency=4)
    all_succeeded(probe, task_ids)
    assert dead_letters(probe.url) == 0


@pytest.mark.long
@pytest.mark.parametrize("name", POOLS)
def test_a_worker_that_is_killed_repeatedly_loses_no_result(probe: Probe, name: str) -> None:
    chance = random.Random(name)  # noqa: S311  # moments, no secrets
    task_ids = send(probe, unique("load"), 1000)
    for _ in range(8):
        worker = probe.start(pool=name)
        enough = successes(probe) + chance.randrange(1, 80)
        wait_until(lambda enough=enough: successes(probe) >= enough, DEADLINE_S, "some results")
        worker.kill()
        consistent(probe, task_ids)
    probe.start(pool="threads", concurrency=4)
    all_succeeded(probe, task_ids)


@pytest.mark.parametrize("name", POOLS)
def test_a_worker_that_is_told_to_stop_stores_all_its_results(probe: Probe, name: str) -> None:
    """The table is locked, so results queue up; the worker ends only after it has stored them."""
    worker = probe.start(pool=name)
    tag = unique("stop")
    with psycopg2.connect(probe.url) as locker, locker.cursor() as cursor:
        cursor.execute("LOCK TABLE celery_taskmeta IN SHARE MODE")
        task_ids = send(probe, tag, 12)
        probe.wait_for("end", f"{tag}-*", POOLS[name])
        os.kill(worker.pid, signal.SIGTERM)
        wait_until(lambda: "Warm shutdown" in worker.log_text(), DEADLINE_S, "the worker to hear of it")
    wait_until(lambda: worker.process.poll() is not None, RESCUE_S, "the worker to end")
    assert worker.process.returncode == 0
    consistent(probe, task_ids)
    ran = {note["id"] for note in probe.notes("end", f"{tag}-*")}
    assert successes(probe) == len(ran)
    probe.start()
    all_succeeded(probe, task_ids)
    assert len(probe.notes("start", f"{tag}-*")) == len(task_ids)


def test_killing_a_child_after_its_result_loses_nothing(probe: Probe) -> None:
    probe.start(pool="prefork")
    task_ids = send(probe, unique("load"), 60)
    dying = probe.send("die", unique("dying"))
    task_ids += [dying.id, *send(probe, unique("more"), 60)]
    all_succeeded(probe, task_ids)


@pytest.mark.long
def test_a_lost_lease_changes_no_result(probe: Probe) -> None:
    """Other workers took this live worker for dead: both executions end, and there is one result."""
    gate, tag = unique("gate"), unique("held")
    probe.start(pool="threads")
    task_ids = [probe.send("run_late", f"{tag}-{number}", gate).id for number in range(3)]
    probe.wait_for("start", f"{tag}-*", 3)
    claims = [f"{one}.{fence}" for one, fence in rows(probe.url, "SELECT id, fence FROM kombu_message")]
    held = "SELECT count(*) FROM kombu_message WHERE id || '.' || fence = ANY(:c)"
    run(probe.url, "DELETE FROM kombu_consumer")
    probe.start(pool="threads")
    wait_until(lambda: scalar(probe.url, held, c=claims) == 0, RESCUE_S, "the old claims to be void")
    probe.open(gate)
    all_succeeded(probe, task_ids)
    after = send(probe, unique("after"), 20)
    all_succeeded(probe, after)


# -- connections


@pytest.mark.parametrize("name", POOLS)
def test_terminated_connections_lose_no_result(probe: Probe, name: str) -> None:
    """All connections of the worker and of the waiting client are terminated several times under load."""
    worker = probe.start(pool=name)
    tag = unique("cut")
    task_ids = send(probe, tag, 150)
    got: list[Any] = []
    waiters = [
        threading.Thread(target=lambda one=one: got.append(probe.app.AsyncResult(one).get(timeout=RESCUE_S)))
        for one in task_ids[-20:]
    ]
    for waiter in waiters:
        waiter.start()
    for done in (10, 50, 90):
        wait_until(lambda done=done: successes(probe) >= done, DEADLINE_S, "some results")
        for application in (worker.application_name, "probe-results"):
            for pid in backends(probe.url, application):
                terminate(probe.url, pid)
    all_succeeded(probe, task_ids)
    for waiter in waiters:
        waiter.join()
    assert sorted(got) == sorted(f"{tag}-{number}" for number in range(130, 150))
    assert len(probe.notes("start", f"{tag}-*")) == len(task_ids)
    assert worker.process.poll() is None


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("prefork", "fast"),
        ("threads", "immediate"),
        pytest.param("solo", "fast", marks=pytest.mark.long),
        pytest.param("solo", "immediate", marks=pytest.mark.long),
        pytest.param("threads", "fast", marks=pytest.mark.long),
        pytest.param("prefork", "immediate", marks=pytest.mark.long),
    ],
)
def test_a_server_restart_loses_no_result(
    durable_cluster: TemporaryCluster, make_probe: Callable[..., Probe], name: str, mode: str
) -> None:
    probe = make_probe(durable_cluster.url())
    worker = probe.start(pool=name, conf={"worker_cancel_long_running_tasks_on_connection_loss": False})
    tag, gate = unique("load"), unique("gate")
    task_ids = send(probe, tag, 200)
    last = probe.send("run_late", unique("last"), gate, priority=0)
    got: list[Any] = []
    waiters = [
        threading.Thread(target=lambda one=one: got.append(probe.app.AsyncResult(one).get(timeout=2 * RESCUE_S)))
        for one in [*task_ids[-5:], last.id]
    ]
    for waiter in waiters:
        waiter.start()
    for done in (20, 90):
        wait_until(lambda done=done: successes(probe) >= done, RESCUE_S, "some results")
        durable_cluster.stop(mode)
        durable_cluster.start()
        if mode == "immediate":
            # A crash forgets the claims of its last 0.6 s. Tasks that run under them end, and run once more.
            wait_until(lambda: scalar(probe.url, BOTH) == 0, RESCUE_S, "what ran under a forgotten claim to run again")
        consistent(probe, [*task_ids, last.id])
    probe.open(gate)
    for waiter in waiters:
        waiter.join()
    assert len(got) == 6
    all_succeeded(probe, [*task_ids, last.id])
    assert worker.process.poll() is None


@pytest.mark.parametrize("pool", POOLS)
def test_results_refused_for_lack_of_rights_are_stored_when_the_rights_are_back(probe: Probe, pool: str) -> None:
    """A right was revoked by mistake and granted again: meanwhile no task has failed, and none was discarded unrun."""
    right = "INSERT, UPDATE ON celery_taskmeta"
    run(probe.url, f"REVOKE {right} FROM CURRENT_USER")
    worker = probe.start(pool=pool)
    name = unique("work")
    results = [probe.send("run_late", f"{name}-{number}") for number in range(3)]
    probe.wait_for("end", f"{name}-0")
    wait_until(lambda: "permission denied" in worker.log_text(), DEADLINE_S, "the worker to be refused")
    assert rows(probe.url, "SELECT count(*) FROM kombu_message") != [(0,)]
    run(probe.url, f"GRANT {right} TO CURRENT_USER")
    assert [result.get(timeout=RESCUE_S) for result in results] == [f"{name}-{number}" for number in range(3)]
    assert len(probe.notes("end", f"{name}-*")) == 3


# -- chords


def parts(probe: Probe, size: int, task: str = "add") -> list[Any]:
    return [signature(f"probe.{task}", (number,), app=probe.app) for number in range(size)]


def body(probe: Probe, tag: str) -> Any:
    return signature("probe.body", kwargs={"tag": tag}, app=probe.app)


@pytest.mark.parametrize("pool", POOLS)
def test_a_chord_is_deleted_after_the_failure_of_its_body_is_stored(probe: Probe, pool: str) -> None:
    """A worker that is killed in between would leave a body that is never sent and never fails."""
    run(
        probe.url,
        "CREATE TABLE stored_first (status text)",
        """
        CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO stored_first SELECT coalesce(max(status), 'none') FROM celery_taskmeta
            WHERE task_id = CAST(OLD.body AS json) #>> '{options,task_id}';
            RETURN OLD;
        END $$
        """,
        "CREATE TRIGGER look BEFORE DELETE ON celery_chord FOR EACH ROW EXECUTE FUNCTION look()",
    )
    probe.start(pool=pool)
    header = [*parts(probe, 2), signature("probe.fail", (unique("part"),), app=probe.app)]
    result = chord(header, body(probe, unique("body"))).apply_async()
    assert isinstance(result.get(timeout=RESCUE_S, propagate=False), ChordError)
    chords_gone(probe.url)
    assert rows(probe.url, "SELECT status FROM stored_first") == [("FAILURE",)]


def test_a_retried_read_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    # Not the package's own logger: what others have done to logging in this process is not the question.
    logger, records = logging.Logger("here"), list[logging.LogRecord]()
    logger.addFilter(records.append)  # type: ignore[arg-type]
    monkeypatch.setattr(persistence, "logger", logger)
    app = Celery("client", backend="db+postgresql://u:hunter2@127.0.0.1:1/d", set_as_current=False)
    app.conf.update(result_backend_always_retry=True, result_backend_max_retries=4)
    with pytest.raises(BackendGetMetaError):
        _ = app.AsyncResult("nobody").state
    messages = [one.getMessage() for one in records]
    assert len(messages) == 1, messages
    assert "Connection refused" in messages[0]
    assert "hunter2" not in messages[0]


def test_many_chords_on_four_workers_send_one_body_each(probe: Probe) -> None:
    """The last parts of a chord often end in two processes at the same time."""
    workers: list[ProbeWorker] = [
        probe.start(pool=pool, ready=False) for pool in ("prefork", "threads", "solo", "prefork")
    ]
    for worker in workers:
        worker.wait_ready()
    name = unique("body")
    results = [chord(parts(probe, 4), body(probe, f"{name}-{number}")).apply_async() for number in range(60)]
    for result in results:
        assert result.get(timeout=RESCUE_S) == [0, 1, 2, 3]
    chords_gone(probe.url)
    wait_until(lambda: rows_of(probe.url) == 0, DEADLINE_S, "all messages to go")
    assert set(probe.wait_for_all("body", [f"{name}-{number}" for number in range(60)]).values()) == {1}


def test_a_chord_of_a_thousand_parts(probe: Probe) -> None:
    probe.start(pool="threads")
    tag = unique("body")
    result = chord(parts(probe, 1000), body(probe, tag)).apply_async()
    assert result.get(timeout=RESCUE_S) == list(range(1000))
    assert len(probe.notes("body", tag)) == 1
    chords_gone(probe.url)


@pytest.mark.long
def test_killed_workers_lose_no_chord_body(probe: Probe) -> None:
    name = unique("body")
    late = [signature("probe.run_late", (f"{name}-part",), app=probe.app) for _ in range(3)]
    results = [chord(late, body(probe, f"{name}-{number}")).apply_async() for number in range(40)]
    for pool in ("prefork", "threads"):
        worker = probe.start(pool=pool)
        enough = successes(probe) + 25
        wait_until(lambda enough=enough: successes(probe) >= enough, DEADLINE_S, "some parts to end")
        worker.kill()
    probe.start(pool="threads", concurrency=4)
    for result in results:
        # A body acknowledges early, so those that had begun may be gone with their worker, as on every broker.
        wait_until(
            lambda result=result: (
                bool(rows(probe.url, "SELECT 1 FROM celery_chord WHERE id = :i", i=result.parent.id)) is False
            ),
            RESCUE_S,
            "the chord to end",
        )
    assert count(probe.url, "celery_chord") == 0
    wait_until(lambda: rows_of(probe.url) == 0, RESCUE_S, "all messages to go")
    assert all(len(probe.notes("body", f"{name}-{number}")) <= 1 for number in range(40))
    assert len(probe.notes("body", f"{name}-*")) >= 40 - 2 * 4
