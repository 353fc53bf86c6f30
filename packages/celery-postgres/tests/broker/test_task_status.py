"""Where a task is: `operations.state`, the command `state`, and the option `waiting_state`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery, group, states

from celery_postgres import operations
from celery_postgres.operations import TaskPhase
from environment.testkit.canvas import answer
from environment.testkit.client import Client
from environment.testkit.probe import DEADLINE_S, Probe, unique
from environment.testkit.queue_tool import Tool
from environment.testkit.tables import run
from environment.waiting import wait_until

SENT = {"result_backend_transport_options": {"waiting_state": "SENT"}}


@pytest.fixture
def ops(probe: Probe) -> Iterator[operations.Operations]:
    with operations.of(probe.app) as found:
        yield found


@pytest.fixture
def make_app(plain_database: Any) -> Iterator[Callable[..., Celery]]:
    """``make_app(**conf)``: an application on the test's database."""
    made: list[Celery] = []

    def make(broker_url: str | None = None, backend_url: str | None = None, *, role: str = "", **conf: Any) -> Celery:
        suffix = f"{'&' if '?' in plain_database.url else '?'}options=-crole%3D{role}" if role else ""
        app = Celery(
            "states",
            broker="sqla+" + (broker_url or plain_database.url),
            backend=backend_url or "db+" + plain_database.url + suffix,
            set_as_current=False,
        )
        app.conf.update(conf)
        made.append(app)
        return app

    yield make
    for app in made:
        app.amqp.producer_pool.force_close_all()
        app.pool.force_close_all()
        app.close()


def phase_of(ops: operations.Operations, task_id: str) -> TaskPhase:
    return ops.state(task_id).phase


# -- operations.state


def test_unknown_scheduled_waiting_and_cancelled(ops: operations.Operations, probe: Probe) -> None:
    assert ops.state("nobody") == operations.TaskStatus("nobody", TaskPhase.UNKNOWN)
    later = probe.send("echo", 1, countdown=3600)
    found = ops.state(later.id)
    assert (found.phase, found.queue, found.state) == (TaskPhase.SCHEDULED, "celery", None)
    assert found.eta is not None
    assert timedelta(minutes=59) < found.eta - datetime.now(UTC) < timedelta(minutes=61)
    now = probe.send("echo", 1)
    found = ops.state(now.id)
    assert (found.phase, found.paused, found.consumed, found.failures) == (TaskPhase.WAITING, False, False, 0)
    assert found.since is not None
    assert abs(found.since - datetime.now(UTC)) < timedelta(minutes=1)
    ops.pause("celery")
    assert ops.state(now.id).paused
    ops.cancel(now.id)
    assert phase_of(ops, now.id) is TaskPhase.REVOKED


@pytest.mark.parametrize(("task", "expected"), [("run_late", TaskPhase.CLAIMED), ("progress", TaskPhase.RUNNING)])
def test_a_task_in_a_worker_and_its_end(
    ops: operations.Operations, probe: Probe, task: str, expected: TaskPhase
) -> None:
    worker = probe.start()
    tag, gate = unique("tag"), unique("gate")
    sent = probe.send(task, tag, gate)
    probe.wait_for("start", tag)
    wait_until(lambda: phase_of(ops, sent.id) is expected, DEADLINE_S, "the task to be seen in the worker")
    found = ops.state(sent.id)
    assert (found.pid, found.queue) == (worker.pid, "celery")
    assert found.hostname
    assert found.state == ("PROGRESS" if task == "progress" else None)
    assert found.consumer in [one.id for one in ops.consumers()]
    probe.open(gate)
    answer(sent)
    found = ops.state(sent.id)
    assert (found.phase, found.state, found.consumer) == (TaskPhase.FINISHED, "SUCCESS", None)
    assert found.since is not None


def test_between_an_early_ack_and_the_result_only_a_tracked_start_is_known(
    ops: operations.Operations, probe: Probe
) -> None:
    probe.start(pool="threads", conf={"worker_prefetch_multiplier": 1})
    gate, tags = unique("gate"), [unique("tag"), unique("tag")]
    untracked, tracked = probe.send("run", tags[0], gate), probe.send("tracked", tags[1], gate)
    probe.wait_for_all("start", tags)
    wait_until(lambda: phase_of(ops, untracked.id) is TaskPhase.UNKNOWN, DEADLINE_S, "the acknowledgement")
    wait_until(lambda: ops.messages_of(tracked.id) == [], DEADLINE_S, "the other acknowledgement")
    # The acknowledgement and the start are two writes.
    wait_until(lambda: phase_of(ops, tracked.id) is TaskPhase.RUNNING, DEADLINE_S, "the start")
    assert ops.state(tracked.id).state == "STARTED"
    assert phase_of(ops, untracked.id) is TaskPhase.UNKNOWN
    probe.open(gate)
    answer(untracked)
    answer(tracked)


def test_a_dead_letter_has_its_reason_until_it_is_requeued(
    ops: operations.Operations, connect: Callable[..., Client], probe: Probe
) -> None:
    client = connect(probe.url)
    client.publish("x", "q", headers={"id": "dead", "task": "t"})
    inbox = client.consume("q")
    inbox.take()[0].reject(requeue=False)
    inbox.close()
    wait_until(lambda: phase_of(ops, "dead") is TaskPhase.DEAD_LETTERED, DEADLINE_S, "the dead letter")
    found = ops.state("dead")
    (letter,) = ops.dead_letters()
    assert (found.reason, found.queue, found.dead_letter) == ("rejected", "q", letter.id)
    ops.requeue([letter.id])
    assert phase_of(ops, "dead") is TaskPhase.WAITING


def test_a_start_of_a_killed_run_is_not_taken_for_the_next_run(ops: operations.Operations, probe: Probe) -> None:
    """The next worker has claimed the message, and not begun."""
    sent = probe.send("echo", 1)
    probe.app.backend.store_result(sent.id, None, states.STARTED)
    assert phase_of(ops, sent.id) is TaskPhase.WAITING
    claimed = "visible = false, consumer_id = 0, failures = 1, claimed_at = now() + interval '1 hour'"
    run(probe.url, f"UPDATE kombu_message SET {claimed}")  # noqa: S608
    assert phase_of(ops, sent.id) is TaskPhase.CLAIMED
    run(probe.url, "UPDATE kombu_message SET claimed_at = now() - interval '1 hour'")
    assert phase_of(ops, sent.id) is TaskPhase.RUNNING


def test_a_time_that_python_cannot_hold_is_left_out(ops: operations.Operations, probe: Probe) -> None:
    probe.app.backend.store_result("absurd", 1, states.SUCCESS)
    run(probe.url, "UPDATE celery_taskmeta SET date_done = 'infinity'")
    assert ops.state("absurd") == operations.TaskStatus("absurd", TaskPhase.FINISHED, "SUCCESS")


def test_results_in_another_database_are_asked_for(
    probe: Probe, fresh: Any, plain_template: str, make_app: Callable[..., Celery]
) -> None:
    with fresh(plain_template) as other:
        app = make_app(probe.url, "db+" + other.url)
        sent = app.send_task("probe.echo", [1])
        with operations.of(app) as ops:
            assert phase_of(ops, sent.id) is TaskPhase.WAITING
            app.backend.store_result(sent.id, 1, states.SUCCESS)
            found = ops.state(sent.id)
        assert (found.phase, found.state) == (TaskPhase.FINISHED, "SUCCESS")
        assert found.since is not None
        with operations.connect(probe.url) as ops:
            assert phase_of(ops, sent.id) is TaskPhase.WAITING
        app.close()


def test_a_task_is_unknown_before_its_transaction_commits(
    ops: operations.Operations, probe: Probe, make_app: Callable[..., Celery]
) -> None:
    import psycopg2

    from celery_postgres import publishing_on

    app = make_app()
    connection = psycopg2.connect(probe.url)
    try:
        with publishing_on(connection):
            sent = app.send_task("probe.echo", [1])
        assert phase_of(ops, sent.id) is TaskPhase.UNKNOWN
        connection.commit()
        assert phase_of(ops, sent.id) is TaskPhase.WAITING
    finally:
        connection.close()


def test_the_command_prints_it(tool: Tool, probe: Probe) -> None:
    sent = probe.send("echo", 1, countdown=3600)
    printed = tool("state", sent.id)
    assert (printed["phase"], printed["queue"]) == ("scheduled", "celery")
    assert tool("state", "nobody")["phase"] == "unknown"


# -- waiting_state


def test_a_waiting_task_has_the_own_state_and_an_unknown_one_stays_pending(
    probe: Probe, make_app: Callable[..., Celery]
) -> None:
    app = make_app(**SENT)
    sent = app.send_task("probe.echo", [1])
    later = app.send_task("probe.echo", [1], countdown=3600)
    assert (sent.state, sent.status, later.state) == ("SENT", "SENT", "SENT")
    assert app.AsyncResult("nobody").state == states.PENDING
    assert (sent.ready(), sent.successful(), sent.failed(), sent.result, sent.traceback) == (
        False, False, False, None, None,
    )  # fmt: skip
    with pytest.raises(app.backend.TimeoutError):
        sent.get(timeout=0)
    run(probe.url, "UPDATE kombu_message SET visible = false, consumer_id = 0")
    assert sent.state == states.RECEIVED
    assert not sent.ready()
    both = app.GroupResult("g", [sent, later])
    assert (both.waiting(), both.ready(), both.completed_count(), both.failed()) == (True, False, 0, False)
    sent.forget()
    assert app.AsyncResult(sent.id).state == states.RECEIVED


def test_a_task_goes_from_the_own_state_to_its_result(probe: Probe, make_app: Callable[..., Celery]) -> None:
    app = make_app(**SENT)
    tag, gate = unique("tag"), unique("gate")
    sent = app.send_task("probe.run_late", [tag, gate])
    assert sent.state == "SENT"
    probe.start(conf=SENT)
    probe.wait_for("start", tag)
    assert sent.state == states.RECEIVED
    probe.open(gate)
    assert answer(sent) == tag
    assert (sent.state, sent.ready()) == (states.SUCCESS, True)
    total = group(app.signature("probe.add", [n, n]) for n in range(3)) | app.signature("probe.total")
    assert total.apply_async().get(timeout=DEADLINE_S) == 6


def test_of_a_task_that_ends_either_the_message_or_the_result_is_seen(
    probe: Probe, make_app: Callable[..., Celery]
) -> None:
    app = make_app(**SENT)
    probe.start(pool="threads")
    sent = [app.send_task("probe.run_late", [unique("tag")]) for _ in range(30)]
    seen: set[str] = set()
    while not all(one.ready() for one in sent):
        seen |= {one.state for one in sent}
    assert seen <= {"SENT", states.RECEIVED, states.SUCCESS}


def test_without_a_broker_in_the_same_database_one_warning_says_so(
    probe: Probe,
    fresh: Any,
    plain_template: str,
    make_app: Callable[..., Celery],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with fresh(plain_template) as other, caplog.at_level(logging.WARNING, logger="celery_postgres"):
        app = make_app(probe.url, "db+" + other.url, **SENT)
        sent = app.send_task("probe.echo", [1])
        assert [sent.state, sent.state] == [states.PENDING] * 2
        app.close()
    (line,) = [one.getMessage() for one in caplog.records if "waiting_state" in one.getMessage()]
    assert line.endswith("the broker is not this package's, or not in the database of the results")


def test_a_role_that_may_not_read_messages_reads_results_and_one_warning_says_so(
    plain_database: Any, make_app: Callable[..., Celery], caplog: pytest.LogCaptureFixture
) -> None:
    if plain_database.superuser_url is None:
        pytest.skip("the server of DATABASE_URL is not ours: no role can be made")
    role = unique("role").replace("-", "_")
    run(
        plain_database.superuser_url,
        f"CREATE ROLE {role}",
        f"GRANT {role} TO app_user",
        f"GRANT SELECT ON celery_taskmeta TO {role}",
    )
    try:
        with caplog.at_level(logging.WARNING, logger="celery_postgres"):
            app = make_app(role=role, **SENT)
            sent = app.send_task("probe.echo", [1])
            assert [sent.state, sent.state] == [states.PENDING] * 2
            app.amqp.producer_pool.force_close_all()
        (line,) = [one.getMessage() for one in caplog.records if "waiting_state" in one.getMessage()]
        assert "may not do what the statement result_or_message needs" in line
    finally:
        run(plain_database.superuser_url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")
