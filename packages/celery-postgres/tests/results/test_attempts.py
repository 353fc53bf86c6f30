"""Attempts that did not simply succeed are remembered, whoever ended them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from celery import Celery, states
from celery.app.task import Context

from celery_postgres.consumer import history
from celery_postgres.database.attempt_store import AttemptStore, EndedAttempt, Retention
from celery_postgres.database.options import ResultOptions
from celery_postgres.database.session import Session
from celery_postgres.errors import OptionError
from celery_postgres.results.attempts import attempt_of
from celery_postgres.results.backend import DatabaseBackend
from environment.testkit.canvas import answer
from environment.testkit.databases import rows, run
from environment.testkit.deadlines import RESCUE_S
from environment.testkit.probe import Probe
from environment.testkit.tables import scalar

KINDS = "SELECT state, error, retries FROM celery_attempt WHERE task_id = :id ORDER BY ended_at, id"
TOLD = """
    SELECT DISTINCT name, queue, worker LIKE '%@%', published_at <= started_at AND started_at <= ended_at,
        tenant_id::text
    FROM celery_attempt WHERE task_id = ANY (:ids)
"""
Until = Callable[..., Any]


def remembered(url: str, task_id: str, count: int, wait_until: Until) -> list[tuple[Any, ...]]:
    """The attempts of a task, once there are `count`."""
    wait_until(lambda: len(rows(url, KINDS, id=task_id)) >= count, 30, f"{count} attempts of {task_id}")
    return rows(url, KINDS, id=task_id)


def test_every_pool_remembers_what_was_retried_and_failed(pool: Probe, wait_until: Until) -> None:
    tenant = str(uuid.uuid4())
    good = pool.send("add", 1, 1)
    retried = pool.send("again", "t", headers={"tenant_id": tenant})
    failed = pool.send("raise_error", "s3cret", kwargs={"kind": "key"}, headers={"tenant_id": tenant})
    assert (answer(good), answer(retried)) == (2, 2)
    assert remembered(pool.url, retried.id, 2, wait_until) == [("retried", None, 0), ("retried", None, 1)]
    assert remembered(pool.url, failed.id, 1, wait_until) == [("failed", "KeyError", 0)]
    assert rows(pool.url, KINDS, id=good.id) == []
    assert sorted(rows(pool.url, TOLD, ids=[retried.id, failed.id])) == [
        ("probe.again", "celery", True, True, tenant),
        ("probe.raise_error", "celery", True, True, tenant),
    ]
    ((traceback,),) = rows(pool.url, "SELECT traceback FROM celery_attempt WHERE task_id = :id", id=failed.id)
    assert traceback.rstrip().endswith("KeyError: 's3cret'")


def test_every_pool_remembers_the_end_of_a_task_that_ignores_its_result(pool: Probe, wait_until: Until) -> None:
    retried = pool.send("again", "t", ignore_result=True)
    failed = pool.send("raise_error", "x", ignore_result=True)
    assert remembered(pool.url, retried.id, 2, wait_until) == [("retried", None, 0), ("retried", None, 1)]
    assert remembered(pool.url, failed.id, 1, wait_until) == [("failed", "ProbeError", 0)]
    assert rows(pool.url, "SELECT FROM celery_taskmeta WHERE task_id = ANY (:ids)", ids=[failed.id]) == []


def test_a_revoked_task_is_remembered(pool: Probe, wait_until: Until) -> None:
    expired = pool.send("add", 1, expires=-1)
    assert remembered(pool.url, expired.id, 1, wait_until) == [("revoked", "expired", 0)]


@pytest.mark.parametrize("max_failures", [5, 1], ids=["runs again", "becomes a dead letter"])
def test_a_killed_workers_attempt_is_lost(probe: Probe, max_failures: int, wait_until: Until) -> None:
    """Another worker writes it, in the statement that releases the message."""
    worker = probe.start()
    sent = probe.send("run_late", "tag", "gate", headers={"tenant_id": str(uuid.uuid4())})
    probe.wait_for("start", "tag")
    worker.kill()
    probe.start(conf={"broker_transport_options": {"max_failures": max_failures}})
    probe.open("gate")
    expected = ["lost"] if max_failures > 1 else ["lost", "dead"]
    wait_until(lambda: len(rows(probe.url, KINDS, id=sent.id)) == len(expected), RESCUE_S, "the lost attempt")
    told = rows(
        probe.url,
        "SELECT state, name, queue, worker NOT LIKE 'consumer %', started_at >= published_at, tenant_id IS NOT NULL"
        " FROM celery_attempt WHERE task_id = :id",
        id=sent.id,
    )
    assert ("lost", "probe.run_late", "celery", True, True, True) in told
    assert {state for state, *_ in told} == set(expected)


def test_what_the_main_process_ends_is_one_attempt_with_its_beginning(probe: Probe, wait_until: Until) -> None:
    """Celery reports a task that its hard time limit has killed twice, and both times to the main process."""
    probe.start(pool="prefork", concurrency=2)
    slow, busy = probe.send("spin", "slow", time_limit=1), probe.send("spin", "busy")
    probe.wait_for("start", "busy")
    busy.revoke(terminate=True, signal="SIGKILL")
    assert remembered(probe.url, slow.id, 1, wait_until) == [("failed", "TimeLimitExceeded", 0)]
    assert remembered(probe.url, busy.id, 1, wait_until) == [("revoked", "terminated", 0)]
    probe.start(pool="solo", queues=["later"])
    assert answer(probe.send("add", 1, 1, queue="later")) == 2
    assert scalar(probe.url, "SELECT count(*) FROM celery_attempt WHERE started_at < ended_at") == 2


def request(**more: Any) -> Context:
    return Context({"id": "t", "task": "mine.task", "hostname": "w@h", "retries": 1, "properties": {}} | more)


def fail(backend: DatabaseBackend, task_id: str, error: Exception | None = None, **more: Any) -> None:
    backend.mark_as_failure(task_id, error or ValueError("v"), traceback="tb", request=request(**more))
    backend.flush()


def test_what_cannot_be_remembered_costs_no_result(
    make_app: Callable[..., Celery], task_id: str, module_database: Any
) -> None:
    """The rights of a role that was made before the table was."""
    backend: Any = make_app().backend
    run(module_database.url, "ALTER TABLE celery_attempt RENAME TO away")
    try:
        fail(backend, task_id)
    finally:
        run(module_database.url, "ALTER TABLE away RENAME TO celery_attempt")
    assert scalar(module_database.url, "SELECT status FROM celery_taskmeta WHERE task_id = :i", i=task_id) == "FAILURE"
    assert rows(module_database.url, KINDS, id=task_id) == []


def test_remembering_can_be_off(make_app: Callable[..., Celery], task_id: str, module_database: Any) -> None:
    backend: Any = make_app(result_backend_transport_options={"history": 0}).backend
    fail(backend, task_id)
    assert rows(module_database.url, KINDS, id=task_id) == []
    assert backend.get_state(task_id) == states.FAILURE


def test_hostile_requests_are_remembered_as_far_as_they_go(
    backend: DatabaseBackend, task_id: str, module_database: Any
) -> None:
    hostile = {
        "task": "a\0b",
        "hostname": "\ud800",
        "retries": 1 << 40,
        "tenant_id": "\0",
        "properties": {"due_at": "x"},
    }
    backend.mark_as_revoked(task_id, "why\0\ud800" + "x" * 200, request=request(**hostile))
    named = type("x" * 300, (Exception,), {})
    fail(backend, task_id, named())
    found = rows(module_database.url, KINDS, id=task_id)
    assert [(state, len(error), retries) for state, error, retries in found] == [
        ("revoked", 155, None),
        ("failed", 155, 1),
    ]


def test_an_eager_task_and_a_client_end_no_attempt() -> None:
    assert attempt_of("t", "failed", ValueError(), None, None) is None
    assert attempt_of("t", "failed", ValueError(), None, request(is_eager=True)) is None
    assert attempt_of(["t"], "failed", ValueError(), None, request()) is None


def test_old_attempts_are_deleted_by_age_and_by_number(backend: DatabaseBackend, module_database: Any) -> None:
    url = module_database.url
    run(url, "DELETE FROM celery_attempt")
    store: AttemptStore = backend.result_store.attempts
    store.record(EndedAttempt(f"kept-{number}", "failed") for number in range(30))
    run(url, "UPDATE celery_attempt SET recorded_at = now() - interval '8 days' WHERE task_id LIKE '%-1_'")
    assert not store.drop_old(Retention())
    assert scalar(url, "SELECT count(*) FROM celery_attempt") == 20
    assert not store.drop_old(Retention(rows=5))
    assert rows(url, "SELECT task_id FROM celery_attempt ORDER BY id") == [(f"kept-{n}",) for n in range(25, 30)]
    store.BATCH = 2  # type: ignore[misc]
    assert store.drop_old(Retention(seconds=0))
    backend.kept = Retention(seconds=0)
    backend.cleanup()
    assert scalar(url, "SELECT count(*) FROM celery_attempt") == 0


def test_consumers_delete_what_is_no_longer_kept(backend: DatabaseBackend, module_database: Any) -> None:
    """Where the broker is another database than that of the results, nobody else does."""
    backend.result_store.attempts.record([EndedAttempt("kept", "lost")])
    with closing(Session(module_database.url)) as session:
        history.drop_old(session)
        assert rows(module_database.url, KINDS, id="kept") == [("lost", None, None)]
        history.keep(Retention(seconds=0))
        try:
            history.drop_old(session)
        finally:
            history.keep(Retention())
    assert rows(module_database.url, KINDS, id="kept") == []


@pytest.mark.parametrize(
    "given", [{"history": -1}, {"history": "week"}, {"history": True}, {"history_rows": 0}, {"histroy": 1}]
)
def test_a_wrong_setting_is_refused_in_one_line(given: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="histor") as refused:
        ResultOptions.of(given)
    assert "\n" not in str(refused.value)
