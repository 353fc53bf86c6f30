"""What the views show of tasks that have ended: from results, and from attempts where no result is kept."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from celery_postgres.readmodel import ReadModel, State, TaskFilter
from environment.testkit.tables import run

TENANT, OTHER = "00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000b"
META = (
    "INSERT INTO celery_taskmeta (id, task_id, status, date_done, name, queue, worker, retries, tenant_id, root_id,"
    " parent_id, published_at, due_at, started_at) VALUES (nextval('task_id_sequence'), "
)
ATTEMPT = (
    "INSERT INTO celery_attempt (task_id, state, name, queue, tenant_id, worker, retries, published_at, started_at,"
    " ended_at, error, traceback) VALUES ("
)


@pytest.fixture
def url(plain_database: Any) -> str:
    return str(plain_database.url)


@pytest.fixture
def model(url: str) -> Iterator[ReadModel]:
    model = ReadModel(url)
    yield model
    model.close()


def at(seconds: float) -> str:
    """A time of an hour ago, and so many seconds."""
    return f"now() - interval '1 hour' + {seconds} * interval '1 s'"


def result(url: str, task_id: str, status: str = "SUCCESS", *, tenant: str = TENANT, due: str = "NULL") -> None:
    run(
        url,
        f"{META} '{task_id}', '{status}', ({at(9)}) AT TIME ZONE 'UTC', 'mine.task', 'q', 'w@h', 1, '{tenant}', 'root',"
        f" 'parent', {at(0)}, {due}, {at(5)})",
    )


def attempt(url: str, task_id: str, state: str, ended: float, error: str = "ValueError", tenant: str = TENANT) -> None:
    run(
        url,
        f"{ATTEMPT} '{task_id}', '{state}', 'mine.task', 'q', '{tenant}', 'w@h', 0, {at(0)}, {at(1)}, {at(ended)},"
        f" '{error}', 'Traceback: s3cret')",
    )


def test_an_ended_task_tells_how_long_it_waited_and_ran(url: str, model: ReadModel) -> None:
    result(url, "at-once")
    result(url, "scheduled", due=at(3.5))
    (scheduled, alone) = sorted(model.tasks(TaskFilter(state=State.SUCCEEDED)).rows, key=lambda row: row.waited_s or 0)
    assert (alone.task_id, alone.waited_s, alone.ran_s) == ("at-once", 5, 4)
    assert (scheduled.task_id, scheduled.waited_s, scheduled.ran_s) == ("scheduled", 1.5, 4)
    found = model.task("scheduled", tenant=TENANT)
    assert found is not None
    assert (found.origin.root_id, found.origin.parent_id, found.attempts[0].waited_s) == ("root", "parent", 1.5)
    assert model.task("scheduled", tenant=OTHER) is None


def test_a_tenants_ended_tasks_are_its_own(url: str, model: ReadModel) -> None:
    for number in range(5):
        result(url, f"own-{number}")
        result(url, f"other-{number}", tenant=OTHER)
        attempt(url, f"own-lost-result-{number}", "failed", 2)
        attempt(url, f"other-lost-result-{number}", "failed", 2, tenant=OTHER)
    seen: list[str] = []
    cursor = None
    while True:
        page = model.tasks(TaskFilter(tenant=TENANT), cursor, limit=3)
        seen += [str(row.task_id) for row in page.rows]
        cursor = page.next
        if cursor is None:
            break
    assert sorted(seen) == sorted([f"own-{n}" for n in range(5)] + [f"own-lost-result-{n}" for n in range(5)])


def test_a_failed_task_without_a_result_is_found(url: str, model: ReadModel) -> None:
    attempt(url, "ignored", "retried", 2)
    attempt(url, "ignored", "failed", 4)
    attempt(url, "stored", "failed", 9)
    attempt(url, "lost", "lost", 3, "")
    result(url, "stored", "FAILURE")
    (row, stored) = sorted(model.tasks(TaskFilter(state=State.FAILED)).rows, key=lambda row: str(row.task_id))
    assert (row.task_id, row.error, row.ran_s, stored.task_id) == ("ignored", "ValueError", 3, "stored")
    assert model.tasks(TaskFilter(state=State.FAILED, task="no such")).rows == ()
    found = model.task("ignored")
    assert found is not None
    assert (found.row.state, found.traceback) == (State.FAILED, "Traceback: s3cret")
    assert [one.state for one in found.attempts] == [State.RETRYING, State.FAILED]
    lost = model.task("lost")
    assert lost is not None
    assert [(one.state, one.error) for one in lost.attempts] == [(State.FAILED, "worker lost")]


def test_an_end_that_is_stored_and_remembered_is_one_attempt(url: str, model: ReadModel) -> None:
    attempt(url, "twice", "retried", 3)
    attempt(url, "twice", "failed", 9)
    result(url, "twice", "FAILURE")
    found = model.task("twice")
    assert found is not None
    assert [(one.state, one.ran_s) for one in found.attempts] == [(State.RETRYING, 2), (State.FAILED, 4)]


def test_failures_are_counted_by_task_and_error(url: str, model: ReadModel) -> None:
    for number in range(3):
        attempt(url, f"a-{number}", "failed", 2)
    attempt(url, "a-0", "retried", 1)
    attempt(url, "b", "lost", 1, "", tenant=OTHER)
    attempt(url, "c", "revoked", 1, "expired")
    attempt(url, "d", "failed", 1, "OldError")
    run(url, "UPDATE celery_attempt SET recorded_at = now() - interval '2 hours' WHERE task_id = 'd'")
    most, other = model.failures()
    assert (most.task, most.error, most.failed, most.retried, most.lost) == ("mine.task", "ValueError", 3, 1, 0)
    assert (other.error, other.lost) == ("", 1)
    assert datetime.now(UTC) - most.last_at < timedelta(minutes=5)


def test_absurd_times_hide_no_row(url: str, model: ReadModel) -> None:
    result(url, "absurd", "FAILURE")
    attempt(url, "absurd", "failed", 1)
    run(
        url,
        "UPDATE celery_taskmeta SET published_at = 'infinity', started_at = '-infinity', due_at = '4713-01-01 BC'",
        "UPDATE celery_attempt SET published_at = 'infinity', started_at = '-infinity', ended_at = 'infinity'",
    )
    (row,) = model.tasks(TaskFilter(state=State.FAILED)).rows
    assert (row.waited_s, row.ran_s) == (None, None)
    assert model.task("absurd") is not None


def test_keys_that_their_own_limits_hold_back_are_a_problem(plain_database: Any, model: ReadModel) -> None:
    url = str(plain_database.url)
    run(
        url,
        "INSERT INTO kombu_queue (name, fair) VALUES ('llm', true), ('free', true)",
        "INSERT INTO kombu_limit (queue_id, key, flow_key, max_running, per_second, burst, refuse)"
        " SELECT id, key, CASE WHEN key <> '*' THEN hashtextextended(key, 0) END, max_running, per_second, 1, refuse"
        " FROM kombu_queue, (VALUES ('*', 2, NULL, false), ('rated', NULL, 0.01, false), ('refused', NULL, 0.01, true),"
        " ('none', 0, NULL, false)) AS one (key, max_running, per_second, refuse) WHERE name = 'llm'",
        "INSERT INTO kombu_throttle (queue_id, flow_key, free_at)"
        " SELECT id, hashtextextended(key, 0), now() + interval '1 minute'"
        " FROM kombu_queue, unnest(ARRAY['rated', 'refused']) AS key WHERE name = 'llm'",
    )
    for queue, key, running, waited_s in (
        ("llm", TENANT, 2, 365),
        ("llm", "below", 1, 500),
        ("llm", "young", 2, 200),
        ("llm", "rated", 0, 350),
        ("llm", "refused", 0, 350),
        ("llm", "none", 0, 350),
        ("free", TENANT, 9, 900),
    ):
        tenant = f"'{key}'" if key == TENANT else "NULL"
        run(
            url,
            "INSERT INTO kombu_message (payload, queue_id, tenant_id, flow_key, visible, available_at)"  # noqa: S608
            f" SELECT '{{}}', id, {tenant}::uuid, hashtextextended('{key}', 0), number > {running},"
            f" now() - interval '{waited_s} seconds'"
            f" FROM kombu_queue, generate_series(1, {running} + 3) AS number WHERE name = '{queue}'",
        )
    (problem,) = [one for one in model.problems() if one.rule == "limit"]
    assert problem.sentence.startswith(
        f"Tenant {TENANT} has been at its limit in queue llm: 3 wait, the next for 6 min"
    )
    assert problem.detail == "2 of 2 run. Others go on. Raise its limit, or let it wait. 1 other key waits as well."
    assert (problem.view, problem.subject) == ("limit", "llm")
