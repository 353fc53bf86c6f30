"""What a client learns of a task, through workers of every pool."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import states
from celery.exceptions import TaskRevokedError, TimeoutError

from celery_postgres.errors import UnstorableResultError
from environment.testkit.canvas import answer, drained, ended, stored
from environment.testkit.probe import DEADLINE_S, Probe, before_due, unique
from environment.testkit.tables import rows_of, scalar
from environment.testkit.values import VALUES
from environment.waiting import wait_until


def failure(result: Any) -> Any:
    """The exception with which a task failed."""
    return answer(result, propagate=False)


# -- success


def test_a_result_has_every_documented_attribute(pool: Probe) -> None:
    before = datetime.now(UTC)
    result = pool.send("add", 2, 3)
    assert answer(result) == 5
    assert (result.state, result.status, result.result, result.info) == ("SUCCESS", "SUCCESS", 5, 5)
    assert result.ready()
    assert result.successful()
    assert not result.failed()
    assert result.traceback is None
    done = result.date_done.replace(tzinfo=UTC)
    assert before - timedelta(seconds=1) <= done <= datetime.now(UTC)
    again = pool.app.AsyncResult(result.id)
    assert (again.state, again.result, again.date_done) == ("SUCCESS", 5, result.date_done)


def test_an_unknown_task_is_pending(pool: Probe) -> None:
    result = pool.app.AsyncResult(unique("nobody"))
    assert (result.state, result.result, result.traceback, result.date_done) == ("PENDING", None, None, None)
    assert not result.ready()
    with pytest.raises(TimeoutError):
        result.get(timeout=0.05)


def test_a_running_task_is_not_ready_and_get_times_out(pool: Probe) -> None:
    gate, tag = unique("gate"), unique("slow")
    result = pool.send("run", tag, gate)
    try:
        pool.wait_for("start", tag)
        with pytest.raises(TimeoutError):
            result.get(timeout=0.1)
        assert not result.ready()
    finally:
        pool.open(gate)
    assert answer(result) == tag


def test_get_returns_while_other_tasks_of_the_worker_still_run(pool: Probe) -> None:
    """In threads the other tasks run at the same time; in no pool may a following task delay the result."""
    gate = unique("gate")
    first = pool.send("add", 1, 1)
    held = pool.send("run", unique("held"), gate)
    try:
        assert answer(first) == 2
    finally:
        pool.open(gate)
    answer(held)


@pytest.mark.parametrize("name", VALUES)
def test_a_value_comes_back_as_it_was(pool: Probe, name: str) -> None:
    expected = VALUES[name]()
    value = answer(pool.send("value", name))
    assert value == expected
    assert repr(value) == repr(expected) or name == "collections"


def test_forget_removes_the_row(pool: Probe) -> None:
    result = pool.send("add", 1)
    answer(result)
    result.forget()
    assert stored(pool.url, result.id) is None
    assert pool.app.AsyncResult(result.id).state == "PENDING"


def test_children_are_stored_and_can_be_walked(pool: Probe) -> None:
    result = pool.send("children", 3)
    assert answer(result) == "parent"
    again = pool.app.AsyncResult(result.id)
    assert sorted(answer(child) for child in again.children) == [0, 1, 2]
    assert sorted(value for _, value in again.collect() if value != "parent") == [0, 1, 2]
    assert again.get_leaf() in (0, 1, 2)


def test_a_task_can_wait_for_another_task(pool: Probe) -> None:
    inner = pool.send("add", 20, 3)
    answer(inner)
    assert answer(pool.send("join_inside", inner.id)) == 23


# -- failure


@pytest.mark.parametrize(("kind", "arguments"), [("key", ["a key", 1]), ("value", ["ü", None, [1, {"a": 2.5}]])])
def test_an_exception_keeps_its_type_and_arguments(pool: Probe, kind: str, arguments: list[Any]) -> None:
    result = pool.send("raise_error", *arguments, kwargs={"kind": kind})
    with pytest.raises({"key": KeyError, "value": ValueError}[kind]) as caught:
        answer(result)
    assert list(caught.value.args) == arguments
    assert result.failed()
    assert result.ready()
    assert not result.successful()
    assert "raise_error" in result.traceback
    assert isinstance(result.result, (KeyError, ValueError))


def test_an_exception_unknown_to_the_client_keeps_its_name(pool: Probe) -> None:
    error = failure(pool.send("raise_error", "a", 7))
    assert (type(error).__name__, error.args) == ("ProbeError", ("a", 7))


def test_an_exception_with_an_unstorable_argument_is_stored_as_text(pool: Probe) -> None:
    error = failure(pool.send("raise_opaque"))
    assert type(error).__name__ == "ProbeError"
    assert "Opaque" in error.args[0]
    assert error.args[1] == 5


@pytest.mark.parametrize("which", ["nul", "surrogate", "long"])
def test_unusual_characters_in_an_exception_and_its_traceback(pool: Probe, which: str) -> None:
    result = pool.send("raise_text", which)
    error = failure(result)
    assert type(error).__name__ == "ProbeError"
    assert "ProbeError" in result.traceback
    assert "\x00" not in result.traceback
    if which == "nul":
        assert error.args == ("a\x00b",)
    if which == "long":
        assert error.args == ("x" * 100_000,)


@pytest.mark.parametrize("where", ["alone", "inside", "key", "lambda"])
def test_an_unstorable_value_fails_only_its_own_task(pool: Probe, where: str) -> None:
    before = pool.send("add", 1)
    result = pool.send("opaque", where)
    after = pool.send("add", 2)
    error = failure(result)
    assert type(error) is UnstorableResultError
    assert "s3cret" not in str(error)
    assert any(word in str(error) for word in ("Opaque", "function"))
    assert [answer(before), answer(after)] == [1, 2]
    drained(pool)


@pytest.mark.parametrize("kind", ["endless", "set of records", "record as a key", "generator"])
def test_a_malformed_value_fails_only_its_own_task(pool: Probe, kind: str) -> None:
    value = failure(pool.send("odd", kind))
    assert type(value) is UnstorableResultError
    assert answer(pool.send("add", 2)) == 2
    drained(pool)


def test_a_task_unknown_to_the_worker_fails(pool: Probe) -> None:
    result = pool.app.send_task("nobody.knows.this")
    error = failure(result)
    assert (type(error).__name__, error.args) == ("NotRegistered", ("nobody.knows.this",))
    assert answer(pool.send("add", 1)) == 1


@pytest.mark.parametrize("length", [155, 156, 200, 3000])
def test_a_long_id_works_or_is_a_clear_error(pool: Probe, length: int) -> None:
    task_id = (unique("long-") * length)[:length]
    result = pool.send("add", 1, 2, task_id=task_id)
    if length <= 155:
        assert answer(result) == 3
    else:
        with pytest.raises(UnstorableResultError, match="155"):
            result.get(timeout=DEADLINE_S)
        drained(pool)
    assert answer(pool.send("add", 1)) == 1


# -- on the way


def test_started_is_stored_with_the_worker_and_its_process(pool: Probe) -> None:
    gate, tag = unique("gate"), unique("tracked")
    result = pool.send("tracked", tag, gate)
    try:
        wait_until(lambda: result.state == states.STARTED, DEADLINE_S, "STARTED")
        assert result.info["hostname"] == pool.worker.name
        assert isinstance(result.info["pid"], int)
        assert not result.ready()
        assert pool.app.AsyncResult(result.id).date_done is None
    finally:
        pool.open(gate)
    assert answer(result) == tag


def test_a_custom_state_is_readable_while_the_task_runs(pool: Probe) -> None:
    gate, tag = unique("gate"), unique("progress")
    result = pool.send("progress", tag, gate)
    try:
        wait_until(lambda: result.state == "PROGRESS", DEADLINE_S, "the custom state")
        assert result.info == {"done": 1, "of": 2}
        with pytest.raises(TimeoutError):
            result.get(timeout=0.05)
    finally:
        pool.open(gate)
    assert answer(result) == tag


def test_success_set_by_the_task_itself_does_not_acknowledge_its_message(pool: Probe) -> None:
    gate, tag = unique("gate"), unique("early")
    result = pool.send("progress", tag, gate, "SUCCESS", "ignore")
    try:
        assert answer(result) == {"done": 1, "of": 2}
        pool.wait_for("start", tag)
        live = "SELECT count(*) FROM kombu_message WHERE position(:id IN payload) > 0"
        assert scalar(pool.url, live, id=result.id) == 1
    finally:
        pool.open(gate)
    drained(pool)
    assert result.state == "SUCCESS"


def test_a_retrying_task_has_the_state_retry_and_the_reason(pool: Probe) -> None:
    tag = unique("retry")
    result = pool.send("retry_slowly", tag)
    wait_until(lambda: stored(pool.url, result.id) == "RETRY", DEADLINE_S, "RETRY")
    assert result.state == "RETRY"
    assert not result.ready()
    assert (type(result.info).__name__, result.info.args) == ("ProbeError", (tag, "again"))
    assert "retry_slowly" in result.traceback
    pool.app.control.purge()


def test_a_retried_task_ends(pool: Probe) -> None:
    result = pool.send("again", unique("again"), kwargs={"countdown": 0})
    pool.wait_for("start", "again*", 3)
    wait_until(lambda: stored(pool.url, result.id) == "SUCCESS", DEADLINE_S, "it to end")
    assert answer(result) == 2


def test_a_retry_that_ends_first_keeps_its_state(pool: Probe) -> None:
    """Celery stores RETRY after it has published the retry, which in threads and prefork may already have failed."""
    results = [pool.send("retry_then_fail", unique("again")) for _ in range(20)]
    for result in results:
        assert type(failure(result)).__name__ == "ProbeError"
    answer(pool.send("add", 1))
    drained(pool)
    assert {stored(pool.url, result.id) for result in results} == {"FAILURE"}


def test_a_revoked_task_has_the_state_revoked(pool: Probe) -> None:
    # Held by the database for long enough for the worker to hear of it.
    result = before_due(
        lambda countdown_s: pool.send("run", unique("revoked"), countdown=countdown_s),
        lambda sent: pool.control(pool.worker, "revoke", sent.id),
    )
    with pytest.raises(TaskRevokedError):
        answer(result)
    assert result.state == "REVOKED"
    assert result.failed() is False
    assert result.ready()
    assert result.id not in {note["id"] for note in pool.notes("start")}


# -- what is not stored


@pytest.mark.parametrize("task", ["run_quiet", "run_late_quiet"])
def test_an_ignored_result_is_not_stored(pool: Probe, task: str) -> None:
    tag = unique("quiet")
    result = pool.send(task, tag)
    pool.wait_for("end", tag)
    drained(pool)
    assert stored(pool.url, result.id) is None


def test_store_errors_even_if_ignored_stores_the_error_alone(pool: Probe) -> None:
    tag = unique("quiet")
    result = pool.send("fail_quietly", tag)
    ended(pool.url, result.id)
    assert pool.app.AsyncResult(result.id).result.args == (tag,)


def test_a_task_that_raises_ignore_stores_nothing(pool: Probe) -> None:
    tag = unique("ignored")
    result = pool.send("ignore", tag)
    pool.wait_for("start", tag)
    drained(pool)
    assert stored(pool.url, result.id) is None


# -- many


def test_many_clients_wait_for_many_results(pool: Probe) -> None:
    results = [pool.send("add", number, 1) for number in range(100)]
    found: dict[int, int] = {}

    def wait(number: int) -> None:
        found[number] = answer(results[number])

    threads = [threading.Thread(target=wait, args=[number]) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: number + 1 for number in range(100)}
    assert rows_of(pool.url, "celery") == 0 or drained(pool) is None
    wait_until(
        lambda: (
            scalar(pool.url, "SELECT count(*) FROM celery_waiter WHERE task_id = ANY(:i)", i=[r.id for r in results])
            == 0
        ),
        DEADLINE_S,
        "all registrations to go",
    )
